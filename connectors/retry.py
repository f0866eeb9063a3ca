"""When to try again: pure functions of the attempt, the answer's headers and a given chance."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime

__all__ = ["backoff_s", "retry_after_s"]


def backoff_s(attempt: int, u: float, *, base_s: float = 0.5, cap_s: float = 60.0) -> float:
    """Seconds to wait after failed attempt number `attempt` (1, 2, …): exponential, with equal jitter.

    `u` is a chance in [0, 1) from the caller. Half of the wait is fixed, so that a crowd of clients spreads out
    and none retries at once.

    >>> [backoff_s(n, 0.0) for n in (1, 2, 3)], backoff_s(20, 0.5)
    ([0.25, 0.5, 1.0], 45.0)
    """
    ceiling = min(cap_s, base_s * 2.0 ** min(attempt - 1, 32))
    return ceiling * (0.5 + 0.5 * u)


def retry_after_s(headers: Mapping[str, str], now: float, *, cap_s: float) -> float | None:
    """Seconds that a `Retry-After` header asks for, at most `cap_s`; None if absent or unreadable.

    Both forms of RFC 9110 §10.2.3 are read: seconds, and an HTTP date (against `now`, epoch seconds). `headers`
    must look names up without regard to case, or hold them in lower case.
    """
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        asked = float(text)
    except ValueError:
        try:
            asked = parsedate_to_datetime(text).timestamp() - now
        except ValueError:
            return None
    if asked != asked:  # Python reads "nan" as a float, which is not a usable delay
        return None
    return min(max(asked, 0.0), cap_s)
