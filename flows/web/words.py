"""Write numbers, times and addresses for the live page and the report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any, Final
from urllib.parse import urlencode

from markupsafe import Markup

from connectors.format.rule_names import RATIOS, TITLES

__all__ = ["FILTERS", "duration", "link", "percent", "replay_command", "rule_name", "said_of", "utc"]

# The page says of these two which limit was exceeded.
RULES: Final = {
    **TITLES,
    "LATENCY_THRESHOLD_EXCEEDED": "Latency above limit",
    "PACKET_LOSS_DETECTED": "Packet loss above limit",
}


def utc(at: float | None, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Return a time in UTC as text.

    >>> utc(1795942028.6)
    '2026-11-29 08:47:08'
    """
    return "–" if at is None else datetime.fromtimestamp(at, UTC).strftime(form)


def moment(at: float | None, style: str = "time") -> str:
    """Return a `time` element, in UTC until the page's script writes it in the viewer's zone."""
    if at is None:
        return "–"
    form = {"time": "%H:%M:%S", "minute": "%H:%M", "full": "%Y-%m-%d %H:%M:%S"}[style]
    return Markup('<time datetime="{}" data-t="{}" data-f="{}" title="{} UTC">{}</time>').format(
        utc(at, "%Y-%m-%dT%H:%M:%SZ"), f"{at:.3f}", style, utc(at), utc(at, form)
    )


def duration(seconds: float | None) -> str:
    """Return a length of time as text.

    >>> [duration(seconds) for seconds in (0.4, 42, 75, 3700, 200_000)]
    ['0.4 s', '42 s', '1 min 15 s', '1 h 1 min', '2 d 7 h']
    """
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for length, name, part, below in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length} {name}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"


def percent(ratio: float | None) -> str:
    """Return a ratio as a percentage.

    >>> [percent(ratio) for ratio in (0.0, 0.0004, 0.012, 0.5, None)]
    ['0 %', '0.04 %', '1.2 %', '50 %', '–']
    """
    if ratio is None:
        return "–"
    value = ratio * 100
    if value == 0 or value >= 10:
        return f"{value:.0f} %"
    return f"{value:.2g} %" if value < 1 else f"{value:.1f} %"


def milliseconds(value: float | None) -> str:
    """Return a latency as text."""
    return "–" if value is None else f"{value:,.0f} ms".replace(",", " ")


def mos(value: float | None) -> str:
    """Return a MOS as text."""
    return "–" if value is None else f"{value:.2f}"


def count(value: int | None) -> str:
    """Return a number with its thousands separated.

    >>> count(1234567).split()
    ['1', '234', '567']
    """
    return "–" if value is None else f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def size(bytes_: int) -> str:
    """Return a number of bytes as text.

    >>> [size(number) for number in (900, 12_300, 5_000_000_000)]
    ['900 B', '12.3 kB', '5.0 GB']
    """
    value, unit = float(bytes_), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def rule_name(rule: str) -> str:
    """Return the readable name of a rule."""
    return RULES.get(rule, rule)


def rule_value(value: float | None, rule: str) -> str:
    """Return a value of a rule's metric."""
    if value is None:
        return "–"
    if rule in RATIOS:
        return percent(value)
    if rule == "LATENCY_THRESHOLD_EXCEEDED":
        return milliseconds(value)
    if rule == "STREAM_STALLED":
        return duration(value)
    return f"{value:.2f}"


# What was wrong while an incident of a rule was open.
WRONG: Final = {
    "LATENCY_THRESHOLD_EXCEEDED": "latency above {}",
    "PACKET_LOSS_DETECTED": "packet loss above {}",
    "LOW_MOS": "MOS below {}",
    "STREAM_STALLED": "silence longer than {}",
}


def said_of(incidents: Sequence[Mapping[str, Any]], now: float) -> list[str]:
    """Return for each rule and limit how long the incidents of a conversation lasted, longest first.

    >>> loss = {"rule": "PACKET_LOSS_DETECTED", "threshold": 0.02, "raised": 100.0, "resolved": 130.0, "lasting": True}
    >>> said_of([loss, loss | {"raised": 150.0, "resolved": None}], now=162.0)
    ['42 s of packet loss above 2.0 %']
    """
    lengths: dict[str, float] = {}
    for one in incidents:
        rule = one["rule"]
        text = WRONG[rule].format(rule_value(one["threshold"], rule)) if rule in WRONG else rule_name(rule).lower()
        ended = now if one["resolved"] is None else one["resolved"]
        lengths[text] = lengths.get(text, 0.0) + (max(ended - one["raised"], 0.0) if one["lasting"] else 0.0)
    ordered = sorted(lengths.items(), key=lambda item: -item[1])
    return [f"{duration(length)} of {text}" if length else text for text, length in ordered]


def replay_command(journal: Path, conversation: str) -> str:
    """Return the shell command that replays a journal and prints the results of a conversation.

    An id with anything but letters, digits and a few signs is left out: it may come from a stranger.

    >>> replay_command(Path("state/journal"), "call-1")
    'voicewatch replay state/journal/*.jsonl* --out what-happened && grep -hF call-1 what-happened/*.jsonl'
    """
    replay = f"voicewatch replay {quote(str(journal))}/*.jsonl* --out what-happened"
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:@-]*", conversation)
    return f"{replay} && grep -hF {conversation} what-happened/*.jsonl" if plain else replay


def link(path: str, query: Mapping[str, str], **changes: Any) -> str:
    """Return a path with a query string, changed by `changes`; None takes a key away.

    >>> link("/fleet", {"range": "1h", "page": "2"}, by="queue", page=None)
    '/fleet?range=1h&by=queue'
    """
    merged = {**query, **changes}
    text = urlencode([(key, str(value)) for key, value in merged.items() if value is not None and value != ""])
    return f"{path}?{text}" if text else path


def duration_ms(seconds: float | None) -> str:
    """Return a short length of time as text.

    >>> [duration_ms(seconds) for seconds in (0.0065, 2.0)]
    ['6 ms', '2.0 s']
    """
    return milliseconds(seconds * 1000) if seconds is not None and seconds < 1 else duration(seconds)


FILTERS = {
    "duration_ms": duration_ms,
    "moment": moment,
    "utc": utc,
    "duration": duration,
    "percent": percent,
    "ms": milliseconds,
    "mos": mos,
    "count": count,
    "size": size,
    "rule": rule_name,
    "rule_value": rule_value,
}
