"""Render alerts for Slack: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from connectors.callbacks.targets.message import message_of

__all__ = ["render"]

_FIELDS: Final = 10  # of a section, at most
_FIELD_CHARACTERS: Final = 2000
_HEADER_CHARACTERS: Final = 3000
_MARKS: Final = {"critical": ":red_circle:", "warning": ":large_yellow_circle:"}


def render(alert: Mapping[str, Any], severity: str) -> bytes:
    """Return a message with a summary and a section of fields; texts are escaped as Slack wants them."""
    message = message_of(alert)
    mark = ":large_green_circle:" if alert.get("state") == "resolved" else _MARKS[severity]
    headline = f"{mark} {_escaped(message.summary)}"[:_HEADER_CHARACTERS]
    fields = [
        {"type": "mrkdwn", "text": f"*{_escaped(name)}*\n{_escaped(text)}"[:_FIELD_CHARACTERS]}
        for name, text in message.facts
    ]
    sections = [
        {"type": "section", "fields": fields[start : start + _FIELDS]} for start in range(0, len(fields), _FIELDS)
    ]
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": headline}}, *sections]
    return orjson.dumps({"text": headline, "blocks": blocks})


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
