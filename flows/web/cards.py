"""Work out what the cards of feeds and receivers show, from the read model and from the metrics of the run."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Final

from flows.web.model import MINUTE_S, Model
from flows.web.queries import Gap, Span, gaps_of, now_of

__all__ = ["CLASSES", "answers_by_hour", "feeds", "live_figures", "with_live"]

HOUR_S: Final = 3600
DAY_S: Final = 24 * HOUR_S
SHOWN_ANSWERS: Final = 6
# The classes of answers: `none` is an attempt that got no answer, such as a timeout.
CLASSES: Final = ("2xx", "3xx", "4xx", "5xx", "none")
# The actions of the audit log that are attempts. A callback may die without one, of a receiver that is gone.
ANSWERS: Final = ("CALLBACK_DELIVERED", "CALLBACK_FAILED", "CALLBACK_DEAD")
# Metrics of the run that no file has: their names here, whether they are of one feed, what they are called there.
_LIVE: Final = {
    "voicewatch_feed_duplicates_total": "duplicates",
    "voicewatch_feed_topics": "topics",
    "voicewatch_feed_channels": "channels",
    "voicewatch_feed_channel_age_seconds": "channel_age_s",
    "voicewatch_genesys_requests": "requests",
    "voicewatch_journal_lag_seconds": "journal_lag_s",
    "voicewatch_journal_lag_bytes": "journal_lag_bytes",
}
_OPEN: Final = re.compile(r'^voicewatch_receivers\{state="open"\} (\S+)$', re.MULTILINE)
_SAMPLE: Final = re.compile(r'^(voicewatch_\w+)(?:\{feed="([^"\\]*)"\})? (\S+)$', re.MULTILINE)


def feeds(model: Model, span: Span, receivers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the feeds with their gaps in a span, the receivers with their attempts, and the state of the files."""
    gaps = gaps_of(model)
    found: dict[str, dict[str, Any]] = {}
    for row in model.db.execute("SELECT name, at, state, reason FROM feeds ORDER BY seq"):
        first = found.get(row["name"], {}).get("first", row["at"])
        found[row["name"]] = dict(row) | {"first": first}
    now = now_of(model)
    messages, lags = _messages(model, span, list(found)), _lags(model, span, list(found))
    for name in found:
        own = [gap for gap in gaps if gap.feed == name]
        in_span = [(gap, _overlap_s(gap, now, span.start, span.end)) for gap in own]
        of_day = [length for gap in own if (length := _overlap_s(gap, now, now - DAY_S, now)) or gap.end is None]
        found[name] |= messages[name] | lags[name]
        found[name] |= {
            "gaps": [gap._asdict() for gap, length_s in in_span if length_s or gap.end is None],
            "gap_s": sum(length_s for _, length_s in in_span),
            "gaps_24h": len(of_day),
            "gap_24h_s": sum(of_day),
        }
    return {
        "feeds": list(found.values()),
        "receivers": [
            row | _attempts(model, span, row["endpoint"]) | {"hours": answers_by_hour(model, row["endpoint"])}
            for row in receivers
        ],
        "classes": CLASSES,
        "journal_at": model.journal_at,
        "bad_lines": model.bad_lines,
    }


def _overlap_s(gap: Gap, now: float, start: float, end: float) -> float:
    return max(min(end, now if gap.end is None else gap.end) - max(gap.start, start), 0.0)


def _messages(model: Model, span: Span, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return how many messages each feed received in a span, by column, and a second in the last minute."""
    now = now_of(model)
    minute = int(now // MINUTE_S) * MINUTE_S
    result = {}
    for name in names:
        keys = ("", name) if len(names) == 1 else (name, name)  # a lone feed may have no name in its records
        columns = model.db.execute(
            "SELECT minute / ? * ? AS start, SUM(frames), SUM(invalid) FROM messages"
            " WHERE name IN (?, ?) AND minute >= ? AND minute < ? GROUP BY start ORDER BY start",
            (span.step, span.step, *keys, span.start, span.end),
        ).fetchall()
        recent: dict[int, int] = dict(
            model.db.execute(
                "SELECT minute, SUM(frames + invalid) FROM messages"
                " WHERE name IN (?, ?) AND minute IN (?, ?) GROUP BY 1",
                (*keys, minute - MINUTE_S, minute),
            ).fetchall()
        )
        # What arrived in the last 60 s: this minute, and the part of the one before that is not over for as long.
        left = 1 - (now - minute) / MINUTE_S
        per_minute = recent.get(minute, 0) + left * recent.get(minute - MINUTE_S, 0)
        result[name] = {
            "messages": sum(frames + invalid for _, frames, invalid in columns),
            "rejected": sum(invalid for _, _, invalid in columns),
            "messages_per_s": per_minute / MINUTE_S,
            "rate": [[start, (frames + invalid) / span.step] for start, frames, invalid in columns],
        }
    return result


def _lags(model: Model, span: Span, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return how late the late events of each feed were, in milliseconds: the mean and the highest; None without."""
    result = {}
    for name in names:
        keys = ("", name) if len(names) == 1 else (name, name)
        total, count, highest = model.db.execute(
            "SELECT SUM(sum), SUM(count), MAX(max) FROM lags WHERE name IN (?, ?) AND minute >= ? AND minute < ?",
            (*keys, span.start, span.end),
        ).fetchone()
        result[name] = {"event_lag_mean_ms": total / count if count else None, "event_lag_max_ms": highest}
    return result


def class_of(action: str, outcome: str) -> str:
    """Return the class of the answer to an attempt.

    >>> class_of("CALLBACK_FAILED", "503 Service Unavailable"), class_of("CALLBACK_FAILED", "timeout: no answer")
    ('5xx', 'none')
    """
    digits = outcome[:3]
    known = f"{digits[0]}xx" if len(digits) == 3 and digits.isascii() and digits.isdigit() else "none"
    return known if known in CLASSES else "2xx" if action == "CALLBACK_DELIVERED" else "none"


def answers_by_hour(model: Model, endpoint: str) -> list[dict[str, Any]]:
    """Return for each of the last 24 hours, the oldest first, how many attempts had an answer of each class.

    An hour begins on the full hour, so the last one is not over.
    """
    last = int(now_of(model) // HOUR_S) * HOUR_S
    first = last - DAY_S + HOUR_S
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    rows = model.db.execute(
        "SELECT CAST(at / ? AS INTEGER) * ?, action, outcome, COUNT(*) FROM attempts"
        " WHERE endpoint = ? AND at >= ? AND action IN (?, ?, ?) GROUP BY 1, 2, 3",
        (HOUR_S, HOUR_S, endpoint, first, *ANSWERS),
    )
    for hour, action, outcome, count in rows:
        counts[hour][class_of(action, outcome)] += count
    return [
        {"start": start, **{name: counts[start][name] for name in CLASSES}} for start in range(first, last + 1, HOUR_S)
    ]


def _attempts(model: Model, span: Span, endpoint: str) -> dict[str, Any]:
    """Return the results of the attempts at a receiver in a span, and how long they took in seconds.

    `took` is from the alert until it was delivered, `answer` one attempt alone.
    """
    times = (endpoint, span.start, span.end)
    where = "FROM attempts WHERE endpoint = ? AND at >= ? AND at < ?"
    answers: Counter[str] = Counter()
    actions: Counter[str] = Counter()
    for action, outcome, count in model.db.execute(f"SELECT action, outcome, COUNT(*) {where} GROUP BY 1, 2", times):
        answers[outcome or action] += count
        actions[action] += count
    took = model.db.execute(
        "SELECT attempts.at - alerts.at AS s FROM attempts JOIN alerts ON alerts.id = alert"
        " WHERE endpoint = ? AND attempts.at >= ? AND attempts.at < ? AND action = 'CALLBACK_DELIVERED' ORDER BY s",
        times,
    ).fetchall()
    alone = model.db.execute(f"SELECT took_s {where} AND took_s IS NOT NULL ORDER BY 1", times).fetchall()
    return {
        "answers": sorted(answers.items(), key=lambda one: (-one[1], one[0]))[:SHOWN_ANSWERS],
        "sent": actions["CALLBACK_DELIVERED"],
        "failed": actions["CALLBACK_FAILED"],
        "took_p50_s": _quantile(took, 50),
        "took_p99_s": _quantile(took, 99),
        "answer_p50_s": _quantile(alone, 50),
        "answer_p99_s": _quantile(alone, 99),
    }


def _quantile(rows: Sequence[Any], percent: int) -> float | None:
    return float(rows[min(len(rows) * percent // 100, len(rows) - 1)][0]) if rows else None


def live_figures(metrics: str) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    r"""Return the figures that only a running process has, from its metrics: of all, and by feed.

    >>> live_figures('voicewatch_genesys_requests 12.0\nvoicewatch_feed_topics{feed="a"} 30.0\n')
    ({'requests': 12.0}, {'a': {'topics': 30.0}})
    >>> live_figures('voicewatch_receivers{state="open"} 1.0\n')[0]
    {'breakers_open': 1.0}
    """
    whole: dict[str, float] = {}
    by_feed: dict[str, dict[str, float]] = defaultdict(dict)
    for metric, feed, value in _SAMPLE.findall(metrics):
        if (name := _LIVE.get(metric)) is not None:
            (by_feed[feed] if feed else whole)[name] = float(value)
    if (found := _OPEN.search(metrics)) is not None:
        whole["breakers_open"] = float(found[1])
    return whole, dict(by_feed)


def with_live(found: dict[str, Any], metrics: str) -> dict[str, Any]:
    """Return the cards with the figures that only a running process has."""
    whole, by_feed = live_figures(metrics)
    return found | {
        "run": whole,
        "feeds": [feed | {"live": by_feed.get(feed["name"], {})} for feed in found["feeds"]],
    }
