"""Deliver the callbacks of the outbox in a thread: receivers independently, conversations in order."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import TypeVar

import httpx

from connectors.callbacks.addresses import Resolve, resolve
from connectors.callbacks.metrics import DeliveryMetrics
from connectors.callbacks.model import DueBatch, DueCallback
from connectors.callbacks.outbox import Outbox
from connectors.callbacks.policy import Dead, Delivered, DeliveryPolicy, Outcome, Retry, Verdict, classify, excerpt
from connectors.callbacks.receivers import Receiver, Shares
from connectors.callbacks.results import Results
from connectors.callbacks.rounds import Rounds
from connectors.callbacks.routes import Route, connections_allowed
from connectors.callbacks.signing import sign
from connectors.errors import StateError
from connectors.runtime.logs import get_logger
from connectors.runtime.timeline import Timeline
from connectors.runtime.tracing import span
from connectors.state.audit import AuditLog

__all__ = ["Delivery"]

_T = TypeVar("_T")

_POLL_S = 1.0
_PRUNE_EVERY_S = 3600.0
_IDS_KEPT_S = 7 * 86400.0
_NO_SUCH_TARGET = "target: no [[notify]] table has this name any more"


class Delivery:
    """Deliver the callbacks of an outbox from a dedicated thread, until stopped.

    Each receiver has its own queue, connections, share of the connections and circuit breaker, so that a slow or dead
    one delays no other. Of a conversation only the oldest callback is ever under way. Every attempt is written to the
    audit log, if there is one (CALLBACK_DELIVERED, CALLBACK_FAILED, CALLBACK_DEAD), and then to the outbox; a crash
    between an answer and that means that the callback is sent again.

    A callback's URL is where it is sent, unless `routes` has a route under that name (of a notify target). Waits are
    measured by the `monotonic` clock; `now` only stamps requests and results. When the outbox or the audit log cannot
    be written (a full disk), sending pauses and resumes automatically. `verify` holds the certificate authorities to
    trust (by default certifi's, or those in SSL_CERT_FILE); `resolver` looks up hosts. `metrics` counts attempts and
    receivers. A raised callback older than `expire_after_s` is not sent if its resolve waits too.
    """

    def __init__(
        self,
        outbox: Outbox,
        *,
        audit: AuditLog | None,
        secrets: Sequence[str] = (),
        policy: DeliveryPolicy | None = None,
        routes: Mapping[str, Route] = MappingProxyType({}),
        verify: ssl.SSLContext | None = None,
        resolver: Resolve = resolve,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        u: Callable[[], float] = random.random,
        metrics: DeliveryMetrics | None = None,
        expire_after_s: float | None = None,
    ) -> None:
        self._outbox = outbox
        self._secrets = tuple(secrets)
        self._policy = policy or DeliveryPolicy()
        self._routes = routes
        self._verify = verify
        self._resolver = resolver
        self._now = now
        self._clock = monotonic
        self._timeline = Timeline(now, monotonic)
        self._u = u
        self._metrics = metrics or DeliveryMetrics()
        self._expire_after_s = expire_after_s
        self._log = get_logger(__name__)
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._draining = False
        self._cut = False
        self._receivers: dict[str, Receiver] = {}
        self._shares = Shares(self._policy.total or 0, self._policy.patience_s)
        self._busy: set[str] = set()  # order keys whose callback is read, being sent, or not yet recorded
        self._attempts: set[asyncio.Task[None]] = set()
        self._made_room: set[asyncio.Task[None]] = set()
        self._results = Results(self._policy, audit, outbox, self._timeline, u)
        self._recovered: set[str] = set()  # receivers that are back after a failure
        self._rounds = Rounds(self._begin_all)  # while receivers wait for a connection
        self._pruned_at = float("-inf")

    def start(self) -> None:
        """Start to deliver; return when the thread runs."""
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="delivery", daemon=True)
        self._thread.start()
        started.wait()

    def wake(self) -> None:
        """Say that the outbox has new work; may be called from any thread, at any time."""
        self._tell(lambda: None)

    def check(self) -> None:
        """Raise RuntimeError if an unexpected error has ended the thread: no callback is sent any more."""
        if self._failure is not None:
            raise RuntimeError("the delivery thread has died") from self._failure

    @property
    def timeline(self) -> Callable[[], float]:
        """Return the time that `due_at` in the outbox counts."""
        return self._timeline

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
        def notify() -> None:
            change()
            self._news.set()

        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the thread has ended
                self._loop.call_soon_threadsafe(notify)

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
        if self._policy.total is None:
            self._shares.total = connections_allowed()
        self._loop = asyncio.get_running_loop()
        started.set()
        # SQLite and the audit log block, so they get a thread; one, so that they are used in order.
        with ThreadPoolExecutor(1, "outbox") as self._disk:
            try:
                capped = False
                while True:
                    self._news.clear()
                    try:
                        if not capped:
                            await self._on_disk(self._outbox.cap_waits, self._timeline())
                            capped = True
                        wait_s = await self._turn()
                    except StateError as error:
                        self._log.error("delivery_paused", error=str(error))
                        if self._draining:
                            break
                        wait_s = _POLL_S
                    if self._cut or (self._draining and self._quiet()):
                        break
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._news.wait(), min(max(wait_s, 0.0), _POLL_S))
                await self._end()
            finally:
                for receiver in self._receivers.values():
                    receiver.sender.close()

    async def _turn(self) -> float:
        """Record what has ended, read what is due, begin what may begin; return the seconds until the next is due."""
        await self._record()
        if self._clock() >= self._pruned_at + _PRUNE_EVERY_S:
            self._pruned_at = self._clock()
            await self._on_disk(self._outbox.prune, self._timeline() - _IDS_KEPT_S)
        now, busy = self._clock(), frozenset(self._busy)
        limits = {key: receiver.wanted(now) for key, receiver in self._receivers.items()}
        read = functools.partial(self._outbox.due, per_url=2, busy=busy, limits=limits)
        due = await self._on_disk(read, self._timeline())
        await self._enqueue(due)
        moments = [] if due.next_at is None else [due.next_at - self._timeline()]
        self._begin_all()
        now = self._clock()
        for receiver in list(self._receivers.values()):
            until = receiver.blocked_until(now)
            if until is not None:
                moments.append(until - now)
            elif receiver.forgettable(now):
                del self._receivers[receiver.key]
                receiver.sender.close()
        self._metrics.receivers(Counter(receiver.state for receiver in self._receivers.values()))
        return min(moments, default=_POLL_S)

    async def _enqueue(self, due: DueBatch) -> None:
        for waiting in due.waiting:
            callback = waiting.callback
            if callback.order_key in self._busy:
                continue  # a callback of this key is under way: a refresh and the next one were due together
            if self._expire_after_s is not None and await self._expired(waiting, self._expire_after_s):
                continue
            receiver = self._receivers.get(callback.url) or self._new_receiver(callback.url)
            self._busy.add(callback.order_key)
            if receiver is None:
                self._results.add(waiting, Dead(_NO_SUCH_TARGET), 0, endpoint=callback.url, answer=None)
                self._news.set()
            else:
                receiver.queue.append(waiting)

    async def _expired(self, waiting: DueCallback, after_s: float) -> bool:
        """Settle a raised callback that is too old to be of use if its resolve waits too; return whether it was so."""
        callback = waiting.callback
        # If the wall clock was set since, the smaller of the two ages.
        age_s = min(self._now(), self._timeline()) - waiting.created_at
        if waiting.refresh or callback.closes or age_s <= after_s:
            return False
        later = await self._on_disk(self._outbox.resolve_of, callback)
        if later is None:
            return False
        self._busy.add(callback.order_key)
        self._results.expired(waiting, later)
        self._news.set()
        return True

    def _new_receiver(self, key: str) -> Receiver | None:
        route = self._routes.get(key)
        if route is None and key.startswith("notify:"):
            return None
        assert self._verify is not None
        route = route or Route(key, self._policy.body)
        receiver = self._receivers[key] = Receiver(key, route, self._policy, self._verify, self._resolver)
        return receiver

    def _begin_all(self) -> None:
        """Begin every attempt that is allowed; again while receivers wait for a free connection.

        It does not wait for the outbox: with many hanging receivers, many rounds pass before a good one has its turn.
        """
        late = self._rounds.begin()
        receivers = self._receivers.values()
        self._shares.count(receivers)
        for receiver in receivers:
            self._give_up(receiver)
        if self._cut:
            return
        now = self._clock()
        for receiver in self._shares.in_turn(receivers, now):
            self._begin(receiver)
        cut, again_at = self._shares.to_cut(receivers, now)
        if late or cut:
            self._rounds.again()
        elif again_at is not None:
            self._rounds.again(again_at - now)
        for task in () if late else cut:
            self._made_room.add(task)
            task.cancel()

    def _give_up(self, receiver: Receiver) -> None:
        """Let the callbacks for a receiver that has answered 410 die, unless an operator asked for them again."""
        while receiver.gone and receiver.queue and not receiver.queue[0].requeued:
            waiting = receiver.queue.popleft()
            verdict = Dead("the receiver has answered 410 and is given up")
            self._results.add(waiting, verdict, 0, endpoint=receiver.shown, answer=None)
            self._news.set()

    def _begin(self, receiver: Receiver) -> None:
        task = asyncio.create_task(self._attempt(receiver, receiver.queue.popleft()))
        receiver.attempts[task] = receiver.used_at = self._clock()
        receiver.pace = receiver.pace.begun(receiver.used_at)
        self._shares.take(receiver)
        self._attempts.add(task)
        task.add_done_callback(self._attempts.discard)

    async def _attempt(self, receiver: Receiver, waiting: DueCallback) -> None:
        began = self._clock()
        task = asyncio.current_task()
        assert task is not None
        try:
            outcome = await self._send(receiver, waiting)
        except asyncio.CancelledError:
            if task not in self._made_room:
                raise
            detail = f"no answer within {self._clock() - began:.1f} s, and others needed the connection"
            outcome = Outcome(failure="timeout", detail=detail, cut=True)
        except Exception as error:
            # One callback that cannot even be sent must not stop the others; it dies of too many attempts.
            self._log.exception("callback_attempt_broke", id=waiting.callback.id, endpoint=receiver.shown)
            outcome = Outcome(failure="internal", detail=type(error).__name__)
        finally:
            self._made_room.discard(task)
            del receiver.attempts[task]
        receiver.used_at = self._clock()
        took_s = receiver.used_at - began
        self._metrics.attempt_took(took_s)
        verdict = classify(outcome, receiver.route.rules)
        receiver.pace = receiver.pace.after(outcome, began=began, now=receiver.used_at)
        self._judge(receiver, outcome, verdict)
        answer = excerpt(outcome.body, receiver.route.url, receiver.route.secrets) or None
        state = self._results.add(waiting, verdict, 1, endpoint=receiver.shown, answer=answer, took_s=took_s)
        if not waiting.refresh:
            self._metrics.attempted(state)
        self._news.set()
        if self._rounds.wanted:
            self._rounds.again()
        if not self._cut and len(self._attempts) * 2 <= self._shares.total:
            self._give_up(receiver)
            if receiver.ready(receiver.used_at):  # immediately: no attempt waits for the connection
                self._begin(receiver)

    async def _send(self, receiver: Receiver, waiting: DueCallback) -> Outcome:
        callback, route = waiting.callback, receiver.route
        body, headers = route.request(callback.body)
        id_ = callback.id.partition("/")[0]
        if route.signed:
            headers |= sign(id_, int(self._now()), body, self._secrets)
        with span("deliver callback", server_address=receiver.shown, webhook_id=id_) as note:
            outcome = await receiver.sender.send(body, headers, self._now)
            note("outcome", outcome.failure or str(outcome.status))
        return outcome

    def _judge(self, receiver: Receiver, outcome: Outcome, verdict: Verdict) -> None:
        if outcome.failure in ("address", "url", "target", "internal"):
            return  # says nothing about the receiver
        was_tripped, was_failing = receiver.breaker.tripped, receiver.standing == "failing"
        alive = not isinstance(verdict, Retry)
        receiver.breaker = receiver.breaker.after(alive=alive, now=self._clock(), u=self._u())
        receiver.standing = "proven" if alive else "failing"
        receiver.cuts = receiver.cuts + 1 if outcome.cut else 0
        if alive and was_failing:
            self._recovered.add(receiver.key)
        if receiver.breaker.tripped != was_tripped:
            self._log.warning(
                "receiver_back" if was_tripped else "receiver_failing",
                endpoint=receiver.shown,
                reason=verdict.reason,
            )
        if isinstance(verdict, Dead) and verdict.gone and not receiver.gone:
            receiver.gone = True
            self._log.error("receiver_gone", endpoint=receiver.shown, reason=verdict.reason)
        elif isinstance(verdict, Delivered):
            receiver.gone = False

    async def _record(self) -> None:
        """Audit, then record, all that has ended since the last time, each in one go."""
        recorded = await self._on_disk(self._results.write)
        self._busy.difference_update(recorded)
        for key in list(self._recovered):
            await self._on_disk(self._outbox.expedite, key)
            self._recovered.discard(key)

    async def _end(self) -> None:
        self._cut = True
        for task in list(self._attempts):
            self._made_room.discard(task)
            task.cancel()
        await asyncio.gather(*self._attempts, return_exceptions=True)
        try:
            await self._record()
        except StateError as error:
            self._log.error("delivery_results_lost", error=str(error))

    def _quiet(self) -> bool:
        """Report whether nothing is under way and nothing that is due may begin."""
        now = self._clock()
        held_back = all(not r.queue or r.is_given_time(now) for r in self._receivers.values())
        return not self._attempts and self._results.empty and held_back

    async def _on_disk(self, work: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work, *arguments)
