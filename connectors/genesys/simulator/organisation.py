"""A simulated Genesys organisation: its divisions, queues, agents and edges, and who takes which call. Pure.

The ids depend on nothing, so that a configuration can name them. The first queue is `Support`, and its first agent is
`Ada Abel`.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["FIRST_AGENT_ID", "FIRST_QUEUE_ID", "Agent", "Division", "Edge", "Organisation", "Queue", "organisation"]

FIRST_QUEUE_ID: Final = "5a1b7c3e-0000-4000-8000-00000000000a"
FIRST_AGENT_ID: Final = "5a1b7c3e-0000-4000-8000-00000000000b"

_DIVISIONS = ("Home", "North")
_QUEUES = ("Support", "Sales", "Billing", "Claims", "Returns", "Orders")
_EDGES = (
    ("edge-frankfurt-1", "Edge", "eu-central-1"),
    ("edge-frankfurt-2", "Edge", "eu-central-1"),
    ("edge-dublin-1", "PureCloud Voice - AWS", "eu-west-1"),
    ("edge-london-1", "PureCloud Voice - AWS", "eu-west-2"),
)
_FIRST_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gil", "Hana", "Ivo", "Jane", "Kai", "Lea", "Max", "Nora")
_LAST_NAMES = ("Abel", "Berg", "Cruz", "Dorn", "Eder", "Falk", "Gray", "Holm", "Iser", "Jung", "Kern", "Lind", "Moss")


@dataclass(frozen=True, slots=True)
class Division:
    """A division, which queues and users belong to."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue."""

    id: str
    name: str
    division: Division


@dataclass(frozen=True, slots=True)
class Agent:
    """A user who takes calls of one queue."""

    id: str
    name: str
    queue: Queue
    station_id: str


@dataclass(frozen=True, slots=True)
class Edge:
    """A media server: the edge of a session, its provider and its media region."""

    id: str
    name: str
    provider: str
    region: str


@dataclass(frozen=True, slots=True)
class Organisation:
    """Everything that calls are distributed over."""

    divisions: tuple[Division, ...]
    queues: tuple[Queue, ...]
    agents: tuple[Agent, ...]
    edges: tuple[Edge, ...]

    def edge_of(self, slot: int) -> Edge:
        """Return the edge that carries the calls of a slot."""
        return self.edges[slot % len(self.edges)]

    def queue_of(self, slot: int) -> Queue:
        """Return the queue that the calls of a slot come in by: every edge has calls of every queue."""
        return self.queues[slot // len(self.edges) % len(self.queues)]

    def agent_of(self, slot: int, turn: int = 0) -> Agent:
        """Return the agent that takes the calls of a slot; with a `turn`, another agent of the queue after that."""
        edges, queues = len(self.edges), len(self.queues)
        number = slot // (edges * queues) * edges + slot % edges
        agents = list(self.agents_of(self.queue_of(slot)))
        return agents[(number + turn * (len(agents) // 2)) % len(agents)]

    def agents_of(self, queue: Queue) -> Iterator[Agent]:
        """Yield the agents of a queue."""
        return (agent for agent in self.agents if agent.queue is queue)


def organisation(*, queues: int = 3, agents: int = 12, edges: int = 3) -> Organisation:
    """Build an organisation; the agents are spread evenly over the queues.

    Raises ValueError for fewer than one queue or edge, more than there are names for, or fewer agents than queues.
    """
    if not (1 <= queues <= len(_QUEUES) and 1 <= edges <= len(_EDGES) and agents >= queues):
        raise ValueError(
            f"needs 1 to {len(_QUEUES)} queues, 1 to {len(_EDGES)} edges and an agent for each queue, "
            f"not {queues}, {edges} and {agents}"
        )
    divisions = tuple(Division(_id("division", name), name) for name in _DIVISIONS)
    all_queues = tuple(
        Queue(_id("queue", name) if number else FIRST_QUEUE_ID, name, divisions[number % len(divisions)])
        for number, name in enumerate(_QUEUES[:queues])
    )
    return Organisation(
        divisions=divisions,
        queues=all_queues,
        agents=tuple(
            Agent(
                _id("agent", number) if number else FIRST_AGENT_ID,
                _name(number),
                all_queues[number % queues],
                _id("station", number),
            )
            for number in range(agents)
        ),
        edges=tuple(Edge(_id("edge", name), name, provider, region) for name, provider, region in _EDGES[:edges]),
    )


def _name(number: int) -> str:
    """Name an agent.

    >>> _name(0), _name(1), _name(14)
    ('Ada Abel', 'Ben Abel', 'Ada Berg')
    """
    first = _FIRST_NAMES[number % len(_FIRST_NAMES)]
    round_ = number // len(_FIRST_NAMES)
    last = _LAST_NAMES[round_ % len(_LAST_NAMES)]
    more = round_ // len(_LAST_NAMES)
    return f"{first} {last}" + (f" {more + 1}" if more else "")


def _id(*names: object) -> str:
    digest = hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=16, person=b"voicewatch-org").digest()
    return str(uuid.UUID(bytes=digest, version=4))
