"""The calls of a simulated organisation: which are in progress, and what each has been so far.

Snapshots and load check entities take their shape from Genesys' conversations, as far as that is published.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from connectors.genesys.simulator.calls import conversation_id
from connectors.genesys.simulator.organisation import Organisation
from connectors.genesys.simulator.stories import KINDS, Kind, Leg, Story, story_of

__all__ = ["CallBook", "SimulatedCall", "iso"]

_KEPT_CALLS: Final = 2000


def iso(seconds: float) -> str:
    """Format epoch seconds as Genesys does.

    >>> iso(0.25)
    '1970-01-01T00:00:00.250Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(slots=True)
class SimulatedCall:
    """A call that began at `began_at` (epoch seconds); `ended_at` is None while it is in progress.

    `added_ms` and `added_loss` are what faults did to its media; `agent_loss` is lost on the way to the agents only.
    `highest_mos` caps the MOS that is measured, `other_codec` is one that agents' legs changed to.
    """

    id: str
    slot: int
    story: Story
    began_at: float
    ended_at: float | None = None
    added_ms: float = 0.0
    added_loss: float = 0.0
    agent_loss: float = 0.0
    highest_mos: float = 5.0
    other_codec: str | None = None

    @property
    def legs(self) -> tuple[Leg, ...]:
        """Return all legs, with the end of the call once it is over."""
        return self.story.legs

    def end(self, now: float, error_code: str | None = None) -> None:
        """End the call, and every leg that is still there; with an `error_code`, because those of agents failed."""
        self.ended_at = now
        self.story = self.story.ended(now - self.began_at, error_code)

    def labels(self, now: float) -> dict[str, str]:
        """Name the queue, agent, edge and so on that the call has at a time, by their names."""
        at_s = now - self.began_at
        queue, agent = self.story.queue(at_s), self.story.agent_leg(at_s)
        labels = {"direction": self.story.direction, "edge": self.story.edge.name, "provider": self.story.edge.provider}
        labels["region"] = self.story.edge.region
        if queue is not None:
            labels |= {"queue": queue.name, "division": queue.division.name}
        if agent is not None and agent.agent is not None:
            labels["agent"] = agent.agent.name
        return labels

    def snapshot(self, now: float, *, only_agents: bool = False) -> dict[str, Any]:
        """Show the call as queue and user topics do; `only_agents` leaves out the other participants."""
        at_s = now - self.began_at
        shown = [leg for leg in self.legs if leg.state(at_s) is not None and (leg.agent is not None or not only_agents)]
        participants = [self._participant(leg, at_s) for leg in shown]
        return {"id": self.id, "participants": participants, "recordingState": "none"}

    def entity(self, now: float) -> dict[str, Any]:
        """Show the call as the load check lists it: participants with their calls, and the division.

        A call whose first frame is prepared, but not due yet, is shown as at its beginning.
        """
        at_s, edge = max(0.0, now - self.began_at), self.story.edge
        participants = []
        for leg in self.legs:
            if (state := leg.state(at_s)) is None:
                continue
            call = {"id": leg.session_id, "state": state, "direction": self.story.direction, "provider": edge.provider}
            participant: dict[str, Any] = {
                "id": leg.id,
                "purpose": leg.purpose,
                "calls": [{**call, "edgeId": edge.id, "edgeName": edge.name, "mediaRegion": edge.region}],
            }
            if leg.queue is not None:
                participant |= {"queueId": leg.queue.id, "queueName": leg.queue.name}
            if leg.agent is not None:
                participant |= {"userId": leg.agent.id, "name": leg.agent.name}
            participants.append(participant)
        entity: dict[str, Any] = {"id": self.id, "startTime": iso(self.began_at), "participants": participants}
        queue = self.story.queue(at_s)
        if queue is not None:
            division = {"id": queue.division.id, "name": queue.division.name}
            entity["divisions"] = [{"division": division}]
        return entity

    def _participant(self, leg: Leg, at_s: float) -> dict[str, Any]:
        edge = self.story.edge
        shown: dict[str, Any] = {
            "id": leg.id,
            "purpose": leg.purpose,
            "state": leg.state(at_s),
            "direction": self.story.direction,
            "startTime": iso(self.began_at + leg.begins_s),
            "held": leg.is_held(at_s),
            "muted": False,
            "provider": edge.provider,
        }
        if leg.connects_s <= at_s:
            shown["connectedTime"] = iso(self.began_at + leg.connects_s)
        if leg.ends_s <= at_s:
            shown |= {"endTime": iso(self.began_at + leg.ends_s), "disconnectType": leg.disconnect_type}
        if leg.error_code is not None:
            message = "The WebRTC connection was lost."
            shown["errorInfo"] = {"code": leg.error_code, "message": message, "messageParams": {}}
        if leg.queue is not None:
            shown["queue"] = {"id": leg.queue.id}
        if leg.agent is not None:
            shown["user"] = {"id": leg.agent.id}
        if leg.purpose == "customer":
            shown |= {"ani": f"tel:+1317555{self.slot % 10_000:04}", "dnis": "tel:+13175550100", "name": "Indianapolis"}
        return shown


class CallBook:
    """The calls of the simulator's slots, told by stories of these `kinds`."""

    def __init__(self, organisation: Organisation, seed: int, kinds: tuple[Kind, ...] = KINDS) -> None:
        self.organisation = organisation
        self._seed = seed
        self._kinds = kinds
        self._numbers: dict[int, int] = {}
        self._calls: dict[str, SimulatedCall] = {}

    @property
    def calls(self) -> Collection[SimulatedCall]:
        """Return all calls that are known, oldest first: those in progress and the last ones that ended."""
        return list(self._calls.values())

    def in_progress(self) -> list[SimulatedCall]:
        """List the calls that have begun and not ended."""
        return [call for call in self._calls.values() if call.ended_at is None]

    def __getitem__(self, id_: str) -> SimulatedCall:
        return self._calls[id_]

    def get(self, id_: str) -> SimulatedCall | None:
        """Look a call up."""
        return self._calls.get(id_)

    def plan(self, conversations: int, now: float) -> None:
        """Take down the first call of each slot, as if it began now; `begin` corrects its beginning."""
        for slot in range(conversations):
            self.begin(slot, conversation_id(self._seed, slot, 0), now)

    def begin(self, slot: int, id_: str, now: float) -> SimulatedCall:
        """Begin a call of a slot."""
        if (known := self._calls.get(id_)) is not None:
            known.began_at = now
            return known
        number = self._numbers[slot] = self._numbers.get(slot, -1) + 1
        story = story_of(self.organisation, self._seed, slot, number, self._kinds)
        call = self._calls[id_] = SimulatedCall(id_, slot, story, now)
        return call

    def end(self, id_: str, now: float, error_code: str | None = None) -> SimulatedCall:
        """End a call, and forget the oldest ones that are over when there are too many."""
        call = self._calls[id_]
        call.end(now, error_code)
        over = [call for call in self._calls.values() if call.ended_at is not None]
        for one in over[:-_KEPT_CALLS]:
            del self._calls[one.id]
        return call
