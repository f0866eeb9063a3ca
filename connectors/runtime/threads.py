"""Threads beside event loops, and event loops in threads."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from connectors.runtime.logs import get_logger

__all__ = ["FeedThread", "Periodic", "in_daemon_thread", "relayed"]

T = TypeVar("T")


class FeedThread:
    """The thread of a feed, with its own event loop, and the stop request of the feed.

    `run` is called in it with the runner of the loop; what it raises is the feed's `failure`. At a stop, `stopping` is
    set, `reason` says why, and `interrupt` is called in the loop. `new_loop` makes the loop, None for asyncio's own.
    """

    def __init__(
        self,
        feed: str,
        run: Callable[[asyncio.Runner], None],
        interrupt: Callable[[], object],
        new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        self._feed = feed
        self._run = run
        self._interrupt = interrupt
        self._new_loop = new_loop
        self._thread = threading.Thread(target=self._live, name=f"feed-{feed}", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.stopping = threading.Event()
        self.reason = "stopped"
        self.failure: Exception | None = None

    def start(self) -> None:
        """Start the thread; it starts once."""
        self._thread.start()

    def interrupt(self, reason: str) -> None:
        """Tell the feed to stop, once; also before it has started."""
        if self.stopping.is_set():
            return
        self.reason = reason
        self.stopping.set()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the thread is ending by itself
                self._loop.call_soon_threadsafe(self._interrupt)

    def join(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for the thread, if it was started."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                get_logger(__name__).warning("feed_slow_to_stop", feed=self._feed, waited_s=timeout_s)

    def _live(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._new_loop) as runner:
                self._loop = runner.get_loop()
                self._run(runner)
        except Exception as error:
            self.failure = error
            get_logger(__name__).exception("feed_failed", feed=self._feed)


class Periodic:
    """Do some work every `every_s` seconds in a daemon thread, until stopped. An exception ends it: see `failure`."""

    def __init__(self, name: str, every_s: float, work: Callable[[], None]) -> None:
        self._every_s = every_s
        self._work = work
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.failure: Exception | None = None
        self.start = self._thread.start

    def stop(self) -> None:
        """Stop after the work at hand. Harmless before the start."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopped.wait(self._every_s):
                self._work()
        except Exception as error:
            self.failure = error


async def in_daemon_thread(work: Callable[[], T], *, name: str) -> T:
    """Do work in a dedicated daemon thread, and return or raise what it does.

    Unlike those of `asyncio.to_thread`, the thread does not keep the process alive. A result that is no longer awaited
    is discarded.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Callable[[], T]] = loop.create_future()

    def settle(outcome: Callable[[], T]) -> None:
        if not done.done():
            done.set_result(outcome)

    def run() -> None:
        try:
            result = work()
        except Exception as error:
            failure = error

            def outcome() -> T:
                raise failure
        else:

            def outcome() -> T:
                return result

        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, name=name, daemon=True).start()
    return (await done)()


def relayed(loop: asyncio.AbstractEventLoop, work: Callable[[], object]) -> Callable[[], None]:
    """Return a function for any thread that has `loop` do some work; it does nothing once the loop is closed."""

    def call() -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(work)

    return call
