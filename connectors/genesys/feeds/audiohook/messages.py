"""Read and write the parts of AudioHook messages."""

from __future__ import annotations

import re
from typing import Any, Final

__all__ = [
    "MAX_ID",
    "RATE_HZ",
    "best_channels",
    "continued_sessions",
    "duration",
    "duration_s",
    "integer_of",
    "text_of",
    "texts_of",
]

MAX_DURATION_S: Final = 1e7
MAX_ID: Final = 256
MAX_CONTINUED: Final = 16
MAX_TEXTS: Final = 256
RATE_HZ: Final = 8000

_DURATION: Final = re.compile(r"PT((?:[0-9]*\.)?[0-9]+)S", re.ASCII)


def duration_s(text: object) -> float:
    """Return the seconds of a duration of the protocol. Raises ValueError.

    >>> duration_s("PT1.3S")
    1.3
    """
    found = _DURATION.fullmatch(text) if isinstance(text, str) and len(text) <= 40 else None
    if found is None or (seconds := float(found[1])) > MAX_DURATION_S:
        raise ValueError("not a duration")
    return seconds


def duration(seconds: float) -> str:
    """Return seconds as a duration of the protocol, to the microsecond.

    >>> duration(1.3), duration(0)
    ('PT1.3S', 'PT0S')
    """
    return f"PT{f'{seconds:.6f}'.rstrip('0').rstrip('.')}S"


def texts_of(parameters: dict[str, Any]) -> dict[str, str]:
    """Return the texts and numbers of `customConfig` and `inputVariables` by their keys; the latter take precedence."""
    custom = parameters.get("customConfig")
    places = [
        custom,
        custom.get("inputVariables") if isinstance(custom, dict) else None,
        parameters.get("inputVariables"),
    ]
    found: dict[str, str] = {}
    for place in places:
        for key, value in place.items() if isinstance(place, dict) else ():
            if isinstance(value, str | int) and len(found) < MAX_TEXTS:
                found[key] = str(value)
    return found


def best_channels(offered: list[Any]) -> list[str] | None:
    """Return the channels of the first offer of 8 kHz PCMU with the most of them."""
    fit = [
        media["channels"]
        for media in offered
        if isinstance(media, dict)
        and (media.get("type"), media.get("format"), media.get("rate")) == ("audio", "PCMU", RATE_HZ)
        and isinstance(media.get("channels"), list)
        and 1 <= len(media["channels"]) <= 2
        and all(isinstance(channel, str) and len(channel) <= MAX_ID for channel in media["channels"])
    ]
    return max(fit, key=len, default=None)


def continued_sessions(parameters: dict[str, Any]) -> tuple[str, ...]:
    """Return the ids of the sessions that this one continues."""
    sessions = parameters.get("continuedSessions")
    if not isinstance(sessions, list):
        return ()
    return tuple(text_of(session.get("id")) for session in sessions[:MAX_CONTINUED] if isinstance(session, dict))


def text_of(value: object) -> str:
    """Return a text, shortened to `MAX_ID` characters; "" for anything else."""
    return value[:MAX_ID] if isinstance(value, str) else ""


def integer_of(value: object) -> int | None:
    """Return an integer, None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
