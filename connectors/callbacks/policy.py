"""What the answer to a callback means, and when a receiver is left in peace: pure functions and values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from connectors.retry import backoff_s

__all__ = [
    "Breaker",
    "Dead",
    "Delivered",
    "DeliveryPolicy",
    "Failure",
    "Outcome",
    "Retry",
    "Verdict",
    "classify",
    "retry_delay_s",
]

Failure = Literal["address", "url", "dns", "connect", "tls", "timeout", "protocol", "internal"]
_HOPELESS: frozenset[Failure] = frozenset({"address", "url"})
_WORTH_RETRYING = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended: with an HTTP `status`, or with a `failure` before there was one.

    `retry_after_s` is what the receiver asked for, already capped; `detail` is a few words for people.
    """

    status: int | None = None
    failure: Failure | None = None
    retry_after_s: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver has the callback."""

    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Worth another attempt, not before `after_s` seconds if the receiver has asked for that."""

    reason: str
    after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Dead:
    """No attempt will help; with `gone` the receiver wants nothing any more (410)."""

    reason: str
    gone: bool = False


Verdict = Delivered | Retry | Dead


def classify(outcome: Outcome) -> Verdict:
    """Say what to do after an attempt.

    ======================================  =========================================================
    2xx                                     delivered
    3xx                                     retry; a redirect is never followed. It is often a login or
                                            maintenance page that passes; if not, the attempts run out
    410                                     dead, and the receiver is given up
    408, 425, 429                           retry, not before `Retry-After`
    other 4xx                               dead
    5xx                                     retry, not before `Retry-After`
    DNS, connection, TLS, timeout, broken   retry
    HTTP, an error of our own
    refused address, unusable URL           dead
    ======================================  =========================================================

    >>> classify(Outcome(status=204)), classify(Outcome(status=503, retry_after_s=7.0))
    (Delivered(reason='204'), Retry(reason='503', after_s=7.0))
    """
    if outcome.failure is not None:
        reason = f"{outcome.failure}: {outcome.detail}" if outcome.detail else outcome.failure
        return Dead(reason) if outcome.failure in _HOPELESS else Retry(reason)
    status = outcome.status or 0
    reason = f"{status} {outcome.detail}".strip()
    if 200 <= status < 300:
        return Delivered(reason)
    if 300 <= status < 400:
        return Retry(f"{reason}: redirects are not followed", outcome.retry_after_s)
    if status == 410:
        return Dead(f"{reason}: the receiver wants no more callbacks and is given up", gone=True)
    if 400 <= status < 500 and status not in _WORTH_RETRYING:
        return Dead(reason)
    return Retry(reason, outcome.retry_after_s)


def retry_delay_s(attempt: int, u: float, after_s: float | None, *, base_s: float, cap_s: float) -> float:
    """Seconds to wait after failed attempt number `attempt`, and never less than the receiver asked for.

    Four times longer with each attempt, so that few attempts outlast an outage: with `base_s` 0.5 the eighth comes
    22 to 46 minutes after the first.

    >>> [retry_delay_s(n, 0.0, None, base_s=0.5, cap_s=3600.0) for n in (1, 2, 3, 7)]
    [0.25, 1.0, 4.0, 1024.0]
    """
    # Two doublings of the common backoff for each attempt.
    return max(backoff_s(2 * attempt - 1, u, base_s=base_s, cap_s=cap_s), after_s or 0.0)


@dataclass(frozen=True, slots=True)
class Breaker:
    """A circuit breaker for one receiver, as a value.

    Closed until `limit` attempts in a row have failed; then open for a while that doubles up to a minute; then
    half-open: one attempt at a time, whose end closes it or opens it again. While it is open nobody is called,
    and no callback uses up its attempts.
    """

    base_s: float = 5.0
    limit: int = 5
    failures: int = 0
    openings: int = 0
    open_until: float = 0.0

    @property
    def tripped(self) -> bool:
        """Whether it is open or half-open."""
        return self.failures >= self.limit

    def admits(self, now: float, in_flight: int) -> bool:
        """Whether one more attempt may begin at `now` while `in_flight` are under way."""
        return not self.tripped or (now >= self.open_until and in_flight == 0)

    def after(self, *, alive: bool, now: float, u: float) -> Breaker:
        """The breaker after an attempt that found the receiver alive (any answer but one to retry) or not."""
        if alive:
            return replace(self, failures=0, openings=0, open_until=0.0)
        failed = replace(self, failures=self.failures + 1)
        if not failed.tripped or now < self.open_until:  # the latter: begun before it opened
            return failed
        openings = self.openings + 1
        wait_s = backoff_s(openings, u, base_s=self.base_s, cap_s=60.0)
        return replace(failed, openings=openings, open_until=now + wait_s)


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """How hard to try. The defaults are the ones of the configuration's `[delivery]` table where it has them.

    `concurrency` is for one receiver (one URL), `total` for all. `retry_base_s` and `retry_cap_s` shape the waits
    between attempts (see `retry_delay_s`); the cap also bounds what `Retry-After` may ask for.
    """

    timeout_s: float = 5.0
    max_attempts: int = 8
    allow_private_addresses: bool = False
    concurrency: int = 8
    total: int = 256
    retry_base_s: float = 0.5
    retry_cap_s: float = 3600.0
    breaker_base_s: float = 5.0
