"""How options look on the command line: parameter types that say what is allowed, each with its variable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import click

from peili.routing.bootstrap import InvalidBootstrap
from peili.settings import InvalidSetting, read_credentials

_T = TypeVar("_T")
_SEPARATED = "Several in the variable are separated by spaces, not commas."


class Parsed(click.ParamType[_T], Generic[_T]):
    """A parameter type made of one of our parsers; its error becomes click's, with the setting's name."""

    def __init__(self, name: str, parser: Callable[[str], _T]) -> None:
        self.name = name
        self._parser = parser

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> _T:
        """Parse text; pass what is parsed already (a default value)."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        try:
            return self._parser(value)
        except (InvalidSetting, InvalidBootstrap) as error:
            self.fail(f"{value!r}: {error}", param, ctx)


CREDENTIALS = Parsed("PATH", lambda text: read_credentials(Path(text)))


def option(flag: str, *name: str, **attributes: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option with its environment variable: `--stall-timeout` is PEILI_STALL_TIMEOUT.

    The values of a repeatable option are separated by white space in the variable, and its help says so.
    """
    variable = flag.partition("/")[0].removeprefix("--").replace("-", "_").upper()
    attributes.setdefault("show_default", True)
    if attributes.get("multiple"):
        attributes["help"] = f"{attributes['help']} {_SEPARATED}"
    return click.option(flag, *name, envvar=f"PEILI_{variable}", show_envvar=True, **attributes)
