"""Describe an alert in words: the part that the messages of all targets share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from connectors.format.rule_names import RATIOS, TITLES

__all__ = ["LINK", "Message", "iso_time", "message_of", "plain"]

# The key under which an alert that is rendered holds the address of its view on the live page.
LINK: Final = "link"

_SUMMARY_CHARACTERS: Final = 500
_FACT_CHARACTERS: Final = 300
_SUBJECT_CHARACTERS: Final = 128
_LINK_CHARACTERS: Final = 2000
_UNITS: Final = {
    "LATENCY_THRESHOLD_EXCEEDED": " ms",
    "STREAM_STALLED": " s",
    "ONE_WAY_AUDIO": " dBFS",
    "DEAD_AIR": " dBFS",
    "ALERT_STORM": " alerts",
}
_NAMES: Final = {"minRFactor": "Lowest R factor", "entityId": "Entity", "conversationId": "Conversation of the event"}
# What an alert of a single event is about, in this order: of its evidence, those that are there.
_TELLING: Final = ("event", "entityType", "entityId", "status", "channel", "code", "disconnectType", "errorCode")


@dataclass(frozen=True, slots=True)
class Message:
    """Hold an alert in words: a `summary` of one line, `facts` as pairs of a name and a text, and the `link`.

    Texts are short, on one line and without control characters, whatever labels and ids hold. `link` is the address of
    the alert's view on the live page; it is also the last fact. It is empty if no live page is configured, or if the
    address is longer than services accept.
    """

    summary: str
    facts: tuple[tuple[str, str], ...]
    link: str = ""


def message_of(alert: Mapping[str, Any]) -> Message:
    """Describe an alert, the object of a line of `alerts.jsonl`.

    >>> message_of({"alertType": "LATENCY_THRESHOLD_EXCEEDED", "state": "raised", "conversationId": "c1",
    ...             "metricValue": 312.5, "threshold": 150.0, "timestamp": 1767225600.0, "labels": {}}).summary
    'High latency: conversation c1, 312.5 ms (limit 150 ms)'
    """
    rule = str(alert.get("alertType"))
    title = TITLES.get(rule, rule)
    resolved = alert.get("state") == "resolved"
    labels, evidence = _texts(alert, "labels"), _evidence(alert)
    value, limit = _text(rule, alert.get("metricValue")), _text(rule, alert.get("threshold"))
    subject = _subject(alert)
    figures = f"{value} (limit {limit})" if value and limit else value
    told = " ".join(evidence[name] for name in _TELLING if name in evidence)
    summary = ": ".join(
        filter(None, ("Resolved" if resolved else "", title, ", ".join(filter(None, (subject, told, figures)))))
    )
    link = str(alert.get(LINK) or "")
    link = link if len(link) <= _LINK_CHARACTERS else ""
    facts = [
        ("Rule", rule),
        ("State", str(alert.get("state")) + (f" ({alert['reason']})" if alert.get("reason") else "")),
        ("Conversation", alert.get("conversationId")),
        *((name.capitalize(), text) for name, text in sorted(_texts(alert, "group").items())),
        ("Leg", alert.get("legId")),
        ("Value", value),
        ("Limit", limit),
        ("Conversations", _share(alert)),
        *((_words(name), text) for name, text in evidence.items() if name not in labels),
        ("Time", iso_time(alert.get("timestamp"))),
        *((name.capitalize(), text) for name, text in sorted(labels.items())),
        ("Incident", alert.get("incidentId")),
    ]
    shown = [(plain(name), plain(str(text))) for name, text in facts if text]
    return Message(plain(summary, _SUMMARY_CHARACTERS), (*shown, *([("Live page", link)] if link else [])), link)


def plain(text: str, characters: int = _FACT_CHARACTERS) -> str:
    r"""Return a text without control characters, cut after a number of characters.

    >>> plain("a\nb" + 400 * "c", 5)
    'a�bc…'
    """
    text = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text[: characters + 1])
    return text if len(text) <= characters else text[: characters - 1] + "…"


def iso_time(at: Any) -> str:
    """Return epoch seconds as RFC 3339 in UTC with milliseconds; nothing for what is not a time.

    >>> iso_time(1767225600.25)
    '2026-01-01T00:00:00.250Z'
    """
    if not isinstance(at, int | float) or not 0 <= at < 253_402_300_800:
        return ""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _subject(alert: Mapping[str, Any]) -> str:
    if alert.get("conversationId"):
        return f"conversation {plain(str(alert['conversationId']), _SUBJECT_CHARACTERS)}"
    group = _texts(alert, "group")
    return plain(", ".join(f"{name} {text}" for name, text in sorted(group.items())), 2 * _SUBJECT_CHARACTERS)


def _texts(alert: Mapping[str, Any], key: str) -> dict[str, str]:
    value = alert.get(key)
    return {str(name): str(text) for name, text in value.items()} if isinstance(value, Mapping) else {}


def _evidence(alert: Mapping[str, Any]) -> dict[str, str]:
    """Return what the message of an event says, as texts."""
    value = alert.get("evidence")
    texts = {
        str(name): ", ".join(map(str, item)) if isinstance(item, list) else f"{item:.6g}" if _is_number(item) else item
        for name, item in (value.items() if isinstance(value, Mapping) else ())
    }
    return {name: text for name, text in texts.items() if isinstance(text, str) and text}


def _share(alert: Mapping[str, Any]) -> str:
    conversations, breaching = alert.get("conversations"), alert.get("breaching")
    return f"{breaching} of {conversations} with bad frames" if isinstance(conversations, int) else ""


def _words(name: str) -> str:
    """Write the name of a key in words.

    >>> _words("disconnectType")
    'Disconnect type'
    """
    return _NAMES.get(name) or re.sub("(?<=[a-z])(?=[A-Z])", " ", name).capitalize()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(rule: str, value: Any) -> str:
    if not _is_number(value):
        return ""
    return f"{value * 100:.4g} %" if rule in RATIOS else f"{value:.6g}{_UNITS.get(rule, '')}"
