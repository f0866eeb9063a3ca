"""Identify EventBridge events, and find those that a journal holds. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from connectors.format.lines import lines_via

__all__ = ["event_id", "event_ids_in", "identified"]

_ID: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}")
_ID_OF_FRAME: Final = re.compile(rb'"frame":\{"id":"([^"\\]+)"')


def event_id(event: Mapping[str, Any]) -> str:
    """Return the id of an event; for one without, a hash of its topic and body.

    Raise TypeError for an event without an id that cannot be written as JSON again.

    >>> event_id({"id": "7bf73129-1428-4cd3-a780-95db273d1602"})
    '7bf73129-1428-4cd3-a780-95db273d1602'
    >>> event_id({"topicName": "t", "eventBody": {"a": 1, "b": 2}}) == event_id(
    ...     {"eventBody": {"b": 2, "a": 1}, "topicName": "t", "metadata": {}}
    ... )
    True
    """
    id_ = event.get("id")
    if isinstance(id_, str) and _ID.fullmatch(id_):
        return id_
    content = [event.get("topicName", event.get("detail-type")), event.get("eventBody", event.get("detail"))]
    canonical = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return "blake2b:" + hashlib.blake2b(canonical, digest_size=16).hexdigest()


def identified(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of an event with its id as the first key, where `event_ids_in` looks for it."""
    return {"id": event_id(event), **{key: value for key, value in event.items() if key != "id"}}


def event_ids_in(lines: bytes, feed: str) -> list[str]:
    r"""Return the ids of the events that a feed wrote into these lines of a journal, in order.

    >>> event_ids_in(b'{"received_at":1.5,"via":"bus","frame":{"id":"e1","detail-type":"t","detail":{}}}\n', "bus")
    ['e1']
    """
    return [match[1].decode() for line in lines_via(lines, feed) if (match := _ID_OF_FRAME.match(line))]
