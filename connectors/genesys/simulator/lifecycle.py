"""Run a simulator: in the foreground until a signal, or in a background thread."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final

__all__ = ["Work", "in_background", "until_signal"]

_JOIN_S: Final = 10.0

Work = Callable[[asyncio.Event, Callable[[], None]], Coroutine[Any, Any, None]]
"""What a simulator does until the event is set; it calls the function once it is ready."""


def until_signal(work: Work, ready: Callable[[], None]) -> None:
    """Run `work` until SIGINT or SIGTERM, in the main thread of a process."""

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await work(stop, ready)

    asyncio.run(main())


@contextmanager
def in_background(work: Work) -> Iterator[None]:
    """Run `work` in the event loop of a daemon thread; the block begins when it is ready, and stops it at its end.

    Raises what `work` raises.
    """
    ready: Future[Callable[[], object]] = Future()
    ended: Future[None] = Future()

    async def main() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        await work(stop, lambda: ready.set_result(lambda: loop.call_soon_threadsafe(stop.set)))

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            (ended if ready.done() else ready).set_exception(error)
        else:
            ended.set_result(None)

    thread = threading.Thread(target=run, name="simulator", daemon=True)
    thread.start()
    request_stop = ready.result()
    try:
        yield
    finally:
        if not ended.done():
            request_stop()
        thread.join(_JOIN_S)
        ended.result(timeout=0)
