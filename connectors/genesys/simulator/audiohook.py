"""A simulated Genesys that connects to an AudioHook server: generated calls, for demonstrations and tests.

with calling("ws://127.0.0.1:8080/audiohook", key, secret, seed=1, conversations=5) as ids:
...                     # the calls with these conversation ids are in progress, and others follow them
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from connectors.errors import UsageError
from connectors.genesys.feeds.audiohook.api_keys import SECRETS_VARIABLE, parse_secrets
from connectors.genesys.feeds.audiohook.signature import UpgradeRequest, sign
from connectors.genesys.simulator.audio import CHANNELS, Span
from connectors.genesys.simulator.caller import Caller, CallPlan, Spell, plan_call
from connectors.genesys.simulator.caller import Fault as CallFault
from connectors.genesys.simulator.faults import Faults, Impairment
from connectors.genesys.simulator.lifecycle import in_background, until_signal
from connectors.genesys.simulator.traffic import Traffic
from connectors.runtime.logs import get_logger

__all__ = ["CallResult", "call_until_stopped", "calling", "dial", "first_key", "impair", "upgrade"]

REDIAL_S: Final = 0.2
_ANSWERED_S: Final = 6.0  # by then an agent talks, who gives the call its labels


class CallResult(NamedTuple):
    """How a call went: the status of the upgrade, whether it closed in order, and the errors of both sides."""

    status: int
    closed: bool
    disconnects: tuple[tuple[str, str], ...] = ()
    errors: tuple[tuple[int, str], ...] = ()
    close_code: int | None = None


def first_key(environ: Mapping[str, str]) -> tuple[str, bytes | None]:
    """Return the first API key of the environment and its secret, None for unsigned calls. Raises UsageError."""
    found, mistakes = parse_secrets(environ.get(SECRETS_VARIABLE, "").partition(",")[0])
    if mistakes or not found:
        raise UsageError(f'set {SECRETS_VARIABLE} to "key=base64secret", or "key=" to call without a signature')
    return next(iter(found.items()))


def upgrade(url: str, plan: CallPlan, key: str, secret: bytes | None, *, created: float, nonce: str) -> dict[str, str]:
    """Build the header fields of the upgrade that begins a call, signed if there is a secret."""
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
) -> CallResult:
    """Make one call; it is closed in order when `stop` is set. Raises OSError if the server does not answer."""
    headers = upgrade(url, plan, key, secret, created=now(), nonce=nonce or secrets.token_urlsafe(18))
    try:
        connection = await connect(
            url, additional_headers=headers, compression=None, ping_interval=None, close_timeout=5.0, proxy=None
        )
    except InvalidStatus as refused:
        return CallResult(refused.response.status_code, closed=False)
    caller = Caller(plan, asyncio.get_running_loop().time())
    try:
        await _converse(connection, caller, stop or asyncio.Event())
    except ConnectionClosed:
        pass
    finally:
        if caller.hung_up:
            connection.transport.abort()
        await connection.close()
    return CallResult(101, caller.closed, tuple(caller.disconnects), tuple(caller.errors), connection.close_code)


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


class _Callers:
    """Keeps `conversations` calls of an organisation in progress, for `lifecycle`."""

    def __init__(
        self, url: str, key: str, secret: bytes | None, seed: int, conversations: int, faults: Faults | None = None
    ) -> None:
        self._dialled = (url, key, secret)
        self._seed = seed
        self._slots = range(conversations)
        self.traffic = Traffic(seed, conversations, 1.0, faults=[] if faults is None else faults.of_calls())
        self._began_at = 0.0
        self.ids = [plan_call(seed, slot).conversation_id for slot in self._slots]

    async def run(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Make calls in every slot until stopped."""
        self._began_at = time.time()
        ready()
        await asyncio.gather(self._log_faults(stop), *(self._call(slot, stop) for slot in self._slots))

    async def _log_faults(self, stop: asyncio.Event) -> None:
        faults = self.traffic.impairments
        while not stop.is_set() and (due_s := faults.next_change_s) is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), max(0.0, self._began_at + due_s - time.time()))
            if not stop.is_set():
                faults.log_changes(time.time() - self._began_at)

    async def _call(self, slot: int, stop: asyncio.Event) -> None:
        """Make one call after the other, until stopped; retry while the server does not answer."""
        url, key, secret = self._dialled
        chance = random.Random(f"{self._seed}/{slot}/pauses")  # noqa: S311 - generated calls, no secrets
        number = 0
        while not stop.is_set():
            pause_s = REDIAL_S
            plan = self._plan(slot, number)
            try:
                result = await dial(url, plan, key, secret, stop=stop)
            except (OSError, WebSocketException) as error:
                get_logger(__name__).debug("audiohook_not_answered", url=url, error=str(error))
            else:
                get_logger(__name__).info("audiohook_call_over", slot=slot, call=number, **result._asdict())
                if result.status == 101:
                    self.traffic.book.end(plan.conversation_id, time.time())
                    number += 1
                    pause_s = 2 + 6 * chance.random()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause_s)

    def _plan(self, slot: int, number: int) -> CallPlan:
        plan, now = plan_call(self._seed, slot, number), time.time()
        call = self.traffic.book.begin(slot, plan.conversation_id, now)
        answered = now + _ANSWERED_S
        faults = self.traffic.impairments.concerning(call, answered)
        plan = replace(plan, custom_config=call.labels(answered))
        return impair(plan, faults, now - self._began_at)


def impair(plan: CallPlan, faults: Iterable[Impairment], at_s: float) -> CallPlan:
    """Work faults into the plan of a call that begins `at_s` seconds after the run's start."""
    for fault in faults:
        begins_s, ends_s = max(fault.after_s - at_s, 0.0), min(fault.after_s + fault.for_s - at_s, plan.seconds)
        if begins_s >= ends_s:
            continue
        match fault.do:
            case "latency":
                plan = replace(plan, late=(*plan.late, Spell(begins_s, ends_s, fault.latency_ms / 1000)))
            case "loss":
                every_s = plan.frame_s / fault.loss
                starts_s = [begins_s + every_s * n for n in range(math.ceil((ends_s - begins_s) / every_s))]
                plan = replace(plan, discards=(*plan.discards, *((at, at + plan.frame_s) for at in starts_s)))
            case "one-way":
                plan = replace(plan, sounds=(*plan.sounds, Span(begins_s, ends_s, "internal", "silence")))
            case "dead-air":
                silence = (Span(begins_s, ends_s, channel, "silence") for channel in CHANNELS)
                plan = replace(plan, sounds=(*plan.sounds, *silence))
            case "disconnect":
                plan = replace(plan, faults=(*plan.faults, CallFault(begins_s, "abrupt-end")))
    return plan


def call_until_stopped(
    url: str, key: str, secret: bytes | None, *, seed: int, conversations: int, faults: Faults | None = None
) -> None:
    """Keep this number of calls in progress until SIGINT or SIGTERM; first prints the calls as one JSON line."""
    if urlsplit(url).scheme not in ("ws", "wss") or not urlsplit(url).hostname:
        raise UsageError(f"--url {url}: must be like ws://127.0.0.1:8443/audiohook")
    callers = _Callers(url, key, secret, seed, conversations, faults)
    until_signal(callers.run, lambda: print(json.dumps({"url": url, "conversations": callers.ids}), flush=True))


@contextmanager
def calling(
    url: str, key: str, secret: bytes | None, *, seed: int, conversations: int, faults: Faults | None = None
) -> Iterator[list[str]]:
    """Keep this number of calls in progress, from a daemon thread; yields the ids of the first conversations."""
    callers = _Callers(url, key, secret, seed, conversations, faults)
    with in_background(callers.run):
        yield callers.ids
