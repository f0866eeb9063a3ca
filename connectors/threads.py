"""Blocking work beside an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["in_daemon_thread"]

T = TypeVar("T")


async def in_daemon_thread(work: Callable[[], T], *, name: str) -> T:
    """Do work in a thread of its own, and return or raise what it does.

    Unlike those of `asyncio.to_thread`, the thread does not keep the process alive: when nobody waits for the result
    any longer, it goes to nobody.
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
