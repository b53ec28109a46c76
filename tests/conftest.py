"""For all tests: whole nodes that run in this process do not log into what other tests capture."""

from __future__ import annotations

import structlog

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
