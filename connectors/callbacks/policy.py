"""Decide what the answer to a callback means, and when to try again: pure functions and values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from connectors.retry import backoff_s

__all__ = [
    "FAILURE_BODY",
    "RETRY_WAITS_S",
    "BodyRules",
    "Breaker",
    "Dead",
    "Delivered",
    "DeliveryPolicy",
    "Failure",
    "Outcome",
    "Retry",
    "Verdict",
    "classify",
    "excerpt",
    "retry_delay_s",
    "safe_origin",
]

Failure = Literal["address", "url", "target", "dns", "connect", "tls", "timeout", "protocol", "internal"]
_HOPELESS: frozenset[Failure] = frozenset({"address", "url", "target"})
_WORTH_RETRYING = frozenset({408, 425, 429})
_EXCERPT_CHARACTERS = 200
_SHORTEST_SECRET = 4

RETRY_WAITS_S: Final = (1.0, 15.0, 180.0, 1800.0, 10_800.0, 28_800.0, 46_800.0, 86_400.0)
"""The waits after failed attempts; the last one repeats. The eighth attempt comes 24.5 to 31 hours after the first."""

FAILURE_BODY: Final = (
    r"endpoint returned HTTP error \d{3}",  # Teams: a 2xx that passes on a refusal
    r"^\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+)?html\b",  # the login or error page of a proxy
)
"""Regular expressions of 2xx answers that mean failure at services that many people use."""


@dataclass(frozen=True, slots=True)
class BodyRules:
    """Judge the start of a 2xx body: no `failure` pattern may match, one of the `success` patterns must.

    Patterns are regular expressions, searched for without regard to case. Without `success` patterns any body will do.
    """

    failure: tuple[str, ...] = FAILURE_BODY
    success: tuple[str, ...] = ()

    def complaint(self, start: str) -> str | None:
        """Say why an answer with this start of its body is a failure; None if it is a success.

        >>> BodyRules().complaint("<!DOCTYPE html><title>Sign in</title>")
        'the body is a page or an error text, see failure_body'
        """
        start = start.removeprefix("\ufeff")
        flags = re.IGNORECASE | re.DOTALL
        if any(re.search(pattern, start, flags) for pattern in self.failure):
            return "the body is a page or an error text, see failure_body"
        if self.success and not any(re.search(pattern, start, flags) for pattern in self.success):
            return "the body does not match success_body"
        return None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Hold how one attempt ended: with an HTTP `status`, or with a `failure` before there was a usable answer.

    `retry_after_s` is what the receiver asked for, already capped; `detail` is a few words for people; `body` is the
    start of the answer's body. With `cut` the attempt was ended because others needed its connection. `throttled` says
    that the failure may be a 429, where the sender cannot tell.
    """

    status: int | None = None
    failure: Failure | None = None
    retry_after_s: float | None = None
    detail: str = ""
    body: str = ""
    cut: bool = False
    throttled: bool = False


@dataclass(frozen=True, slots=True)
class Delivered:
    """Say that the receiver has the callback."""

    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Ask for another attempt, not before `after_s` seconds if the receiver has asked for that, or `soon`."""

    reason: str
    after_s: float | None = None
    soon: bool = False


@dataclass(frozen=True, slots=True)
class Dead:
    """Say that no attempt will help; with `gone` the receiver wants no more callbacks (410)."""

    reason: str
    gone: bool = False


Verdict = Delivered | Retry | Dead


def classify(outcome: Outcome, rules: BodyRules | None = None) -> Verdict:
    """Say what to do after an attempt.

    ======================================  =========================================================
    2xx                                     delivered, unless `rules` find a failure in the body: retry
    3xx                                     retry; a redirect is never followed. It is often a login or
                                            maintenance page that passes; if not, the attempts run out
    410                                     dead, and nothing more is sent to the receiver
    408, 425, 429                           retry, not before `Retry-After`
    other 4xx                               dead
    5xx                                     retry, not before `Retry-After`
    DNS, connection, TLS, timeout, broken   retry
    or endless HTTP, an internal error
    refused address, unusable URL or target dead
    ======================================  =========================================================

    >>> classify(Outcome(status=204)), classify(Outcome(status=503, retry_after_s=7.0))
    (Delivered(reason='204'), Retry(reason='503', after_s=7.0, soon=False))
    """
    if outcome.failure is not None:
        reason = f"{outcome.failure}: {outcome.detail}" if outcome.detail else outcome.failure
        return Dead(reason) if outcome.failure in _HOPELESS else Retry(reason, soon=outcome.cut)
    status = outcome.status or 0
    reason = f"{status} {outcome.detail}".strip()
    if 200 <= status < 300:
        complaint = (rules or BodyRules()).complaint(outcome.body)
        return Delivered(reason) if complaint is None else Retry(f"{reason}: {complaint}", outcome.retry_after_s)
    if 300 <= status < 400:
        return Retry(f"{reason}: redirects are not followed", outcome.retry_after_s)
    if status == 410:
        return Dead(f"{reason}: the receiver wants no more callbacks and is given up", gone=True)
    if 400 <= status < 500 and status not in _WORTH_RETRYING:
        return Dead(reason)
    return Retry(reason, outcome.retry_after_s)


def excerpt(body: str, url: str, secrets: tuple[str, ...] = ()) -> str:
    """Return the start of an answer's body on one line, without what the URL or `secrets` hold that must stay secret.

    >>> excerpt('no such hook: /hooks/T0123/abcdef', "https://chat.example/hooks/T0123/abcdef")
    'no such hook: ***'
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in body).split())
    for secret in sorted({*secrets, *_secrets_of(url)}, key=len, reverse=True):
        line = line.replace(secret, "***")
    return line if len(line) <= _EXCERPT_CHARACTERS else line[: _EXCERPT_CHARACTERS - 1] + "…"


def safe_origin(url: str) -> str:
    """Return scheme, host and port of a URL: what may stand in a log, since paths and queries can hold secrets.

    >>> safe_origin("https://user:secret@chat.example:8443/hooks/T0123?x=1"), safe_origin("notify:oncall")
    ('https://chat.example:8443', 'notify:oncall')
    """
    if url.startswith("notify:"):
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return "unusable URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _secrets_of(url: str) -> set[str]:
    """Return the parts of a URL that can hold a secret: path, its segments, query, its values, user and password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return {url}
    values = [pair.partition("=")[2] for pair in parts.query.split("&")]
    user = parts.netloc.rpartition("@")[0]
    found = [url, parts.path, *parts.path.split("/"), parts.query, *values, user, *user.split(":"), parts.fragment]
    return {text for part in found for text in (part, unquote(part)) if len(text) >= _SHORTEST_SECRET}


def retry_delay_s(
    attempt: int, u: float, after_s: float | None, *, waits_s: tuple[float, ...] = RETRY_WAITS_S
) -> float:
    """Return the seconds to wait after failed attempt number `attempt`, never less than the receiver asked for.

    The first waits are short, for a receiver that restarts; the later ones outlast a day of outage. `u`, in [0, 1),
    lengthens a wait by up to a quarter, so that callbacks do not return all at once.

    >>> [retry_delay_s(n, 0.0, None) for n in (1, 2, 3, 4)], retry_delay_s(1, 0.0, 60.0)
    ([1.0, 15.0, 180.0, 1800.0], 60.0)
    """
    wait_s = waits_s[min(attempt, len(waits_s)) - 1]
    return max(wait_s * (1 + 0.25 * u), after_s or 0.0)


@dataclass(frozen=True, slots=True)
class Breaker:
    """Hold a circuit breaker for one receiver, as a value; its times are of a monotonic clock.

    Closed until `limit` attempts in a row have failed; then open for a while that doubles up to a minute; then
    half-open: one attempt at a time, whose end closes it or opens it again. While it is open no callback is sent,
    and none uses up its attempts.
    """

    base_s: float = 5.0
    limit: int = 5
    failures: int = 0
    openings: int = 0
    open_until: float = 0.0

    @property
    def tripped(self) -> bool:
        """Return whether it is open or half-open."""
        return self.failures >= self.limit

    def admits(self, now: float, in_flight: int) -> bool:
        """Return whether one more attempt may begin at `now` while `in_flight` are under way."""
        return not self.tripped or (now >= self.open_until and in_flight == 0)

    def after(self, *, alive: bool, now: float, u: float) -> Breaker:
        """Return the breaker after an attempt that found the receiver alive (any answer but one to retry) or not."""
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
    """Hold the limits of delivery. The defaults are those of the configuration's `[delivery]` table where it has them.

    `concurrency` is for one receiver (one URL) that answers; one that is new or has failed gets one attempt at a time.
    `total` is for all receivers; None derives it from the limit of open files. An attempt that has had no answer
    for `patience_s` is cut off, as a failure, only when other receivers wait and all of `total` is in use.
    `retry_waits_s` are the waits between attempts (see `retry_delay_s`); `retry_after_cap_s` bounds what `Retry-After`
    may ask for.
    """

    timeout_s: float = 5.0
    max_attempts: int = 8
    allow_private_addresses: bool = False
    concurrency: int = 8
    total: int | None = None
    patience_s: float = 0.5
    retry_waits_s: tuple[float, ...] = RETRY_WAITS_S
    retry_after_cap_s: float = 3600.0
    breaker_base_s: float = 5.0
    body: BodyRules = field(default_factory=BodyRules)
