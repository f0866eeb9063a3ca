"""The parties of a conversation, Genesys' own MOS, and the lines behind a window, read from the journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from backports import zstd

from flows.web import story
from flows.web.story import lines_of, story_of
from tests.support.state_dirs import BEGAN, HOSTILE, StateDir

ID = "c-1"


def snapshot(state: StateDir, at: float, *parties: dict[str, Any], id_: str = ID) -> None:
    body = {"id": id_, "participants": list(parties)}
    state.record(at, via="q", frame={"topicName": "v2.routing.queues.1.conversations.calls", "eventBody": body})


def party(id_: str, purpose: str, state: str, *, held: bool = False) -> dict[str, Any]:
    return {"id": id_, "purpose": purpose, "state": state, "held": held}


def parts(state: StateDir, end: float = 100.0) -> dict[str, list[tuple[float, float | None, str]]]:
    found = story_of(state.dir / "journal", ID, BEGAN, BEGAN + end)
    return {
        lane.name: [(p.start - BEGAN, None if p.end is None else p.end - BEGAN, p.state) for p in lane.parts]
        for lane in found.lanes
    }


def test_parties_of_snapshots_have_a_lane_with_their_states(tmp_path: Path) -> None:
    """A lane for each participant; hold is a state; a second agent has a lane, and another call none."""
    state = StateDir(tmp_path / "state")
    snapshot(state, 0, party("1", "customer", "connected"), party("2", "agent", "alerting"))
    snapshot(state, 5, party("1", "customer", "connected"), party("2", "agent", "connected"))
    snapshot(state, 6, party("9", "customer", "connected"), id_="another")
    snapshot(state, 20, party("1", "customer", "connected"), party("2", "agent", "connected", held=True))
    snapshot(state, 30, party("2", "agent", "terminated"), party("3", "agent", "connected"))
    snapshot(state, 40, party("1", "customer", "disconnected"), party("3", "agent", "connected"))
    assert parts(state) == {
        "customer": [(0, 40, "connected")],
        "agent": [(0, 5, "alerting"), (5, 20, "connected"), (20, 30, "hold")],
        "agent 2": [(30, None, "connected")],
    }


def test_without_snapshots_detail_events_or_labels_name_the_parties(tmp_path: Path) -> None:
    """Detail events of sessions come second; without them the labels of the watch show who took part."""
    state = StateDir(tmp_path / "state")
    state.watch(0, ID, labels={"agent": "ann", "queue": "support", "edge": "e1"})
    state.watch(30, ID, labels={"agent": "bob"})
    assert parts(state) == {
        "agent": [(0, 30, "ann"), (30, None, "bob")],
        "queue": [(0, None, "support")],
    }
    for at, event in ((1, "customer.start"), (2, "user.start"), (50, "user.end")):
        topic = f"v2.detail.events.conversation.{ID}.{event}"
        body = {"conversationId": ID, "participantId": event[0]}
        state.record(at + 30, via="q", frame={"topicName": topic, "eventBody": body})
    assert parts(state) == {"customer": [(31, None, "connected")], "user": [(32, 80, "connected")]}


def test_the_end_of_a_leg_names_its_disconnect_type_and_its_error(tmp_path: Path) -> None:
    """The first snapshot in which a leg is over says how it ended; a leg without a reason is left out."""
    state = StateDir(tmp_path / "state")
    snapshot(state, 0, party("1", "customer", "connected"), party("2", "agent", "connected"))
    failed = {"disconnectType": "transport.failure", "errorInfo": {"code": "error.ice"}}
    snapshot(state, 20, party("1", "customer", "connected"), party("2", "agent", "terminated") | failed)
    snapshot(state, 30, party("2", "agent", "terminated") | failed, party("3", "acd", "terminated"))
    snapshot(state, 40, party("1", "customer", "disconnected") | {"disconnectType": "peer"})
    found = story_of(state.dir / "journal", ID, BEGAN, BEGAN + 100).ends
    assert [(one.at - BEGAN, one.party, one.disconnect_type, one.code) for one in found] == [
        (20, "agent", "transport.failure", "error.ice"),
        (40, "customer", "peer", None),
    ]


def test_genesys_mos_is_kept_by_leg_with_its_scale(tmp_path: Path) -> None:
    """It is read from the records that follow the call; a leg that received nothing has no MOS."""
    state = StateDir(tmp_path / "state")
    for leg, mos, received in (("l1", 2.82, 900), ("l2", 4.6, 900), ("l3", 1.0, 0)):
        stats = {"minMos": mos, "receivedPackets": received, "codecs": ["audio/opus"]}
        frame = {"conversationId": ID, "participantId": leg, "sessionId": f"s-{leg}", "mediaEndpointStats": stats}
        state.record(160, via="q", frame=frame)
    found = story_of(state.dir / "journal", ID, BEGAN, BEGAN + 100)
    assert [(one.leg, one.mos, one.scale, one.codecs) for one in found.media] == [
        ("l1", 2.82, "genesys-5", ["audio/opus"]),
        ("l2", 4.6, "genesys-5", ["audio/opus"]),
    ]


def test_compressed_segments_are_read_and_a_long_journal_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was compressed counts; past the bound the story says that it is not complete."""
    state = StateDir(tmp_path / "state")
    snapshot(state, 0, party("1", "customer", "connected"))
    plain = state.dir / "journal" / "00000001.jsonl"
    plain.with_suffix(".jsonl.zst").write_bytes(zstd.compress(plain.read_bytes()))
    plain.unlink()
    assert parts(state) == {"customer": [(0, None, "connected")]}
    assert story_of(state.dir / "journal", ID, BEGAN, BEGAN + 100).complete
    monkeypatch.setattr(story, "MAX_READ_BYTES", 10)
    assert not story_of(state.dir / "journal", ID, BEGAN, BEGAN + 100).complete


def test_the_lines_of_a_window_are_those_that_name_its_conversation(tmp_path: Path) -> None:
    """Between two times, in their order, whatever the id is made of."""
    state = StateDir(tmp_path / "state")
    for at, id_ in ((0, HOSTILE), (5, "b"), (9, HOSTILE), (10, HOSTILE)):
        state.record(at, frame={"event": "conversation.updated", "entity": {"id": id_}, "timestamp": BEGAN + at})
    found = lines_of(state.dir / "journal", HOSTILE, BEGAN, BEGAN + 10)
    assert [orjson.loads(line)["received_at"] - BEGAN for line in found] == [0.0, 9.0]
    assert lines_of(tmp_path / "nowhere", HOSTILE, 0, 1) == []
