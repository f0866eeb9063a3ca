"""An emulated Genesys that dials an AudioHook server: made-up calls, for demonstrations and tests.

with calling("ws://127.0.0.1:8080/audiohook", key, secret, seed=1, conversations=5) as ids:
...                     # the calls with these conversation ids are on, and others follow them
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import secrets
import signal
import socket
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from connectors.errors import UsageError
from connectors.genesys.feeds.audiohook.signature import UpgradeRequest, sign
from connectors.genesys.simulator.caller import Caller, CallPlan, plan_call
from connectors.runtime.logs import get_logger

__all__ = [
    "SECRETS_VARIABLE",
    "Outcome",
    "call_until_stopped",
    "calling",
    "dial",
    "first_key",
    "in_background",
    "unused_port",
    "upgrade",
]


SECRETS_VARIABLE: Final = "VOICEWATCH_AUDIOHOOK_SECRETS"  # the name of the variable
REDIAL_S: Final = 0.2
_ENTRY: Final = re.compile(r"([A-Za-z0-9+/_-]+={0,2}?)=([A-Za-z0-9+/]+={0,2}|)")


class Outcome(NamedTuple):
    """How a call went: the status of the upgrade, whether it closed in order, and what both sides complained of."""

    status: int
    closed: bool
    disconnects: tuple[tuple[str, str], ...] = ()
    errors: tuple[tuple[int, str], ...] = ()
    close_code: int | None = None


def first_key(environ: Mapping[str, str]) -> tuple[str, bytes | None]:
    """The first API key of the environment and its secret, None for unsigned calls. Raises UsageError."""
    entry = environ.get(SECRETS_VARIABLE, "").partition(",")[0].strip()
    found = _ENTRY.fullmatch(entry)
    if found is None:
        raise UsageError(f'set {SECRETS_VARIABLE} to "key=base64secret", or "key=" to call without a signature')
    return found[1], b64decode(found[2]) or None


def upgrade(url: str, plan: CallPlan, key: str, secret: bytes | None, *, created: float, nonce: str) -> dict[str, str]:
    """The header fields of the upgrade that begins a call, signed if there is a secret."""
    headers = {
        "Audiohook-Organization-Id": plan.organization_id,
        "Audiohook-Session-Id": plan.session_id,
        "Audiohook-Correlation-Id": plan.correlation_id,
        "Audiohook-Retry-Attempt": "0",
        "X-API-KEY": key,
    }
    if secret is None:
        return headers
    parts = urlsplit(url)
    target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    signed = {name.lower(): value for name, value in headers.items()} | {"host": parts.netloc}
    at = int(created)
    request = UpgradeRequest(target, signed)
    return headers | sign(request, key=key, secret=secret, nonce=nonce, created=at, expires=at + 30)


async def dial(
    url: str,
    plan: CallPlan,
    key: str,
    secret: bytes | None,
    *,
    stop: asyncio.Event | None = None,
    nonce: str | None = None,
    now: Callable[[], float] = time.time,
) -> Outcome:
    """Make one call; it is closed in order when `stop` is set. Raises OSError if nobody answers."""
    headers = upgrade(url, plan, key, secret, created=now(), nonce=nonce or secrets.token_urlsafe(18))
    try:
        connection = await connect(
            url, additional_headers=headers, compression=None, ping_interval=None, close_timeout=5.0, proxy=None
        )
    except InvalidStatus as refused:
        return Outcome(refused.response.status_code, closed=False)
    caller = Caller(plan, asyncio.get_running_loop().time())
    try:
        await _converse(connection, caller, stop or asyncio.Event())
    except ConnectionClosed:
        pass
    finally:
        if caller.hung_up:
            connection.transport.abort()
        await connection.close()
    return Outcome(101, caller.closed, tuple(caller.disconnects), tuple(caller.errors), connection.close_code)


async def _converse(connection: ClientConnection, caller: Caller, stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    while not (caller.finished or caller.hung_up):
        now = loop.time()
        if stop.is_set():
            caller.close("end", now)
        caller.poll(now)
        for message in caller.to_send():
            await connection.send(message)
        if not (caller.finished or caller.hung_up):
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(caller.due, now + 1.0)):
                    caller.receive(await connection.recv(), loop.time())


async def _slot(url: str, key: str, secret: bytes | None, seed: int, slot: int, stop: asyncio.Event) -> None:
    """One call after the other, until stopped; a server that is not there is dialled again."""
    chance = random.Random(f"{seed}/{slot}/pauses")  # noqa: S311 - made-up calls, no secrets
    call = 0
    while not stop.is_set():
        pause_s = REDIAL_S
        try:
            outcome = await dial(url, plan_call(seed, slot, call), key, secret, stop=stop)
        except (OSError, WebSocketException) as error:
            get_logger(__name__).debug("audiohook_not_answered", url=url, error=str(error))
        else:
            get_logger(__name__).info("audiohook_call_over", slot=slot, call=call, **outcome._asdict())
            if outcome.status == 101:
                call += 1
                pause_s = 2 + 6 * chance.random()
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause_s)


async def _call(url: str, key: str, secret: bytes | None, seed: int, conversations: int, stop: asyncio.Event) -> None:
    await asyncio.gather(*(_slot(url, key, secret, seed, slot, stop) for slot in range(conversations)))


def call_until_stopped(url: str, key: str, secret: bytes | None, *, seed: int, conversations: int) -> None:
    """Keep so many calls on until SIGINT or SIGTERM; prints what is called, as one JSON line, when it begins."""

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        print(json.dumps({"url": url, "conversations": _ids(seed, conversations)}), flush=True)
        await _call(url, key, secret, seed, conversations, stop)

    if urlsplit(url).scheme not in ("ws", "wss") or not urlsplit(url).hostname:
        raise UsageError(f"--url {url}: must be like ws://127.0.0.1:8443/audiohook")
    asyncio.run(main())


@contextmanager
def calling(url: str, key: str, secret: bytes | None, *, seed: int, conversations: int) -> Iterator[list[str]]:
    """Keep so many calls on, from a daemon thread; yields the ids of the first conversations."""
    with in_background(lambda stop: _call(url, key, secret, seed, conversations, stop)):
        yield _ids(seed, conversations)


@contextmanager
def in_background(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> Iterator[None]:
    """Run something in an event loop of its own; at the end its event is set, and it is waited for."""
    began = threading.Event()
    stopping: list[Callable[[], object]] = []

    async def main() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        stopping.append(lambda: loop.call_soon_threadsafe(stop.set))
        began.set()
        await work(stop)

    thread = threading.Thread(target=asyncio.run, args=(main(),), name="callers", daemon=True)
    thread.start()
    began.wait()
    try:
        yield
    finally:
        with suppress(RuntimeError):  # it is over by itself
            stopping[0]()
        thread.join(10)


def unused_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _ids(seed: int, conversations: int) -> list[str]:
    return [plan_call(seed, slot).conversation_id for slot in range(conversations)]
