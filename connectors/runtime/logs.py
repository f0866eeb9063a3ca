"""Loggers that cost nothing until something is logged: structlog is imported with the first one."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import uuid4

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, Processor

__all__ = ["LOG_JSON", "RUN_ID", "configure_logs", "configure_with", "get_logger", "run_id_of"]

_lock: Final = threading.Lock()
_pending: Final[list[Callable[[], object]]] = []


def configure_with(configure: Callable[[], object]) -> None:
    """Have `configure` called, once, before the next logger is given out: it sets structlog up.

    Without it structlog is as the program has configured it, or as it comes.
    """
    with _lock:
        _pending[:] = [configure]


def get_logger(name: str) -> FilteringBoundLogger:
    """Structlog's logger of this name. To be called where something is logged, by any thread: it imports structlog."""
    import structlog

    with _lock:
        while _pending:
            _pending.pop()()
    return cast("FilteringBoundLogger", structlog.get_logger(name))


RUN_ID: Final = "VOICEWATCH_RUN_ID"
"""The environment variable that tells the processes of a cluster which run they are part of."""

LOG_JSON: Final = "VOICEWATCH_LOG_JSON"
"""The environment variable that tells the processes of a cluster to log JSON lines."""


def run_id_of(environ: MutableMapping[str, str]) -> str:
    """Return the id of this run, 12 hexadecimal digits; a new one is put into `environ` for child processes."""
    return environ.setdefault(RUN_ID, uuid4().hex[:12])


def configure_logs(*, as_json: bool, run_id: str | None = None) -> None:
    """Send all log events to standard error, coloured on a terminal without NO_COLOR. JSON lines carry the `run_id`.

    That is done with the first event: a command that logs nothing does not wait for the import of structlog.
    """
    configure_with(partial(_configure, as_json=as_json, run_id=run_id))


def _configure(*, as_json: bool, run_id: str | None) -> None:
    import logging

    import structlog

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[Processor]
    if as_json:
        told = {} if run_id is None else {"run_id": run_id}
        rendering = [partial(_add, told), structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # Plain tracebacks: with Rich installed the default ones show local variables, tokens and bodies among them.
        plain = structlog.dev.plain_traceback
        colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        rendering = [structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        # One write for a line and its end, so that lines of several processes do not mix.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _add(fields: dict[str, str], _logger: Any, _method: str, event: EventDict) -> EventDict:
    return {**event, **fields}
