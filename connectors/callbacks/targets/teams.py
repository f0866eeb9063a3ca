"""Render alerts for workflows of Microsoft Teams that post an adaptive card for a webhook request.

https://support.microsoft.com/office/8ae491c7-0394-4861-ba59-055e33f75498
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from connectors.callbacks.targets.message import LINK, message_of

__all__ = ["render"]

_COLOURS: Final = {"critical": "attention", "warning": "warning"}
_FACT_CHARACTERS: Final = 500  # a message may have 28 KB


def render(alert: Mapping[str, Any], severity: str) -> bytes:
    """Return a message with one adaptive card: the summary and a set of facts."""
    message = message_of(alert)
    colour = "good" if alert.get("state") == "resolved" else _COLOURS[severity]
    headline = {"type": "TextBlock", "text": message.summary, "weight": "bolder", "wrap": True, "color": colour}
    facts = {
        "type": "FactSet",
        "facts": [{"title": name, "value": text[:_FACT_CHARACTERS]} for name, text in message.facts],
    }
    card: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [headline, facts],
    }
    if link := alert.get(LINK):
        card["actions"] = [{"type": "Action.OpenUrl", "title": "Open the live page", "url": str(link)}]
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return orjson.dumps({"type": "message", "attachments": [attachment]})
