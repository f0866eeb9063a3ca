"""The media of legs: each leg has its own figures in windows, its own incidents, and no other's average."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.format.captures import as_lines, media_records
from flows.analytics.precedence import Overrides
from tests.support.recordings import Replayed, blocks_of, replay_blocks
from tests.support.replay_groups import replay_groups

CASES = Path(__file__).parents[2] / "data" / "cases"
OPUS = {"codecs": ["audio/opus"], "minMos": 2.82, "maxLatencyMs": 23, "receivedPackets": 3411, "discardedPackets": 3}
PCMU = {"codecs": ["audio/PCMU"], "minMos": 4.05, "maxLatencyMs": 41, "receivedPackets": 3390, "discardedPackets": 120}


def record(at: float, **keys: Any) -> bytes:
    return json.dumps({"received_at": at, **keys}).encode()


def watch(at: float, **more: Any) -> bytes:
    return record(at, watch={"conversation_id": "c", "leg_id": "of-the-watch"} | more)


def media(at: float, leg: str, stats: dict[str, Any], *, ended: bool = False) -> bytes:
    value = {"conversationId": "c", "participantId": leg, "sessionId": f"s-{leg}", "mediaEndpointStats": stats}
    return record(at, frame=value | ({"ended": True} if ended else {}))


def frame(at: float, event: str = "conversation.updated") -> bytes:
    message = {"event": event, "entity": {"id": "c"}, "timestamp": at - 0.02, "metrics": {"packetLoss": 0.0}}
    return record(at, frame=message)


def tables(windows: dict[str, Any] | None = None, **alerts: Any) -> bytes:
    return record(0, settings={"windows": windows or {"length_s": 10, "slide_s": 10}, "alerts": alerts})


def replayed(lines: list[bytes]) -> Replayed:
    """The replay of the whole, which is that of each line alone with a restart after it."""
    whole = replay_blocks([lines], 1)
    pieces = replay_blocks([[line] for line in lines], 3, stops=frozenset(range(len(lines))))
    assert [alert.body for alert in pieces.alerts] == [alert.body for alert in whole.alerts]
    assert pieces.windows == whole.windows
    return whole


def said(found: Replayed) -> list[tuple[Any, ...]]:
    bodies = [json.loads(alert.body) for alert in found.alerts]
    return [(body["alertType"], body["reason"] or body["state"], body["legId"]) for body in bodies]


def test_the_legs_of_a_real_call_are_apart() -> None:
    """An Opus leg that Genesys rates 2.82 has no MOS of G.711, and a lossy leg raises its own alert under its name."""
    found = replayed((CASES / "11-media-records.jsonl").read_bytes().splitlines())
    opus, pcmu = found.windows[0]["legs"]
    assert found.windows[0]["mos"] is found.windows[0]["packet_loss"] is found.windows[0]["latency_ms"] is None
    assert (opus["leg_id"], opus["mos"], opus["genesys_mos"]) == ("p-a", None, {"min": 2.82, "scale": "genesys-5"})
    assert opus["mos_reason"] == "ITU-T G.113 has no narrowband impairment value for audio/opus"
    assert (pcmu["leg_id"], pcmu["packet_loss"]["max"], pcmu["latency_ms"]["max"]) == ("p-c", 120 / 3390, 41.0)
    assert all("legs" not in window for window in found.windows if not window["conversation_id"].endswith("1"))
    assert said(found) == [
        ("LOW_MOS", "raised", "p-a"),
        ("PACKET_LOSS_DETECTED", "raised", "p-c"),
        ("PACKET_LOSS_DETECTED", "ended", "p-c"),
    ]


def test_a_details_export_is_a_recording_of_its_own_kind() -> None:
    """Its legs are judged, also where a conversation has only one record."""
    path = CASES / "11b-details-export.jsonl"
    lines = [tables(unwatched="default", genesys_mos_below=4.9), *_converted(path.read_bytes())]
    assert [line[0] for line in said(replayed(lines))].count("LOW_MOS") >= 1


def _converted(text: bytes) -> list[bytes]:
    lines = as_lines(text)
    assert lines is not None
    return lines.splitlines()


def test_the_worked_example() -> None:
    """The numbers of docs/semantics.md, and the E-model's MOS of a leg of G.711."""
    measured = media(2, "p-c", PCMU | {"minRFactor": 82.6})
    [window] = replayed([tables(), watch(1), measured, record(20, tick=True)]).windows
    [leg] = window["legs"]
    assert round(leg["packet_loss"]["mean"], 6) == 0.035398
    assert leg["mos"] == {"value": 4.033, "model": "G.107 narrowband, G.711+PLC"}
    example = (Path(__file__).parents[3] / "docs" / "semantics.md").read_text()
    assert json.dumps(leg | {"session_id": "s-c"}, separators=(",", ":")) in example


@pytest.mark.parametrize(
    ("codecs", "reason"),
    [
        (["audio/G722"], "ITU-T G.113 has no narrowband impairment value for audio/G722"),
        ([], "the codec is not known"),
        (["audio/PCMU", "audio/G729"], "the leg changed its codec"),
    ],
)
def test_a_leg_without_a_published_value_says_why_it_has_no_mos(codecs: list[str], reason: str) -> None:
    """No value is made up."""
    [window] = replayed([tables(), watch(1), media(2, "p", PCMU | {"codecs": codecs})]).windows
    assert (window["legs"][0]["mos"], window["legs"][0]["mos_reason"]) == (None, reason)


def reading(at: float, source: str, received: int, mos: float) -> bytes:
    statistics = {"seconds": 5.0, "packetsReceived": received, "packetsSent": 250, "averageMos": mos}
    value = {"conversationId": "c", "sessionId": "s", "source": source, "mediaStatistics": statistics}
    return record(at, frame=value)


def test_readings_during_the_call_are_legs_of_their_own() -> None:
    """Those of the softphone and of the server, with one alert for each that is low, however often it is read."""
    lines = [tables(genesys_mos_below=3.5), watch(1), reading(2, "client", 250, 3.1), reading(3, "server", 240, 4.4)]
    lines += [reading(7, "client", 0, 3.0), frame(20)]
    found = replayed(lines)
    client, server = found.windows[0]["legs"]
    assert (client["source"], client["records"], client["received_packets"], client["sent_packets"]) == (
        *("client", 2, 250),
        500,
    )
    assert (client["genesys_mos"]["min"], client["mos"], client["mos_reason"]) == (3.0, None, "the codec is not known")
    assert (server["source"], server["genesys_mos"]["min"]) == ("server", 4.4)
    assert [json.loads(alert.body)["evidence"]["source"] for alert in found.alerts] == ["client"]
    assert said(found) == [("LOW_MOS", "raised", "s")]  # a reading names no participant


def test_the_time_until_the_agent_was_connected_is_the_leg_s() -> None:
    """As analytics' segments say: from the start of the alert to that of the first interaction."""
    starts = {"alert": "2026-01-01T00:00:02.500Z", "interact": "2026-01-01T00:00:06Z"}
    segments = [{"segmentType": kind, "segmentStart": at} for kind, at in starts.items()]
    agent = {"participantId": "p", "sessions": [{"sessionId": "s", "segments": segments, "mediaEndpointStats": [PCMU]}]}
    customer = {"participantId": "q", "sessions": [{"segments": segments[1:], "mediaEndpointStats": [OPUS]}]}
    records = media_records("c", {"participants": [agent, customer]})
    lines = [tables(), watch(1), *(record(2, frame=one) for one in records)]
    legs = replayed(lines).windows[0]["legs"]
    assert [leg["connected_after_s"] for leg in legs] == [3.5, None]


def test_records_of_one_leg_are_summed_up_and_of_two_are_not() -> None:
    """The mean is that of the leg's records."""
    lines = [tables(), watch(1), media(2, "p", PCMU), media(3, "q", OPUS), media(4, "p", PCMU | {"maxLatencyMs": 51})]
    [window] = replayed(lines).windows
    first, second = window["legs"]
    assert (first["records"], first["latency_ms"]) == (2, {"count": 2, "min": 41.0, "mean": 46.0, "max": 51.0})
    assert (second["records"], first["received_packets"]) == (1, 2 * 3390)


def test_media_is_in_every_window_that_holds_it_and_in_no_other() -> None:
    """Also where the windows change their length between."""
    lines = [tables({"length_s": 10, "slide_s": 5}), watch(1), frame(2), media(7, "p", PCMU), frame(12), frame(16)]
    found = replayed([*lines, record(30, tick=True)]).windows
    assert [(window["start"], "legs" in window) for window in found] == [
        (-5.0, False),
        (0.0, True),
        (5.0, True),
        (10.0, False),
        (15.0, False),
    ]
    other = tables({"length_s": 20, "slide_s": 20}).replace(b'"received_at": 0', b'"received_at": 8')
    changed = replayed([tables(), watch(1), media(7, "p", PCMU), other, frame(9), record(30, tick=True)]).windows
    assert [(window["end"], "legs" in window) for window in changed] == [(10.0, True), (20.0, False)]


def test_an_incident_of_a_leg_ends_with_the_call_and_not_with_another_leg() -> None:
    """A second leg without loss resolves nothing; policy `frame` resolves nothing at all."""
    lines = [watch(1, packet_loss_threshold=0.02), frame(2), media(3, "p", PCMU), media(60, "q", OPUS), frame(90)]
    lines.append(frame(99, "conversation.ended"))
    assert said(replayed([tables(), *lines])) == [
        ("PACKET_LOSS_DETECTED", "raised", "p"),
        ("PACKET_LOSS_DETECTED", "ended", "p"),
    ]
    assert said(replayed([tables(policy="frame"), *lines])) == [("PACKET_LOSS_DETECTED", "raised", "p")]


def test_a_leg_above_the_latency_limit_raises_its_own_alert() -> None:
    """With the limit of the conversation; a value that equals it raises none."""
    lines = [tables(), watch(1, max_latency_ms=40), media(2, "p", PCMU), media(3, "q", PCMU | {"maxLatencyMs": 40})]
    found = replayed(lines)
    assert ("LATENCY_THRESHOLD_EXCEEDED", "raised", "p") in said(found)
    assert [json.loads(alert.body)["threshold"] for alert in found.alerts if "LATENCY" in alert.rule] == [40.0]
    assert not [leg for rule, _, leg in said(found) if leg == "q" and "LATENCY" in rule]


def test_a_group_counts_a_breaching_leg() -> None:
    """As it counts a frame above a limit."""
    for stats, breaching in ((PCMU, 1), (OPUS, 0)):
        groups = {"by": ["queue"], "min_conversations": 1}
        lines = [record(0, settings={"windows": {"length_s": 10, "slide_s": 10}, "groups": groups})]
        lines += [watch(1, labels={"queue": "a"}), frame(2), media(3, "p", stats), frame(4, "conversation.ended")]
        group_lines, _ = replay_groups([[*lines, record(11, tick=True)]], 2, frozenset())
        assert [json.loads(line)["breaching"] for line in group_lines] == [breaching]


def test_an_open_incident_of_a_leg_breaches_until_the_call_ends() -> None:
    """In the windows after the record, too, however the journal is cut; not in those before it."""
    groups = {"by": ["queue"], "min_conversations": 1}
    lines = [record(0, settings={"windows": {"length_s": 10, "slide_s": 10}, "groups": groups})]
    lines += [watch(1, labels={"queue": "a"}), frame(2), media(13, "p", PCMU), frame(24), media(25, "q", PCMU)]
    lines += [frame(33), frame(34, "conversation.ended"), record(50, tick=True)]
    for blocks in ([lines], [[line] for line in lines]):
        group_lines, _ = replay_groups(blocks, 2, frozenset(range(len(blocks))))
        found = [(line["end"], line["breaching"]) for line in map(json.loads, group_lines)]
        assert found == [(10.0, 0), (20.0, 1), (30.0, 1), (40.0, 0)]


LINES = st.sampled_from(["frame", "opus", "reading", "pcmu", "end", "over", "watch", "tick", "late", "length", "back"])


@settings(deadline=None, max_examples=100)
@given(st.lists(LINES, max_size=20), st.lists(st.integers(0, 20), max_size=4), st.sampled_from([1, 3]))
def test_no_cut_shows(kinds: list[str], cuts: list[int], shards: int) -> None:
    """Windows with their legs, and alerts, are those of one block, whatever the cuts, shards and stops."""
    at, lines = 0.0, [tables({"length_s": 10, "slide_s": 5}, mos_below=4.4), watch(0)]
    for kind in kinds:
        at += 40 if kind == "late" else 1.75
        lines.append(
            {
                "frame": frame(at),
                "opus": media(at, "p", OPUS),
                "reading": reading(at, "client", int(at), 4.1),
                "pcmu": media(at, "q", PCMU),
                "end": frame(at, "conversation.ended"),
                "over": media(at, "q", PCMU, ended=True),
                "watch": watch(at, labels={"queue": f"q{len(lines) % 3}"}),
                "length": record(at, settings={"windows": {"length_s": 10, "slide_s": [5, 10][len(lines) % 2]}}),
                "back": record(at - 6, clock={"step_s": -6.0}),
            }.get(kind, record(at, tick=True))
        )
        at -= 6 if kind == "back" else 0
    whole = replay_blocks([lines], 1)
    blocks = blocks_of(lines, [min(place, len(lines)) for place in cuts])
    parts = replay_blocks(blocks, shards, Overrides(), frozenset(range(len(blocks))))
    # Two windows of the same times, of settings that change between, come in the order of their blocks.
    assert sorted(map(json.dumps, parts.windows)) == sorted(map(json.dumps, whole.windows))
    assert [alert.body for alert in parts.alerts] == [alert.body for alert in whole.alerts]
