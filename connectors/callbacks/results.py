"""Collect results of attempts until they are in the audit log and in the outbox."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from connectors.callbacks.model import AttemptResult, DueCallback, State
from connectors.callbacks.outbox import Outbox
from connectors.callbacks.policy import Dead, Delivered, DeliveryPolicy, Retry, Verdict, retry_delay_s
from connectors.runtime.logs import get_logger
from connectors.state.actions import Action
from connectors.state.audit import AuditEntry, AuditLog

__all__ = ["Results"]


class Results:
    """Collect results, and write them down, in an audit log first. A result that could not be written is kept.

    `timeline` is the time of the outbox's `due_at`; `u` is chance in [0, 1).
    """

    def __init__(
        self,
        policy: DeliveryPolicy,
        audit: AuditLog | None,
        outbox: Outbox,
        timeline: Callable[[], float],
        u: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._audit = audit
        self._outbox = outbox
        self._timeline = timeline
        self._u = u
        self._lock = threading.Lock()
        self._unaudited: list[tuple[AttemptResult, AuditEntry | None]] = []
        self._unrecorded: list[AttemptResult] = []
        self._log = get_logger(__name__)

    @property
    def empty(self) -> bool:
        """Report whether everything is written down."""
        return not (self._unaudited or self._unrecorded)

    def add(
        self,
        waiting: DueCallback,
        verdict: Verdict,
        made: int,
        *,
        endpoint: str,
        answer: str | None,
        took_s: float | None = None,
    ) -> State:
        """Note what became of a callback after `made` more attempts (0 or 1) of `took_s` seconds; return its state."""
        callback, attempts = waiting.callback, waiting.attempts + made
        if waiting.refresh:
            return self._refreshed(waiting, verdict, endpoint)
        if isinstance(verdict, Retry) and attempts >= self._policy.max_attempts:
            verdict = Dead(f"{verdict.reason}; attempt {attempts} was the last")
        now = self._timeline()
        detail: dict[str, Any] = {"id": callback.id, "endpoint": endpoint, "attempt": attempts}
        if took_s is not None:
            detail["took_s"] = round(took_s, 4)
        match verdict:
            case Delivered():
                result = AttemptResult(callback, "delivered", now, attempts)
                action = Action.CALLBACK_DELIVERED
            case Dead():
                result = AttemptResult(callback, "dead", now, attempts, verdict.reason, answer)
                action = Action.CALLBACK_DEAD
                if made:
                    self._log.error(
                        "callback_dead",
                        id=callback.id,
                        conversation=callback.conversation_id,
                        endpoint=endpoint,
                        reason=verdict.reason,
                    )
            case Retry():
                failures = 1 if verdict.soon else attempts
                wait_s = retry_delay_s(failures, self._u(), verdict.after_s, waits_s=self._policy.retry_waits_s)
                result = AttemptResult(
                    callback, "pending", now + wait_s, attempts, verdict.reason, answer, wait_s=wait_s
                )
                action = Action.CALLBACK_FAILED
                detail["retry_in_s"] = round(wait_s, 3)
        entry = AuditEntry(action, callback.conversation_id or None, verdict.reason, detail)
        with self._lock:
            self._unaudited.append((result, entry))
        return result.state

    def expired(self, waiting: DueCallback, later: str) -> None:
        """Note that a raised callback is not sent: its resolved callback waits, too, and is sent alone."""
        callback = waiting.callback
        result = AttemptResult(callback, "delivered", self._timeline(), waiting.attempts, f"sent as one with {later}")
        entry = AuditEntry(
            Action.CALLBACK_EXPIRED, callback.conversation_id or None, "sent_as_one", {"id": callback.id, "with": later}
        )
        with self._lock:
            self._unaudited.append((result, entry))

    def write(self) -> set[str]:
        """Write everything down; return the order keys that are free again. Raise StateError; what is left is kept."""
        with self._lock:
            fresh = list(self._unaudited)
        if fresh:
            entries = [entry for _, entry in fresh if entry is not None]
            if self._audit is not None:
                self._audit.extend(entries)
            with self._lock:
                del self._unaudited[: len(fresh)]
                self._unrecorded += [result for result, _ in fresh]
        results = self._unrecorded
        if results:
            self._outbox.record_results(results)
            self._unrecorded = []
        return {result.callback.order_key for result in results}

    def _refreshed(self, waiting: DueCallback, verdict: Verdict, endpoint: str) -> State:
        """Note that a delivered callback was sent again; one that the receiver refuses is not repeated."""
        callback = waiting.callback
        state: State = "pending"
        if isinstance(verdict, Dead):
            state = "delivered"
            self._log.warning("refresh_refused", id=callback.id, endpoint=endpoint, reason=verdict.reason)
        at = self._timeline() + callback.refresh_s
        result = AttemptResult(callback, state, at, waiting.attempts, refresh=True)
        with self._lock:
            self._unaudited.append((result, None))
        return state
