"""The conversations that the load check lists, and what they are labelled by. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from connectors.format.labels import is_label_value
from connectors.format.notifications import OVER

__all__ = ["ActiveConversation", "read_entity"]


class ActiveConversation(NamedTuple):
    """A conversation in progress: its id, "" if the entry has none, and its labels."""

    id: str
    labels: dict[str, str]


def read_entity(entity: Any) -> ActiveConversation:
    """Read an entry of the load check. What it lacks, or has in another form, gives no label.

    Queue, division and edge are named if the entry has their names, and else known by their ids; an agent by the id of
    the user, because names of people are not labels.

    >>> agent = {"purpose": "agent", "userId": "u", "calls": [{"state": "connected", "provider": "Edge"}]}
    >>> read_entity({"id": "c", "participants": [{"purpose": "acd", "queueName": "Support"}, agent]})
    ActiveConversation(id='c', labels={'queue': 'Support', 'agent': 'u', 'provider': 'Edge'})
    """
    if not isinstance(entity, Mapping):
        return ActiveConversation("", {})
    found: dict[str, Any] = {}
    for participant in _objects(entity, "participants"):
        calls = list(_objects(participant, "calls"))
        if queue := participant.get("queueName") or participant.get("queueId"):
            found["queue"] = queue
        if participant.get("userId") and any(call.get("state") not in OVER for call in calls):
            found["agent"] = participant["userId"]
        for call in calls:
            found["direction"] = call.get("direction") or found.get("direction")
            found["provider"] = call.get("provider") or found.get("provider")
            found["edge"] = call.get("edgeName") or call.get("edgeId") or found.get("edge")
            found["region"] = call.get("mediaRegion") or found.get("region")
    for one in _objects(entity, "divisions"):
        division = one.get("division")
        if isinstance(division, Mapping):
            found["division"] = division.get("name") or division.get("id")
    labels = {name: one for name, one in found.items() if is_label_value(one)}
    id_ = entity.get("id")
    return ActiveConversation(id_ if isinstance(id_, str) else "", labels)


def _objects(of: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    values = of.get(key)
    return (one for one in values if isinstance(one, Mapping)) if isinstance(values, list) else iter(())
