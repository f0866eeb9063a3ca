"""Show on standard error how far a command is, if that is a terminal: a bar with its rate and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["progress_bar"]

# What takes less time needs no bar, and no import of what draws it.
PATIENCE_S: Final = 0.7
EVERY_S: Final = 0.5


@contextmanager
def progress_bar(
    what: str, now: Callable[[], float] = time.monotonic, patience_s: float = PATIENCE_S
) -> Iterator[Callable[[int, int], None]]:
    """Provide a function that takes how many bytes of how many are done.

    Outside a terminal it does nothing. Drawing is left to the caller's thread, twice a second at most, so that no
    other thread competes with the work.
    """
    if not sys.stderr.isatty():
        yield _show_nothing
        return
    bar: Progress | None = None
    due = now() + patience_s

    def show(done: int, total: int) -> None:
        nonlocal bar, due
        if now() < due:
            return
        if bar is None:
            bar = _bar()
            bar.add_task(what, total=total)
            bar.start()
        bar.update(bar.task_ids[0], completed=done, total=total)
        bar.refresh()
        due = now() + EVERY_S

    try:
        yield show
    finally:
        if bar is not None:
            bar.stop()


def _show_nothing(_done: int, _total: int) -> None:
    """Take what is done, where there is no terminal."""


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        expand=True,
    )
