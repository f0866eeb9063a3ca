"""Logs: structlog to standard error, for people on a terminal, else as lines of keys and values, or as JSON."""

from __future__ import annotations

import logging
import sys
from typing import Final

import structlog
from structlog.types import Processor

__all__ = ["LOG_JSON", "configure_logs"]

LOG_JSON: Final = "VOICEWATCH_LOG_JSON"
"""The environment variable that tells the processes of a cluster to log JSON lines."""


def configure_logs(*, as_json: bool) -> None:
    """Send all log events to standard error; colours only on a terminal."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[Processor]
    if as_json:
        rendering = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # Plain tracebacks: with Rich installed the default ones show local variables, tokens and bodies among them.
        plain = structlog.dev.plain_traceback
        rendering = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
