"""What happens to a call besides its media: who is on it when, in the shapes of Genesys. Pure.

A story is the list of a call's legs, in seconds after its start. A call is taken by one agent (`plain`), transferred to
another queue (`transfer`), interrupted to consult another agent (`consult`), offered to an agent who does not answer
and then to another one (`requeue`), or joined by an external party whom the agent leaves it to (`conference`).
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from connectors.genesys.simulator.organisation import Agent, Edge, Organisation, Queue

__all__ = ["KINDS", "Kind", "Leg", "Moment", "Story", "story_of"]

Kind = Literal["plain", "transfer", "consult", "requeue", "conference"]
KINDS: Final[tuple[Kind, ...]] = ("plain", "transfer", "consult", "requeue", "conference")

State = Literal["alerting", "connected", "disconnected", "terminated"]


@dataclass(frozen=True, slots=True)
class Leg:
    """A participant of a call; a leg that never connects has a `connects_s` of infinity.

    `disconnect_type` is that of its end, in the spelling of notifications, and `held_s` are the spans on hold.
    """

    id: str
    session_id: str
    purpose: Literal["customer", "acd", "agent", "external"]
    begins_s: float
    connects_s: float
    ends_s: float = math.inf
    disconnect_type: str = "peer"
    queue: Queue | None = None
    agent: Agent | None = None
    held_s: tuple[tuple[float, float], ...] = ()
    error_code: str | None = None

    def state(self, at_s: float) -> State | None:
        """Return the state at a time of the call, None before the leg begins."""
        if at_s < self.begins_s:
            return None
        if at_s >= self.ends_s:
            return "terminated" if self.connects_s == math.inf else "disconnected"
        return "connected" if at_s >= self.connects_s else "alerting"

    def is_held(self, at_s: float) -> bool:
        """Whether the leg is on hold."""
        return any(begins <= at_s < ends for begins, ends in self.held_s)

    def ended(self, at_s: float, disconnect_type: str, error_code: str | None = None) -> Leg:
        """Return the leg as it is when the call ends at `at_s`."""
        if self.ends_s <= at_s:
            return self
        connects_s = self.connects_s if self.connects_s <= at_s else math.inf
        return replace(self, connects_s=connects_s, ends_s=at_s, disconnect_type=disconnect_type, error_code=error_code)


class Moment(NamedTuple):
    """A change of a leg, `at_s` seconds after the call's start."""

    at_s: float
    leg: Leg
    change: Literal["begins", "connects", "ends", "held", "retrieved"]


@dataclass(frozen=True, slots=True)
class Story:
    """A call's legs, and what holds for all of them."""

    kind: Kind
    direction: Literal["inbound", "outbound"]
    edge: Edge
    legs: tuple[Leg, ...]

    def moments(self) -> list[Moment]:
        """List every change before the call's end, in order; of one time, ends come first."""
        order = {"ends": 0, "begins": 1, "connects": 2, "held": 3, "retrieved": 3}
        return sorted(_moments(self.legs), key=lambda moment: (moment.at_s, order[moment.change]))

    def ended(self, at_s: float, error_code: str | None = None) -> Story:
        """Return the story of a call that ends at `at_s`: legs after that do not exist, and the others end with it.

        With an `error_code`, the agents' legs fail.
        """
        failed = error_code is not None
        legs = tuple(
            leg.ended(at_s, "transport.failure", error_code)
            if failed and leg.agent is not None
            else leg.ended(at_s, "peer" if leg.purpose == "customer" else "client")
            for leg in self.legs
            if leg.begins_s <= at_s
        )
        return Story(self.kind, self.direction, self.edge, legs)

    def agent_leg(self, at_s: float) -> Leg | None:
        """Return the leg of the agent who talks to the customer, or None."""
        connected = [leg for leg in self.legs if leg.agent is not None and leg.state(at_s) == "connected"]
        return connected[0] if connected else None

    def queue(self, at_s: float) -> Queue | None:
        """Return the queue that the call is in at a time, or was in last."""
        queues = [leg.queue for leg in self.legs if leg.queue is not None and leg.begins_s <= at_s]
        return queues[-1] if queues else None


def story_of(organisation: Organisation, seed: int, slot: int, call: int, kinds: tuple[Kind, ...] = KINDS) -> Story:
    """Tell the story of a slot's call number `call`; the same arguments give the same story."""
    chance = random.Random(f"{seed}/{slot}/{call}/story")  # noqa: S311 - generated calls, no secrets
    r = chance.random
    kind = kinds[(slot + call) % len(kinds)]
    queue, agent = organisation.queue_of(slot), organisation.agent_of(slot)
    other = organisation.agent_of(slot, turn=1)
    answers_s, changes_s = 1.2 + 0.8 * r(), 7 + 3 * r()
    prefix = f"{seed}/{slot}/{call}"

    def leg(number: int, *args: object, **more: object) -> Leg:
        return Leg(_id(prefix, number), _id(prefix, number, "session"), *args, **more)  # type: ignore[arg-type]

    customer = leg(0, "customer", 0.0, 0.0)
    waiting = leg(1, "acd", 0.0, 0.0, answers_s, "transfer", queue)
    taken = {"queue": queue, "agent": agent}
    match kind:
        case "transfer":
            onward = organisation.queues[(organisation.queues.index(queue) + 1) % len(organisation.queues)]
            second = next(organisation.agents_of(onward))
            legs = [
                leg(2, "agent", 0.6, answers_s, changes_s, "transfer", **taken),
                leg(3, "acd", changes_s, changes_s, changes_s + 1.5, "transfer", onward),
                leg(4, "agent", changes_s + 0.5, changes_s + 1.5, queue=onward, agent=second),
            ]
        case "consult":
            back_s = changes_s + 4 + 2 * r()
            legs = [
                leg(2, "agent", 0.6, answers_s, held_s=((changes_s, back_s),), **taken),
                leg(3, "agent", changes_s, changes_s + 1, back_s, "client", queue, other),
            ]
        case "requeue":
            gone_s, answers_s = 2.6, 4 + r()
            waiting = leg(1, "acd", 0.0, 0.0, answers_s, "transfer", queue)
            legs = [
                leg(2, "agent", 0.6, math.inf, gone_s, "timeout", queue, other),
                leg(3, "agent", gone_s + 0.4, answers_s, **taken),
            ]
        case "conference":
            legs = [
                leg(2, "agent", 0.6, answers_s, changes_s + 4, "transfer.conference", **taken),
                leg(3, "external", changes_s, changes_s + 1),
            ]
        case _:
            legs = [leg(2, "agent", 0.6, answers_s, **taken)]
    direction: Literal["inbound", "outbound"] = "outbound" if r() < 0.2 else "inbound"
    return Story(kind, direction, organisation.edge_of(slot), (customer, waiting, *legs))


def _moments(legs: tuple[Leg, ...]) -> Iterator[Moment]:
    for leg in legs:
        yield Moment(leg.begins_s, leg, "begins")
        if leg.begins_s < leg.connects_s < math.inf:
            yield Moment(leg.connects_s, leg, "connects")
        for begins_s, ends_s in leg.held_s:
            yield Moment(begins_s, leg, "held")
            yield Moment(ends_s, leg, "retrieved")
        if leg.ends_s < math.inf:
            yield Moment(leg.ends_s, leg, "ends")


def _id(*names: object) -> str:
    digest = hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=16, person=b"voicewatch-legs").hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-8{digest[17:20]}-{digest[20:]}"
