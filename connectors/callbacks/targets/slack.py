"""Render alerts for Slack: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from connectors.callbacks.targets.message import message_of

__all__ = ["render"]

_FIELDS: Final = 10  # of a section, at most
_MARKS: Final = {"critical": ":red_circle:", "warning": ":large_yellow_circle:"}


def render(alert: Mapping[str, Any], severity: str) -> bytes:
    """Return a message with a summary and sections of fields.

    Texts are escaped as Slack wants them, and `verbatim`: names of channels and people in them are not made links.
    Escaped, a summary has at most 2,500 of the 3,000 characters of a text, and a fact 1,500 of the 2,000 of a field.
    """
    message = message_of(alert)
    mark = ":large_green_circle:" if alert.get("state") == "resolved" else _MARKS[severity]
    headline = f"{mark} {_escaped(message.summary)}"
    shown = [_text(f"*{_escaped(name)}*\n{_escaped(text)}") for name, text in message.facts if text != message.link]
    fields = [*shown, *([_text(f"*Live page*\n<{_escaped(message.link)}>")] if message.link else [])]
    sections = [
        {"type": "section", "fields": fields[start : start + _FIELDS]} for start in range(0, len(fields), _FIELDS)
    ]
    blocks = [{"type": "section", "text": _text(headline)}, *sections]
    return orjson.dumps({"text": headline, "blocks": blocks})


def _text(text: str) -> dict[str, Any]:
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
