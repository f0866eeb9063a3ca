"""Loggers that cost nothing until something is logged: structlog is imported with the first one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

__all__ = ["configure_with", "get_logger"]

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
