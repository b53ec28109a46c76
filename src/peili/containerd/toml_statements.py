"""TOML as a row of statements, so that a file can be edited without touching the rest of it (TOML 1.0.0).

A library that parses and writes TOML again moves what it did not need to touch; here every byte belongs to exactly
one statement, and an edit leaves out or adds whole statements. The text must be valid TOML (ask tomllib first).
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from datetime import date, time
from enum import Enum

# A key or a value nested deeper than this is no configuration; it also keeps the recursion of writing short.
MAXIMUM_DEPTH = 40
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_ESCAPES = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


class Kind(Enum):
    """What a statement is."""

    BLANK = "blank"
    COMMENT = "comment"
    HEADER = "header"
    PAIR = "pair"


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: its whole text with the line's end, and where its key lies.

    `section` is the path of the table that it stands in (of a header: the table that it opens), `key` a pair's
    own path within that. `comment` is what follows a pair on its line, from the `#` on.
    """

    kind: Kind
    text: str
    section: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    comment: str = ""


class NotScannable(ValueError):
    """The text is not what this scanner takes for TOML."""


def scan(text: str) -> list[Statement]:
    """All statements of a valid TOML text in order; their texts joined are the text. Raise NotScannable."""
    statements: list[Statement] = []
    section: tuple[str, ...] = ()
    position = 0
    while position < len(text):
        statement, position = _statement(text, position, section)
        section = statement.section
        statements.append(statement)
    return statements


def _statement(text: str, start: int, section: tuple[str, ...]) -> tuple[Statement, int]:
    first = start
    while text[first : first + 1] in {" ", "\t"}:
        first += 1
    letter = text[first : first + 1]
    if letter in {"", "\n", "\r"}:
        end = _line_end(text, first)
        return Statement(Kind.BLANK, text[start:end], section), end
    if letter == "#":
        end = _line_end(text, first)
        return Statement(Kind.COMMENT, text[start:end], section), end
    if letter == "[":
        opening = 2 if text.startswith("[[", first) else 1
        closing = _find(text, first + opening, "]")
        end = _line_end(text, closing)
        return Statement(Kind.HEADER, text[start:end], key_path(text[first + opening : closing])), end
    equals = _find(text, first, "=")
    end, comment = _value_end(text, equals + 1)
    return Statement(Kind.PAIR, text[start:end], section, key_path(text[first:equals]), comment), end


def key_path(text: str) -> tuple[str, ...]:
    """The parts of a dotted key as written; raise NotScannable."""
    try:
        value: object = tomllib.loads(f"{text.strip()} = 0")
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise NotScannable(f"not a key: {text[:80]!r}") from error
    path: list[str] = []
    while isinstance(value, dict) and len(value) == 1:
        part, value = next(iter(value.items()))
        path.append(part)
    return tuple(path)


def _line_end(text: str, position: int) -> int:
    newline = text.find("\n", position)
    return len(text) if newline < 0 else newline + 1


def _find(text: str, position: int, wanted: str) -> int:
    """The first `wanted` outside of quotes, on this line."""
    while position < len(text) and text[position] != "\n":
        letter = text[position]
        if letter == wanted:
            return position
        position = _string_end(text, position) if letter in {'"', "'"} else position + 1
    raise NotScannable(f"a line without {wanted!r}")


def _string_end(text: str, start: int) -> int:
    """Where the string that begins at `start` ends (TOML 1.0.0, section String)."""
    quote = text[start]
    if text.startswith(quote * 3, start):
        position = start + 3
        while not text.startswith(quote * 3, position):
            if position >= len(text):
                raise NotScannable("a string without an end")
            position += 2 if text[position] == "\\" and quote == '"' else 1
        position += 3
        # One or two quotes may stand directly before the closing three.
        for _ in range(2):
            position += 1 if text.startswith(quote, position) else 0
        return position
    position = start + 1
    while position < len(text) and text[position] != "\n":
        if text[position] == quote:
            return position + 1
        position += 2 if text[position] == "\\" and quote == '"' else 1
    raise NotScannable("a string without an end")


def _value_end(text: str, position: int) -> tuple[int, str]:
    """Where a value's last line ends, and the comment on that line."""
    depth = 0
    while position < len(text):
        letter = text[position]
        if letter == "\n" and depth == 0:
            return position + 1, ""
        if letter == "#":
            end = _line_end(text, position)
            if depth == 0:
                return end, text[position:end].rstrip()
            position = end
        elif letter in {'"', "'"}:
            position = _string_end(text, position)
        else:
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(letter, 0)
            position += 1
    return len(text), ""


def write_string(text: str) -> str:
    """A basic string (TOML 1.0.0, section String)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_CONTROL.sub(_escape, escaped)}"'


def _escape(found: re.Match[str]) -> str:
    return _ESCAPES.get(found[0]) or f"\\u{ord(found[0]):04x}"


def write_key(path: tuple[str, ...]) -> str:
    """A dotted key, quoted where it must be."""
    return ".".join(part if _BARE_KEY.fullmatch(part) else write_string(part) for part in path)


def write_value(value: object, depth: int = 0) -> str:
    """A value as tomllib gives it, on one line; raise NotScannable on what is nested too deeply or no TOML."""
    if depth > MAXIMUM_DEPTH:
        raise NotScannable(f"a value is nested more than {MAXIMUM_DEPTH} levels deep")
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return write_string(value)
        case int() | float():
            return repr(value)
        case list():
            return f"[{', '.join(write_value(item, depth + 1) for item in value)}]"
        case dict():
            pairs = ", ".join(
                f"{write_key((key,))} = {write_value(item, depth + 1)}" for key, item in value.items()
            )
            return f"{{{pairs}}}"
        case date() | time():
            return value.isoformat()
    raise NotScannable(f"not a TOML value: {type(value).__name__}")
