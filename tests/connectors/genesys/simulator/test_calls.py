"""The made-up calls: reproducible, well-formed, and with something to see at once."""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from itertools import pairwise, takewhile

import pytest

from connectors.genesys.simulator.calls import (
    CallFrame,
    Incident,
    Script,
    call_frames,
    conversation_id,
    conversation_ids,
    encode_frame,
)

LATENCY_LIMIT_S, LOSS_LIMIT = 0.150, 0.02


def frames_until(seconds: float, *, seed: int = 1, conversations: int = 3, rate: float = 5.0) -> list[CallFrame]:
    return list(takewhile(lambda f: f.due_s < seconds, call_frames(seed, conversations, rate)))


def by_conversation(frames: list[CallFrame]) -> dict[str, list[CallFrame]]:
    calls: dict[str, list[CallFrame]] = defaultdict(list)
    for frame in frames:
        calls[frame.conversation_id].append(frame)
    return calls


def test_a_seed_gives_the_same_frames_again_and_another_seed_gives_others() -> None:
    """The frames depend on the arguments alone."""
    assert frames_until(60) == frames_until(60)
    assert frames_until(60) != frames_until(60, seed=2)


def test_conversation_ids_can_be_known_before_the_run() -> None:
    """The first call of each slot has the id that `conversation_ids` names, and it is a valid UUID."""
    ids = conversation_ids(7, 5)
    assert [f.conversation_id for f in frames_until(1, seed=7, conversations=5)[:5]] == ids
    assert len(set(ids)) == 5
    assert all(str(uuid.UUID(name)) == name for name in ids)
    assert conversation_ids(8, 5) != ids


def test_rate_is_per_conversation_and_frames_come_in_order() -> None:
    """Each of three conversations sends ten frames a second, spread evenly."""
    frames = frames_until(10, rate=10)
    assert {len(call) for call in by_conversation(frames).values()} == {100}
    assert all(earlier.due_s < later.due_s for earlier, later in pairwise(frames))


def test_a_call_starts_is_updated_and_ends_and_the_next_has_a_new_id() -> None:
    """Over an hour, every finished call has the three kinds of event in their order, and ids never come back."""
    calls = by_conversation(frames_until(3600, conversations=2, rate=1))
    assert len(calls) > 20
    running = 0
    for name, call in calls.items():
        events = [frame.event.removeprefix("conversation.") for frame in call]
        running += events[-1] != "ended"
        assert events == ["started", *["updated"] * (len(events) - 2), events[-1]]
        assert len({frame.slot for frame in call}) == 1
        assert name in {conversation_id(1, call[0].slot, number) for number in range(len(calls))}
    assert running <= 2


@pytest.mark.parametrize("conversations", [1, 3, 4, 6])
def test_every_seed_opens_with_a_latency_and_a_loss_incident_that_are_over_soon(conversations: int) -> None:
    """Within 8 s both limits are crossed for seconds, and the slots concerned are quiet from there to 15 s."""
    for seed in range(60):
        calls = by_conversation(frames_until(15, seed=seed, conversations=conversations)).values()
        slow = [[f.due_s for f in call if f.lag_s > LATENCY_LIMIT_S] for call in calls]
        lossy = [[f.due_s for f in call if (f.packet_loss or 0) > LOSS_LIMIT] for call in calls]
        for bad in (slow, lossy):
            assert any(len(times) >= 10 and times[-1] - times[0] >= 2 and times[-1] < 8 for times in bad), seed


def test_with_four_conversations_one_hangs_up_in_the_middle_of_an_incident() -> None:
    """Within 12 s a call ends while its latency is above the limit, whatever the seed."""
    for seed in range(60):
        frames = frames_until(13, seed=seed, conversations=4)
        ended = [f for f in frames if f.event == "conversation.ended"]
        assert [f.due_s < 12 and f.lag_s > LATENCY_LIMIT_S for f in ended] == [True]


def test_outside_incidents_no_value_comes_near_the_default_limits() -> None:
    """Values are either in an incident or below nine tenths of the limit, so that every incident can be resolved."""
    frames = frames_until(1800)
    assert not [f for f in frames if 0.9 * LATENCY_LIMIT_S < f.lag_s < 0.18]
    assert not [f for f in frames if 0.9 * LOSS_LIMIT < (f.packet_loss or 0) < 0.03]
    slow = sum(f.lag_s > LATENCY_LIMIT_S for f in frames) / len(frames)
    assert 0.005 < slow < 0.1


def test_packet_loss_comes_in_bursts() -> None:
    """A lossy frame is far more often followed by another than lossy frames are frequent."""
    calls = by_conversation(frames_until(3600, rate=2)).values()
    bad = [[(f.packet_loss or 0) > LOSS_LIMIT for f in call] for call in calls]
    share = sum(map(sum, bad)) / sum(map(len, bad))
    followed = [after for call in bad for before, after in pairwise(call) if before]
    assert 0.005 < share < 0.1
    assert sum(followed) / len(followed) > 5 * share


def test_a_frame_on_the_wire_is_as_the_contract_says() -> None:
    """Event, id, the time at which it was stamped, loss as a ratio and jitter in milliseconds."""
    frame = CallFrame(2.0, 0.25, 0, "c-1", "conversation.updated", 0.031, 4.5)
    assert json.loads(encode_frame(frame, 1_767_225_600.0)) == {
        "event": "conversation.updated",
        "entity": {"id": "c-1"},
        "timestamp": 1_767_225_601.75,
        "metrics": {"packetLoss": 0.031, "jitter": 4.5},
    }
    assert "metrics" not in json.loads(encode_frame(frame._replace(packet_loss=None, jitter_ms=None), 0.0))
    for frame in frames_until(600):
        assert frame.lag_s > 0
        if frame.event != "conversation.started":
            assert frame.packet_loss is not None
            assert frame.jitter_ms is not None
            assert 0 <= frame.packet_loss <= 0.12
            assert frame.jitter_ms > 0


def test_a_script_decides_when_calls_start_and_end_and_when_they_are_bad() -> None:
    """A given script replaces the opening."""
    script = Script([Incident(0, "latency", 5, 8)], starts_s={1: 4}, ends_s={1: 9})
    frames = list(takewhile(lambda f: f.due_s < 12, call_frames(3, 2, 4, script)))
    slow = [f.due_s for f in frames if f.slot == 0 and f.lag_s > LATENCY_LIMIT_S]
    assert slow == [f.due_s for f in frames if f.slot == 0 and 5 <= f.due_s < 8]
    other = [f for f in frames if f.slot == 1 and f.conversation_id == conversation_id(3, 1, 0)]
    assert other[0].due_s == pytest.approx(4, abs=0.25)
    assert other[-1].event == "conversation.ended"
    assert other[-1].due_s == pytest.approx(9, abs=0.25)


@pytest.mark.parametrize(
    ("conversations", "rate"), [(0, 1.0), (1, 0.0), (1, -1.0), (1, float("inf")), (1, float("nan"))]
)
def test_nonsense_is_refused(conversations: int, rate: float) -> None:
    """Conversations and rate must be positive and finite."""
    with pytest.raises(ValueError, match="must be positive"):
        next(call_frames(1, conversations, rate))
