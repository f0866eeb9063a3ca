"""The simulated organisation: its people and places, the stories of calls, and what faults do to them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
from structlog.testing import capture_logs

from connectors.errors import ConfigurationError, UsageError
from connectors.genesys.entities import read_entity
from connectors.genesys.simulator.calls import ENDED, call_frames
from connectors.genesys.simulator.faults import parse_faults
from connectors.genesys.simulator.organisation import FIRST_AGENT_ID, FIRST_QUEUE_ID, organisation
from connectors.genesys.simulator.stories import KINDS, Story, story_of
from connectors.genesys.simulator.traffic import Traffic, organisation_for

START = 1_767_225_600.0


def test_calls_are_spread_over_queues_agents_and_edges() -> None:
    """300 calls on three queues and edges: each pair has a ninth of them, and each agent has one call of its queue."""
    here = organisation_for(300)
    pairs = Counter((here.edge_of(slot).name, here.queue_of(slot).name) for slot in range(300))
    assert len(pairs) == 9
    assert max(pairs.values()) - min(pairs.values()) <= 1
    taken = [here.agent_of(slot) for slot in range(300)]
    assert all(agent.queue is here.queue_of(slot) for slot, agent in enumerate(taken))
    assert max(Counter(agent.id for agent in taken).values()) <= 2
    assert (here.queues[0].id, here.agents[0].id) == (FIRST_QUEUE_ID, FIRST_AGENT_ID)
    assert len({one.id for group in (here.queues, here.agents, here.edges, here.divisions) for one in group}) == 308
    assert len({agent.name for agent in here.agents}) == 300


def test_an_organisation_without_a_queue_is_refused() -> None:
    """Too few or too many are a ValueError."""
    for wrong in ({"queues": 0}, {"queues": 7}, {"edges": 9}, {"agents": 2}):
        with pytest.raises(ValueError, match="needs 1 to"):
            organisation(**wrong)


def stories() -> dict[str, Story]:
    here = organisation_for(12)
    told: dict[str, Story] = {(story := story_of(here, 1, slot, 0)).kind: story for slot in range(5)}
    assert set(told) == set(KINDS)
    assert told["transfer"] == story_of(here, 1, [*told].index("transfer"), 0)
    return told


def test_every_story_has_one_agent_at_a_time_with_the_customer() -> None:
    """After it was answered, and until 30 s, a call has a connected agent or party, and none before."""
    for story in stories().values():
        first = min(leg.connects_s for leg in story.legs if leg.agent is not None)
        assert story.agent_leg(first - 0.01) is None
        for at_s in [first, 5.5, 20.0, 30.0]:
            connected = [leg.purpose for leg in story.legs if leg.state(at_s) == "connected"]
            assert {"agent", "external", "acd"} & set(connected), (story.kind, at_s)
            assert "customer" in connected
        assert [m.at_s for m in story.moments()] == sorted(m.at_s for m in story.moments())


def test_stories_tell_transfers_consults_requeues_and_conferences() -> None:
    """Each kind has the legs and the ends that it is known by."""
    told = stories()
    transfer, consult, requeue, conference = (told[kind] for kind in KINDS[1:])
    assert [leg.disconnect_type for leg in transfer.legs if leg.agent is not None] == ["transfer", "peer"]
    assert len({leg.queue.id for leg in transfer.legs if leg.queue is not None}) == 2
    held = [leg for leg in consult.legs if leg.held_s]
    assert held[0].is_held(held[0].held_s[0][0])
    assert held[0].agent is not None
    unanswered = [leg for leg in requeue.legs if leg.connects_s == math.inf]
    assert [(leg.disconnect_type, leg.state(leg.ends_s)) for leg in unanswered] == [("timeout", "terminated")]
    assert conference.legs[-1].purpose == "external"
    assert "transfer.conference" in [leg.disconnect_type for leg in conference.legs]


def test_the_end_of_a_call_ends_every_leg() -> None:
    """Legs that begin later do not exist; an error code makes the agents' legs fail."""
    story = stories()["transfer"].ended(5.0)
    assert {leg.ends_s for leg in story.legs if leg.purpose != "acd"} == {5.0}
    assert len(story.legs) == 3
    failed = stories()["plain"].ended(30.0, "error.x")
    agent = failed.legs[-1]
    assert (agent.disconnect_type, agent.error_code) == ("transport.failure", "error.x")
    assert failed.legs[0].error_code is None


FAULTS = """
[[fault]]
on = "edge"
name = "edge-frankfurt-2"
do = "latency"
latency_ms = 400
after_s = 2
for_s = 3

[[fault]]
on = "queue"
name = "5a1b7c3e-0000-4000-8000-00000000000a"
do = "loss"
loss = 0.5
share = 0.5
"""


def test_a_fault_strikes_the_calls_of_its_edge_and_queue_only() -> None:
    """Every frame of other calls, and of other times, is as without the fault."""
    traffic = Traffic(1, 18, 10, faults=parse_faults(FAULTS).of_calls())
    plain = call_frames(1, 18, 10)
    late, lossy = Counter[str](), set[str]()
    for (frame, call), healthy in itertools.islice(zip(traffic.frames(START), plain, strict=False), 18 * 80):
        is_late = call.story.edge.name == "edge-frankfurt-2" and 2 <= frame.due_s < 5
        assert frame.lag_s == pytest.approx(healthy.lag_s + (0.4 if is_late else 0))
        late[call.id] += is_late
        queue = call.story.queue(START + frame.due_s - call.began_at)
        assert queue is not None
        if frame.packet_loss != healthy.packet_loss:
            assert (frame.packet_loss, queue.name) == (0.5, "Support")
            lossy.add(call.id)
    assert sorted(late.values())[-6:] == [30] * 6
    assert 1 <= len(lossy) <= 5
    assert {call.id for call in traffic.book.calls if call.added_loss == 0.5} == lossy


def test_the_begin_and_the_end_of_a_fault_are_logged_once() -> None:
    """With the frame that it strikes first, or no longer; a fault without an end has none."""
    traffic = Traffic(1, 18, 10, faults=parse_faults(FAULTS).of_calls())
    logged: list[tuple[float, dict[str, Any]]] = []
    with capture_logs() as lines:
        due_s = 0.0
        for frame, _ in itertools.islice(traffic.frames(START), 18 * 80):
            logged += [(due_s, {**line}) for line in lines]
            lines.clear()
            due_s = frame.due_s
    edge = {"do": "latency", "on": "edge", "name": "edge-frankfurt-2", "log_level": "info"}
    queue = {"do": "loss", "on": "queue", "name": "5a1b7c3e-0000-4000-8000-00000000000a", "log_level": "info"}
    assert [line for _, line in logged] == [
        queue | {"event": "fault_strikes", "for_s": None},
        edge | {"event": "fault_strikes", "for_s": 3.0},
        edge | {"event": "fault_ends"},
    ]
    assert [at_s for at_s, _ in logged] == pytest.approx([0.0, 2.0, 5.0], abs=0.01)


def test_a_fault_may_end_calls_by_a_failure() -> None:
    """Calls that end in the meantime name the error."""
    text = '[[fault]]\non = "provider"\nname = "Edge"\ndo = "disconnect"\ncode = "error.ice"'
    traffic = Traffic(1, 6, 5, faults=parse_faults(text).of_calls())
    ended = [c for f, c in itertools.islice(traffic.frames(START), 6 * 5 * 300) if f.event is ENDED]
    codes = {(c.story.edge.provider, tuple({leg.error_code for leg in c.legs if leg.agent})) for c in ended}
    assert ("Edge", ("error.ice",)) in codes or ("Edge", (None, "error.ice")) in codes
    assert ("PureCloud Voice - AWS", (None,)) in codes
    assert ("PureCloud Voice - AWS", ("error.ice",)) not in codes


def test_a_fault_of_an_unknown_name_is_bad_usage() -> None:
    """The message lists what there is."""
    faults = parse_faults('[[fault]]\non = "edge"\nname = "edge-mars"\ndo = "loss"').of_calls()
    with pytest.raises(UsageError, match=r'there is no edge "edge-mars"; the simulator has edge-dublin-1, edge-'):
        Traffic(1, 3, 1, faults=faults)


def test_only_an_edge_goes_offline() -> None:
    """The same fault of a queue is refused, with the reason."""
    with pytest.raises(ConfigurationError, match='do = "offline" needs on = "edge"'):
        parse_faults('[[fault]]\non = "queue"\nname = "Support"\ndo = "offline"')


def test_a_call_whose_first_frame_is_not_due_yet_is_listed_with_its_labels() -> None:
    """A frame is prepared before it is due; a load check in between must not show a call without participants."""
    traffic = Traffic(7, 12, 10.0)
    traffic.plan(START)
    frames = traffic.frames(START)
    for _ in range(12):
        frame, call = next(frames)
        before = START + frame.due_s - 0.005
        labels = read_entity(call.entity(before)).labels
        assert (labels["edge"], "queue" in labels) == (call.story.edge.name, True)
