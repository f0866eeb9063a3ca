"""Several rule sets over the same blocks: what each would have raised, and how two of them differ.

An incident is an alert that was raised, with the alert that resolved it. With the policy `frame` every alert is an
incident without a length. An incident that is open at the end of the recording lasts until then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import orjson

from connectors.format.decoded import Decoded
from flows.analytics.alerts import Alert
from flows.analytics.merge import Merger, block_stats
from flows.analytics.precedence import Overrides
from flows.analytics.shard import Shard
from flows.analytics.shards import split_pieces
from flows.analytics.sharing import Alone, Following, Leading, sharing_key

__all__ = ["FLAP_S", "Change", "Figures", "Incident", "RuleSets", "changes", "figures", "incidents_of"]

FLAP_S: Final = 10.0
"""An incident that is resolved within this time, in seconds, is a flap."""


class Incident(NamedTuple):
    """One incident; `ended_at` is None while it is open. Times in epoch seconds. `group`: that of a group incident.

    `is_sent` is false if its alert has no callback URL, or is held back by a group's incident or the cap of a minute.
    """

    incident_id: str
    conversation_id: str | None
    rule: str
    began_at: float
    ended_at: float | None
    value: float | None
    is_sent: bool
    group: tuple[tuple[str, str], ...] = ()


class Figures(NamedTuple):
    """What a rule set would have raised. `in_alert_min` adds up the lengths of all incidents, in minutes."""

    incidents: int
    in_alert_min: float
    flaps: int
    conversations: int
    open: int
    sent: int


class Change(NamedTuple):
    """How an incident differs from that of the first rule set: it appears, vanishes, or its length changes."""

    kind: str
    incident: Incident
    before_s: float | None
    after_s: float | None


class RuleSets:
    """Applies decoded blocks, in journal order, to one dataflow state for each rule set; pure calls, no clock."""

    def __init__(self, overrides: Sequence[Overrides], shards: int) -> None:
        self._count = shards
        leaders = dict[bytes, list[Leading]]()
        # A backtest does not show windows, and their lines would take a fifth of its time.
        self._shards = [
            [Shard(override, one, lines=False) for one in _sharing(override, leaders, shards)] for override in overrides
        ]
        self._mergers = [Merger(shards) for _ in overrides]
        self.alerts: list[list[Alert]] = [[] for _ in overrides]
        self.end = float("-inf")

    def apply(self, number: int, pieces: Sequence[Decoded], *, last: bool) -> None:
        """Apply block `number`, whose pieces the steps of a clock separate; `last`: the recording ends with it."""
        of_shards = split_pieces(number, pieces, self._count, last=last)
        stats = [block_stats(number, "", 1, one) for one in pieces]
        self.end = max(self.end, *(one.time for one in pieces))
        for shards, merger, alerts in zip(self._shards, self._mergers, self.alerts, strict=True):
            merger.add_stats(stats)
            for shard, mine in zip(shards, of_shards, strict=True):
                merger.add_results(number, [shard.apply(part) for part in mine])
            for report in merger.results():
                alerts.extend(report.alerts)


def _sharing(overrides: Overrides, leaders: dict[bytes, list[Leading]], shards: int) -> Sequence[Alone]:
    """Return what each shard of a rule set shares; the first rule set of a key leads those that come after it."""
    key = sharing_key(overrides)
    if key not in leaders:
        leaders[key] = [Leading() for _ in range(shards)]
        return leaders[key]
    following = [Following() for _ in range(shards)]
    for leader, follower in zip(leaders[key], following, strict=True):
        leader.followers.append(follower)
    return following


def incidents_of(alerts: Iterable[Alert]) -> list[Incident]:
    """Return the incidents of alerts in journal order, in the order in which they began."""
    found: dict[str, Incident] = {}
    for alert in alerts:
        body = orjson.loads(alert.body)
        incident_id = body["incidentId"]
        if alert.state == "raised":
            found[incident_id] = Incident(
                incident_id,
                body["conversationId"],
                alert.rule,
                alert.time,
                None,
                body["metricValue"],
                alert.url is not None and alert.is_sent,
                tuple((body.get("group") or {}).items()),
            )
        elif incident_id in found:
            found[incident_id] = found[incident_id]._replace(ended_at=alert.time)
    return list(found.values())


def figures(incidents: Sequence[Incident], end: float) -> Figures:
    """Return the figures of a rule set's incidents; those that are open last until `end`, in epoch seconds."""
    lengths = [length_s(incident, end) for incident in incidents]
    return Figures(
        incidents=len(incidents),
        in_alert_min=sum(lengths) / 60.0,
        flaps=sum(
            incident.ended_at is not None and length < FLAP_S
            for incident, length in zip(incidents, lengths, strict=True)
        ),
        conversations=len({incident.conversation_id for incident in incidents if incident.conversation_id is not None}),
        open=sum(incident.ended_at is None for incident in incidents),
        sent=sum(incident.is_sent for incident in incidents),
    )


def length_s(incident: Incident, end: float) -> float:
    """Return the length of an incident in seconds, until `end` if it is open."""
    return round(max((end if incident.ended_at is None else incident.ended_at) - incident.began_at, 0.0), 6)


def changes(first: Sequence[Incident], other: Sequence[Incident], end: float) -> list[Change]:
    """Compare the incidents of `other` with those of `first`, by the time of their beginning.

    Incidents are the same if they have the same id: conversation, rule and the frame that raised them.
    """
    before = {incident.incident_id: incident for incident in first}
    after = {incident.incident_id: incident for incident in other}
    found = [Change("vanishes", one, length_s(one, end), None) for key, one in before.items() if key not in after]
    for key, one in after.items():
        now_s = length_s(one, end)
        if key not in before:
            found.append(Change("appears", one, None, now_s))
        elif (then_s := length_s(before[key], end)) != now_s:
            found.append(Change("longer" if now_s > then_s else "shorter", one, then_s, now_s))
    return sorted(found, key=lambda change: (change.incident.began_at, change.incident.incident_id))
