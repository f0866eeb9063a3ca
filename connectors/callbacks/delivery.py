"""The thread that delivers what the outbox holds: receivers apart from each other, conversations in order."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import httpx

from connectors.callbacks.addresses import Resolve, resolve
from connectors.callbacks.http import Sender, endpoint_of
from connectors.callbacks.outbox import Due, Outbox, Settlement, Waiting
from connectors.callbacks.policy import (
    Breaker,
    Dead,
    Delivered,
    DeliveryPolicy,
    Outcome,
    Retry,
    Verdict,
    classify,
    retry_delay_s,
)
from connectors.callbacks.signing import sign
from connectors.errors import StateError
from connectors.runtime.logs import get_logger
from connectors.runtime.tracing import span
from connectors.state.audit import AuditEntry, AuditLog

__all__ = ["Delivery", "DeliveryMetrics"]

_T = TypeVar("_T")

_POLL_S = 1.0
_AHEAD = 64  # callbacks of one receiver read ahead, so that it is kept busy while results are written down
_LANE_KEPT_S = 60.0
_PRUNE_EVERY_S = 3600.0
_TOMBSTONES_KEPT_S = 7 * 86400.0
_HEADERS = {"content-type": "application/json", "user-agent": "voicewatch"}


class DeliveryMetrics:
    """What a delivery reports while it works. This one ignores it; a subclass counts."""

    def attempted(self, state: str) -> None:
        """An attempt ended; the callback is in this state now."""

    def attempt_took(self, seconds: float) -> None:
        """An attempt took this long."""

    def receivers(self, states: Mapping[str, int]) -> None:
        """There are this many receivers in each state."""


class _Lane:
    """Everything that belongs to one receiver, which is one URL."""

    def __init__(self, url: str, policy: DeliveryPolicy, verify: ssl.SSLContext, resolver: Resolve) -> None:
        self.url = url
        self.endpoint = endpoint_of(url)
        self.sender = Sender(url, policy, verify, resolver)
        self.queue: deque[Waiting] = deque()
        self.in_flight = 0
        self.breaker = Breaker(base_s=policy.breaker_base_s)
        self.gone = False  # answered 410
        self.used_at = 0.0

    @property
    def idle(self) -> bool:
        """Whether nothing would be forgotten with it."""
        return not (self.queue or self.in_flight or self.gone or self.breaker.tripped)

    @property
    def state(self) -> str:
        """How it stands with the receiver, for the metrics."""
        return "gone" if self.gone else "open" if self.breaker.tripped else "closed"


class Delivery:
    """Delivers the callbacks of an outbox from a thread of its own, until stopped.

    Each receiver has its own queue, connections, concurrency limit and circuit breaker, so that a slow or dead one
    delays nobody else. Of a conversation only the oldest callback is ever under way. Every attempt is audited
    (CALLBACK_DELIVERED, CALLBACK_FAILED, CALLBACK_DEAD) and then written down in the outbox; a crash between an
    answer and that means that the callback is sent again.

    When the outbox or the audit log cannot be written (a full disk), sending pauses and goes on by itself.
    `verify` holds the certificate authorities to trust (by default certifi's, or those in SSL_CERT_FILE);
    `resolver` looks up hosts. `metrics` counts attempts and receivers.
    """

    def __init__(
        self,
        outbox: Outbox,
        *,
        audit: AuditLog,
        secrets: Sequence[str] = (),
        policy: DeliveryPolicy | None = None,
        verify: ssl.SSLContext | None = None,
        resolver: Resolve = resolve,
        now: Callable[[], float] = time.time,
        u: Callable[[], float] = random.random,
        metrics: DeliveryMetrics | None = None,
    ) -> None:
        self._outbox = outbox
        self._audit = audit
        self._secrets = tuple(secrets)
        self._policy = policy or DeliveryPolicy()
        self._verify = verify
        self._resolver = resolver
        self._now = now
        self._u = u
        self._metrics = metrics or DeliveryMetrics()
        self._log = get_logger(__name__)
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._draining = False
        self._cut = False
        self._lanes: dict[str, _Lane] = {}
        self._busy: set[str] = set()  # conversations read ahead, under way, or not yet written down
        self._attempts: set[asyncio.Task[None]] = set()
        self._unaudited: list[tuple[Settlement, AuditEntry]] = []
        self._unsettled: list[Settlement] = []
        self._recovered: set[str] = set()  # receivers that are back after their breaker was open
        self._pruned_at = float("-inf")

    def start(self) -> None:
        """Begin to deliver; returns when the thread runs."""
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="delivery", daemon=True)
        self._thread.start()
        started.wait()

    def wake(self) -> None:
        """Say that the outbox has new work; may be called from any thread, at any time."""
        self._tell(lambda: None)

    def check(self) -> None:
        """Raise RuntimeError if the thread has died of a mistake in it: callbacks then only pile up."""
        if self._failure is not None:
            raise RuntimeError("the delivery thread has died") from self._failure

    def stop(self, drain_s: float) -> None:
        """Send what is due, for at most `drain_s` seconds, then end the thread; the rest stays in the outbox.

        Attempts under way at the deadline are cut off, and count as not made.
        """
        if self._thread is None:
            return
        self._tell(self._begin_draining)
        self._thread.join(drain_s)
        self._tell(self._begin_cutting)
        self._thread.join()
        self._thread = None

    def _begin_draining(self) -> None:
        self._draining = True

    def _begin_cutting(self) -> None:
        self._cut = True

    def _tell(self, change: Callable[[], None]) -> None:
        def heard() -> None:
            change()
            self._news.set()

        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the thread has ended
                self._loop.call_soon_threadsafe(heard)

    def _run(self, started: threading.Event) -> None:
        try:
            asyncio.run(self._main(started))
        except BaseException as error:
            self._failure = error
            self._log.exception("delivery_died")
        finally:
            started.set()

    async def _main(self, started: threading.Event) -> None:
        if self._verify is None:
            self._verify = httpx.create_ssl_context()
        self._loop = asyncio.get_running_loop()
        started.set()
        # SQLite and the audit log block, so they get a thread; one, so that they are used in order.
        with ThreadPoolExecutor(1, "outbox") as self._disk:
            try:
                while True:
                    self._news.clear()
                    try:
                        next_at = await self._turn()
                    except StateError as error:
                        self._log.error("delivery_paused", error=str(error))
                        if self._draining:
                            break
                        next_at = self._now() + _POLL_S
                    if self._cut or (self._draining and self._quiet()):
                        break
                    await self._wait(next_at)
                await self._end()
            finally:
                for lane in self._lanes.values():
                    lane.sender.close()

    async def _turn(self) -> float | None:
        """Write down what has ended, read what is due, begin what may begin; return when the next falls due."""
        await self._settle()
        if self._now() >= self._pruned_at + _PRUNE_EVERY_S:
            self._pruned_at = self._now()
            await self._on_disk(self._outbox.prune, self._pruned_at - _TOMBSTONES_KEPT_S)
        busy = frozenset(self._busy)
        due = await self._on_disk(functools.partial(self._outbox.due, per_url=_AHEAD, busy=busy), self._now())
        self._enqueue(due)
        now = self._now()
        moments = [] if due.next_at is None else [due.next_at]
        for lane in list(self._lanes.values()):
            self._launch(lane)
            if lane.queue and lane.in_flight == 0 and not lane.breaker.admits(now, 0):
                moments.append(lane.breaker.open_until)
            elif lane.idle and now > lane.used_at + _LANE_KEPT_S:
                del self._lanes[lane.url]
                lane.sender.close()
        self._metrics.receivers(Counter(lane.state for lane in self._lanes.values()))
        return min(moments, default=None)

    def _enqueue(self, due: Due) -> None:
        for waiting in due.waiting:
            url = waiting.callback.url
            lane = self._lanes.get(url)
            if lane is None:
                assert self._verify is not None
                lane = self._lanes[url] = _Lane(url, self._policy, self._verify, self._resolver)
            lane.queue.append(waiting)
            self._busy.add(waiting.callback.conversation_id)

    def _launch(self, lane: _Lane) -> None:
        while lane.queue and not self._cut:
            if lane.gone and not lane.queue[0].requeued:
                self._finish(lane, lane.queue.popleft(), Dead("the receiver has answered 410 and is given up"), 0)
                continue
            room = lane.in_flight < self._policy.concurrency and len(self._attempts) < self._policy.total
            if not room or not lane.breaker.admits(self._now(), lane.in_flight):
                return
            lane.in_flight += 1
            task = asyncio.create_task(self._attempt(lane, lane.queue.popleft()))
            self._attempts.add(task)
            task.add_done_callback(self._attempts.discard)

    async def _attempt(self, lane: _Lane, waiting: Waiting) -> None:
        callback = waiting.callback
        began = time.monotonic()
        try:
            headers = sign(callback.id, int(self._now()), callback.body, self._secrets)
            with span("deliver callback", server_address=lane.endpoint, webhook_id=callback.id) as note:
                outcome = await lane.sender.send(callback.body, _HEADERS | headers, self._now)
                note("outcome", outcome.failure or str(outcome.status))
        except asyncio.CancelledError:
            lane.in_flight -= 1
            raise
        except Exception as error:
            # One callback that cannot even be sent must not stop the others; it dies of too many attempts.
            self._log.exception("callback_attempt_broke", id=callback.id, endpoint=lane.endpoint)
            outcome = Outcome(failure="internal", detail=type(error).__name__)
        lane.in_flight -= 1
        lane.used_at = self._now()
        self._metrics.attempt_took(time.monotonic() - began)
        verdict = classify(outcome)
        self._judge(lane, outcome, verdict)
        self._finish(lane, waiting, verdict, 1)
        self._launch(lane)

    def _judge(self, lane: _Lane, outcome: Outcome, verdict: Verdict) -> None:
        if outcome.failure in ("address", "url", "internal"):
            return  # says nothing about the receiver
        was_tripped = lane.breaker.tripped
        alive = not isinstance(verdict, Retry)
        lane.breaker = lane.breaker.after(alive=alive, now=self._now(), u=self._u())
        if alive and was_tripped:
            self._recovered.add(lane.url)
        if lane.breaker.tripped != was_tripped:
            self._log.warning(
                "receiver_back" if was_tripped else "receiver_failing",
                endpoint=lane.endpoint,
                reason=verdict.reason,
            )
        if isinstance(verdict, Dead) and verdict.gone and not lane.gone:
            lane.gone = True
            self._log.error("receiver_gone", endpoint=lane.endpoint, reason=verdict.reason)
        elif isinstance(verdict, Delivered):
            lane.gone = False

    def _finish(self, lane: _Lane, waiting: Waiting, verdict: Verdict, made: int) -> None:
        """Note what became of a callback after `made` more attempts (0 or 1); `_settle` writes it down."""
        callback, now, attempts = waiting.callback, self._now(), waiting.attempts + made
        if isinstance(verdict, Retry) and attempts >= self._policy.max_attempts:
            verdict = Dead(f"{verdict.reason}; attempt {attempts} was the last")
        detail = {"id": callback.id, "endpoint": lane.endpoint, "attempt": attempts}
        match verdict:
            case Delivered():
                settlement = Settlement(callback, "delivered", now, attempts)
                action = "CALLBACK_DELIVERED"
            case Dead():
                settlement = Settlement(callback, "dead", now, attempts, verdict.reason)
                action = "CALLBACK_DEAD"
            case Retry():
                wait_s = retry_delay_s(
                    attempts,
                    self._u(),
                    verdict.after_s,
                    base_s=self._policy.retry_base_s,
                    cap_s=self._policy.retry_cap_s,
                )
                settlement = Settlement(callback, "pending", now + wait_s, attempts, verdict.reason)
                action = "CALLBACK_FAILED"
                detail["retry_in_s"] = round(wait_s, 3)
        if made:
            self._metrics.attempted(settlement.state)
        entry = AuditEntry(action, callback.conversation_id, verdict.reason, detail)
        self._unaudited.append((settlement, entry))
        self._news.set()

    async def _settle(self) -> None:
        """Audit, then write down, all that has ended since the last time, each in one go."""
        fresh = list(self._unaudited)
        if fresh:
            await self._on_disk(self._audit.extend, [entry for _, entry in fresh])
            del self._unaudited[: len(fresh)]
            self._unsettled += [settlement for settlement, _ in fresh]
        settled = list(self._unsettled)
        if settled:
            await self._on_disk(self._outbox.settle, settled)
            self._unsettled.clear()
            self._busy.difference_update(s.callback.conversation_id for s in settled)
        for url in list(self._recovered):
            await self._on_disk(self._outbox.hasten, url, self._now())
            self._recovered.discard(url)

    async def _end(self) -> None:
        for task in list(self._attempts):
            task.cancel()
        await asyncio.gather(*self._attempts, return_exceptions=True)
        try:
            await self._settle()
        except StateError as error:
            self._log.error("delivery_results_lost", error=str(error))

    def _quiet(self) -> bool:
        """Whether nothing is under way and nothing that is due may begin."""
        held_back = all(not lane.queue or not lane.breaker.admits(self._now(), 0) for lane in self._lanes.values())
        return not self._attempts and not self._unaudited and held_back

    async def _wait(self, next_at: float | None) -> None:
        wait_s = _POLL_S if next_at is None else min(max(next_at - self._now(), 0.0), _POLL_S)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), wait_s)

    async def _on_disk(self, work: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work, *arguments)
