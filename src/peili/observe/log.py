"""Structured logs: one JSON object a line on standard error, or coloured lines on a terminal."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO, cast

import structlog

from peili.observe.log_lines import LogLines
from peili.registry.record import Handler, Outcome, RequestRecord

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure_logging(level: str) -> None:
    """Set structlog up for the whole process; `level` is debug, info, warning or error."""
    terminal = sys.stderr.isatty()
    lines = cast(TextIO, LogLines(sys.stderr.fileno()))
    logging.basicConfig(stream=lines, level=logging.WARNING)
    renderer: Any = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if terminal
        else structlog.processors.JSONRenderer()
    )
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        renderer,
    ]
    if not terminal:
        processors.insert(2, structlog.processors.format_exc_info)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(lines),
        cache_logger_on_first_use=True,
    )


def log_request(logger: Any, record: RequestRecord) -> None:
    """The one line of a request: what was asked, what was answered, where it came from, how long it took."""
    write = logger.info
    if record.handler is Handler.BASE:
        write = logger.debug
    elif record.outcome in (Outcome.TRUNCATED, Outcome.ERROR):
        write = logger.warning
    fields: dict[str, object] = {
        "handler": str(record.handler),
        "method": record.method,
        "kind": record.kind,
        "status": record.status,
        "outcome": str(record.outcome),
        "source": str(record.source),
        "registry": record.registry,
        "repository": record.repository,
        "name": record.name,
        "bytes": record.size,
        "client": record.client,
        "providers": list(record.providers),
        "attempts": record.attempts,
        "resumes": record.resumes,
        "reason": record.reason,
        "resolve_ms": round(record.resolve_seconds * 1000, 2),
        "first_byte_ms": round(record.first_byte_seconds * 1000, 2),
        "total_ms": round(record.seconds * 1000, 2),
    }
    write("request", **{name: value for name, value in fields.items() if value not in ("", [], None)})
