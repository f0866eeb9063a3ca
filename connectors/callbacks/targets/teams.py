"""Render alerts for workflows of Microsoft Teams that post an adaptive card for a webhook request.

https://support.microsoft.com/office/8ae491c7-0394-4861-ba59-055e33f75498
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from connectors.callbacks.targets.message import Message, message_of, plain

__all__ = ["render"]

_COLOURS: Final = {"critical": "attention", "warning": "warning"}
_MESSAGE_BYTES: Final = 28_000  # of 28 KB, which some services of Teams count in UTF-16
_FACT_CHARACTERS: Final = (300, 100, 30)


def render(alert: Mapping[str, Any], severity: str) -> bytes:
    """Return a message with one adaptive card: the summary and a set of facts, as long as a message may be."""
    message = message_of(alert)
    colour = "good" if alert.get("state") == "resolved" else _COLOURS[severity]
    for characters in _FACT_CHARACTERS:
        body = orjson.dumps(_message_of(message, colour, characters))
        if max(len(body), len(body.decode().encode("utf-16-le"))) <= _MESSAGE_BYTES:
            break
    return body


def _message_of(message: Message, colour: str, characters: int) -> dict[str, Any]:
    card: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [
            {
                "type": "TextBlock",
                "text": _without_links(message.summary),
                "weight": "bolder",
                "wrap": True,
                "color": colour,
            },
            {
                "type": "FactSet",
                "facts": [
                    {"title": name, "value": text if text == message.link else _without_links(plain(text, characters))}
                    for name, text in message.facts
                ],
            },
        ],
    }
    if message.link:
        card["actions"] = [{"type": "Action.OpenUrl", "title": "Open the live page", "url": message.link}]
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _without_links(text: str) -> str:
    """Return a text that Markdown shows without links, which a label could hold.

    >>> _without_links("[sign in](https://evil.example)")
    '[sign in] (https://evil.example)'
    """
    return text.replace("](", "] (")
