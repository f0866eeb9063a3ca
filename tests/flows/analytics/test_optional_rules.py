"""LOW_MOS, STREAM_STALLED, codecs and feeds at their edges: as the reference says, however the journal is cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.analytics.precedence import Overrides
from flows.analytics.voice_quality import MODEL, MODELS
from tests.flows.analytics.test_reference import assert_agrees
from tests.support.recordings import Replayed, replay_blocks

RAISED, RECOVERED, ENDED = "raised", "recovered", "ended"


def record(received_at: float, **value: Any) -> bytes:
    return json.dumps({"received_at": received_at} | value).encode()


def frame(at: float, loss: float | None = None, name: str = "c", event: str = "conversation.updated") -> bytes:
    message = {"event": event, "entity": {"id": name}, "timestamp": at - 0.02}
    return record(at, frame=message | ({} if loss is None else {"metrics": {"packetLoss": loss}}))


def end(at: float, loss: float | None = None) -> bytes:
    return frame(at, loss, event="conversation.ended")


def watch(at: float = 0, name: str = "c", **more: Any) -> bytes:
    return record(at, watch={"conversation_id": name, "packet_loss_threshold": 1} | more)


def tick(at: float) -> bytes:
    return record(at, tick=True)


def feed(at: float, state: str, name: str = "a") -> bytes:
    return record(at, feed={"name": name, "state": state})


def settings(at: float = 0, codec: str = "g711", length_s: float = 10, **alerts: Any) -> bytes:
    return record(
        at, settings={"windows": {"length_s": length_s, "slide_s": length_s, "codec": codec}, "alerts": alerts}
    )


def replayed(lines: list[bytes]) -> Replayed:
    """The replay of the whole, which is that of each line alone with a restart after it, and the reference's."""
    whole = replay_blocks([lines], 1)
    singly = [[line] for line in lines]
    pieces = replay_blocks(singly, 3, stops=frozenset(range(len(lines))))
    assert [alert.body for alert in pieces.alerts] == [alert.body for alert in whole.alerts]
    assert_agrees(pieces, singly, Overrides())
    assert_agrees(whole, [lines], Overrides())
    return whole


def told(lines: list[bytes]) -> list[tuple[Any, ...]]:
    """Each alert as what happened, its value and its time."""
    bodies = [json.loads(alert.body) for alert in replayed(lines).alerts]
    return [(body["reason"] or body["state"], body["metricValue"], body["timestamp"]) for body in bodies]


AFTER_5 = settings(stalled_after_s=5)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([watch(), frame(0), tick(4.999)], [], id="not yet"),
        pytest.param([watch(), frame(0), tick(5)], [(RAISED, 5, 5)], id="at the moment"),
        pytest.param([watch(), frame(0), tick(7)], [(RAISED, 5, 5)], id="told later, of its own time"),
        pytest.param(
            [watch(), frame(0), frame(7, name="x")], [(RAISED, 5, 5)], id="another's frame tells the time too"
        ),
        pytest.param([watch(), frame(0), tick(5), tick(6), tick(99)], [(RAISED, 5, 5)], id="once"),
        pytest.param([watch(), frame(0), frame(4.999)], [], id="a frame in time"),
        pytest.param([watch(), frame(0), frame(5)], [(RAISED, 5, 5), (RECOVERED, 5, 5)], id="a gap that is equal"),
        pytest.param(
            [watch(), frame(0), frame(7.25)], [(RAISED, 5, 5), (RECOVERED, 7.25, 7.25)], id="raised and resolved in one"
        ),
        pytest.param(
            [watch(), frame(0), tick(6), frame(7), frame(8)], [(RAISED, 5, 5), (RECOVERED, 7, 7)], id="the next frame"
        ),
        pytest.param(
            [watch(), frame(0), frame(6), frame(12)],
            [(RAISED, 5, 5), (RECOVERED, 6, 6), (RAISED, 5, 11), (RECOVERED, 6, 12)],
            id="again",
        ),
        pytest.param([watch(), tick(60)], [], id="nothing heard yet"),
        pytest.param([watch(), frame(0), end(3), tick(60)], [], id="over"),
        pytest.param([watch(), frame(0), end(8), tick(60)], [(RAISED, 5, 5), (ENDED, 8, 8)], id="over after a gap"),
        pytest.param([watch(), frame(0), tick(6), end(8)], [(RAISED, 5, 5), (ENDED, 8, 8)], id="over while stalled"),
        pytest.param([watch(), frame(0), end(1), watch(2), tick(60)], [], id="watched again, and no frame"),
        pytest.param([watch(), frame(0), end(1), watch(2), frame(3), tick(60)], [(RAISED, 5, 8)], id="watched again"),
        pytest.param([watch(), frame(0), watch(4, max_latency_ms=50), tick(5)], [(RAISED, 5, 5)], id="other limits"),
        pytest.param([watch(), frame(0), feed(3, "down"), tick(20)], [], id="feed lost"),
        pytest.param([watch(), frame(0), feed(5, "down")], [(RAISED, 5, 5)], id="feed lost at that moment"),
        pytest.param(
            [watch(), frame(0), feed(3, "down"), feed(21, "up"), tick(25.999), tick(26), frame(30)],
            [(RAISED, 5, 26), (RECOVERED, 9, 30)],
            id="feed back: restart",
        ),
        pytest.param(
            [watch(), frame(0), feed(3, "down"), frame(20), tick(40), feed(41, "up"), tick(46)],
            [(RAISED, 5, 46)],
            id="a frame while the feed is lost",
        ),
        pytest.param(
            [watch(), frame(0), tick(5), feed(6, "down"), feed(8, "up"), frame(9)],
            [(RAISED, 5, 5), (RECOVERED, 9, 9)],
            id="feed lost while stalled",
        ),
        pytest.param([watch(feed="b"), frame(0), feed(1, "down"), tick(6)], [(RAISED, 5, 5)], id="another's feed lost"),
        pytest.param([watch(feed="a"), frame(0), feed(1, "down"), tick(6)], [], id="its own feed lost"),
        pytest.param(
            [watch(feed="b"), frame(0), feed(1, "down", "b"), feed(2, "down"), feed(3, "up", "b"), tick(8)],
            [(RAISED, 5, 8)],
            id="its own feed back",
        ),
        pytest.param(
            [watch(), frame(0), feed(1, "down", "b"), feed(2, "down"), feed(3, "up", "b"), tick(60)],
            [],
            id="of any feed, and one is not back",
        ),
        pytest.param(
            [settings(stalled_after_s=5, policy="frame"), watch(), frame(0), tick(60), frame(61), frame(68)],
            [(RAISED, 5, 5), (RAISED, 5, 66)],
            id="policy frame: one a stall, none resolved",
        ),
        pytest.param(
            [watch(), frame(0), tick(5), settings(6, stalled_after_s=5, policy="frame"), frame(8), frame(9)],
            [(RAISED, 5, 5), (RECOVERED, 8, 8)],
            id="policy changed while stalled",
        ),
        pytest.param(
            [settings(stalled_after_s=100), watch(), frame(0), settings(60, stalled_after_s=5), tick(64.9), tick(65)],
            [(RAISED, 5, 65)],
            id="another limit: restart",
        ),
        pytest.param([watch(), frame(0), settings(3, stalled_after_s=5), tick(5)], [(RAISED, 5, 5)], id="same limit"),
        pytest.param(
            [settings(), watch(), watch(name="d"), frame(0), settings(20, stalled_after_s=5), tick(25)],
            [(RAISED, 5, 25)],
            id="turned on",
        ),
        pytest.param([watch(), frame(0), settings(4), tick(60)], [], id="turned off"),
        pytest.param(
            [watch(), frame(0), tick(5), settings(6), frame(9), frame(60)],
            [(RAISED, 5, 5), (RECOVERED, 9, 9)],
            id="turned off while stalled",
        ),
        pytest.param(
            [settings(stalled_after_s=0.1), watch(1700000000.0), frame(1700000000.1), tick(1700000000.2)],
            [(RAISED, 0.1, 1700000000.2)],
            id="no floating-point dust",
        ),
    ],
)
def test_a_stream_stalls(lines: list[bytes], expected: list[tuple[Any, ...]]) -> None:
    """Raised at the moment at which the wait is too long, resolved by the next frame."""
    assert told([AFTER_5, *lines]) == expected


def of_feeds(at: float = 0, shared_s: float | None = 5, **after_s: float | None) -> bytes:
    """Settings with a limit of stalls for each feed."""
    feeds = {name: {"stalled_after_s": seconds} for name, seconds in after_s.items()}
    return record(at, settings={"alerts": {"stalled_after_s": shared_s}, "feeds": feeds})


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([of_feeds(a=2), watch(feed="a"), frame(0), tick(9)], [(RAISED, 2, 2)], id="own limit"),
        pytest.param([of_feeds(b=2), watch(feed="a"), frame(0), tick(9)], [(RAISED, 5, 5)], id="limit of another feed"),
        pytest.param([of_feeds(a=2), watch(), frame(0), tick(9)], [(RAISED, 5, 5)], id="no feed named"),
        pytest.param([of_feeds(a=None), watch(feed="a"), frame(0), tick(99)], [], id="off"),
        pytest.param([of_feeds(shared_s=None, a=2), watch(feed="a"), frame(0), tick(9)], [(RAISED, 2, 2)], id="only"),
        pytest.param(
            [of_feeds(a=None), watch(feed="a"), frame(0), of_feeds(9, a=3), tick(11), tick(12)],
            [(RAISED, 3, 12)],
            id="turned on",
        ),
        pytest.param(
            [
                *(of_feeds(a=5, b=5), watch(feed="a"), watch(name="d", feed="b"), frame(0), frame(1, name="d")),
                *(of_feeds(3, a=4, b=5), tick(6), tick(7)),
            ],
            [(RAISED, 5, 6), (RAISED, 4, 7)],
            id="only where it differs, the wait restarts",
        ),
    ],
)
def test_each_feed_has_its_own_limit_of_stalls(lines: list[bytes], expected: list[tuple[Any, ...]]) -> None:
    """It holds for the conversations whose watch names the feed; `[alerts]` for the others."""
    assert told(lines) == expected


def snapshot_event(at: float, **journalled: Any) -> bytes:
    """A notification about the conversation, captured bare or as a journal has it."""
    body = {"conversationId": "c", "eventTime": int(at * 1000) - 20, "mediaType": "VOICE"}
    message = {"topicName": "v2.detail.events.conversation.c.user.start", "eventBody": body}
    return record(at, frame=message) if journalled else json.dumps(message | {"receivedAt": at}).encode()


@pytest.mark.parametrize("journalled", [{}, {"journalled": True}])
def test_events_of_notifications_are_not_waited_for(journalled: dict[str, Any]) -> None:
    """A healthy call may have none for minutes; with a limit of their feed they are waited for."""
    event = snapshot_event(1, **journalled)
    assert stalls([AFTER_5, watch(), event, tick(99)]) == []
    assert stalls([AFTER_5, watch(), frame(0), event, frame(90)]) == []
    assert stalls([AFTER_5, watch(), event, frame(2), tick(99)]) == [7]
    assert stalls([of_feeds(a=5), watch(feed="a"), event, tick(99)]) == [6]
    unwatched = settings(stalled_after_s=5, unwatched="default")
    assert stalls([unwatched, event, tick(99)]) == []


def test_a_transferred_call_does_not_stall() -> None:
    """A real blind transfer, whose events are up to a minute apart, is healthy."""
    path = Path(__file__).parents[2] / "data" / "cases" / "06-transfer.jsonl"
    unwatched = settings(stalled_after_s=30, unwatched="default")
    assert stalls([unwatched, *path.read_bytes().splitlines()]) == []


def stalls(lines: list[bytes]) -> list[float]:
    """When streams stalled, however the journal is cut."""
    found = []
    for blocks in ([lines], [[line] for line in lines]):
        replay = replay_blocks(blocks, 2, stops=frozenset(range(len(blocks))))
        found.append([alert.time for alert in replay.alerts if alert.rule == "STREAM_STALLED"])
    assert found[0] == found[1]
    return found[0]


BAD, GOOD = 0.2, 0.0
BELOW_4 = settings(mos_below=4)
OF_BAD, OF_GOOD = 2.596, 4.396


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([watch(), frame(1, BAD), tick(9.999)], [], id="only the recording has ended"),
        pytest.param([watch(), frame(1, BAD), tick(10)], [(RAISED, OF_BAD, 10)], id="at the window's end"),
        pytest.param([watch(), frame(1, GOOD), frame(11, None), tick(30)], [], id="good, or without a MOS"),
        pytest.param([watch(), frame(1, BAD), frame(11, BAD), tick(20)], [(RAISED, OF_BAD, 10)], id="open is silent"),
        pytest.param(
            [watch(), frame(1, BAD), frame(11, GOOD), tick(20)],
            [(RAISED, OF_BAD, 10), (RECOVERED, OF_GOOD, 20)],
            id="after the quiet time",
        ),
        pytest.param([watch(), frame(1, BAD), end(2, BAD), tick(30)], [], id="over before the window's end"),
        pytest.param(
            [watch(), frame(1, BAD), end(10, BAD)], [(RAISED, OF_BAD, 10), (ENDED, None, 10)], id="at the end"
        ),
        pytest.param(
            [watch(), frame(1, BAD), frame(11, BAD), end(12, BAD), tick(30)],
            [(RAISED, OF_BAD, 10), (ENDED, None, 12)],
            id="over",
        ),
        pytest.param([watch(), frame(1, BAD), end(2), watch(10), tick(10)], [], id="watched again at the window's end"),
        pytest.param(
            [watch(), frame(1, BAD), end(2, BAD), watch(3), tick(10)], [(RAISED, OF_BAD, 10)], id="watched again before"
        ),
        pytest.param(
            [settings(mos_below=4, raise_n=2, raise_m=3), watch(), *(frame(t, BAD) for t in (1, 21)), tick(30)],
            [(RAISED, OF_BAD, 30)],
            id="2 of 3 windows that have a MOS",
        ),
        pytest.param(
            [settings(mos_below=4, policy="frame"), watch(), frame(1, BAD), frame(11, BAD), frame(21, GOOD), tick(30)],
            [(RAISED, OF_BAD, 10), (RAISED, OF_BAD, 20)],
            id="policy frame",
        ),
        pytest.param(
            [watch(), frame(1, BAD), feed(12, "down"), frame(13, GOOD), tick(20)],
            [(RAISED, OF_BAD, 10)],
            id="feed lost",
        ),
        pytest.param(
            [watch(), frame(1, BAD), feed(12, "down"), feed(13, "up"), *(frame(t, GOOD) for t in (14, 21)), tick(30)],
            [(RAISED, OF_BAD, 10), (RECOVERED, OF_GOOD, 30)],
            id="feed back: the quiet time restarts",
        ),
        pytest.param(
            [watch(feed="b"), frame(1, BAD), feed(12, "down"), frame(13, GOOD), tick(20)],
            [(RAISED, OF_BAD, 10), (RECOVERED, OF_GOOD, 20)],
            id="another's feed lost",
        ),
        pytest.param(
            [watch(), frame(1, BAD), settings(3, length_s=2, mos_below=4), tick(9), frame(9.5, GOOD), tick(11)],
            [(RAISED, OF_BAD, 10)],
            id="closed early: at its end",
        ),
        pytest.param(
            [settings(), watch(), frame(1, BAD), settings(10, mos_below=4), tick(20)], [], id="turned on after"
        ),
        pytest.param(
            [settings(), watch(), frame(1, BAD), settings(9, mos_below=4), tick(20)],
            [(RAISED, OF_BAD, 10)],
            id="before",
        ),
        pytest.param([watch(), frame(1, BAD), settings(9), tick(20)], [], id="turned off before"),
        pytest.param(
            [watch(), frame(1, BAD), settings(10), frame(11, GOOD), tick(60), end(61)],
            [(RAISED, OF_BAD, 10), (ENDED, None, 61)],
            id="turned off while open",
        ),
    ],
)
def test_a_window_sounds_bad(lines: list[bytes], expected: list[tuple[Any, ...]]) -> None:
    """Told at the window's end, in MOS, while the conversation is watched."""
    assert told([BELOW_4, *lines]) == expected


@pytest.mark.parametrize(("mos_below", "raised"), [(OF_BAD, False), (2.597, True), (3.7, True), (1, False)])
def test_a_mos_at_the_limit_is_not_below(mos_below: float, raised: bool) -> None:
    """The alert has the window's MOS and the limit as they were written."""
    alerts = replayed([settings(mos_below=mos_below), watch(), frame(1, BAD), tick(10)]).alerts
    bodies = [json.loads(alert.body) for alert in alerts]
    shown = [(body["alertType"], body["metricValue"], body["threshold"], body["window"]["end"]) for body in bodies]
    assert shown == ([("LOW_MOS", OF_BAD, mos_below, 10)] if raised else [])


def test_what_time_does_comes_before_the_frames_of_that_time() -> None:
    """A window's end, a stall, and then the frames' alerts, by conversation; all else by time."""
    lines = [
        settings(mos_below=4, stalled_after_s=5),
        watch(),
        watch(name="b"),
        watch(name="x", packet_loss_threshold=0),
    ]
    lines += [frame(5, BAD), frame(5, BAD, "b"), frame(10, BAD, "x"), frame(10, BAD, "c"), frame(11, BAD, "b")]
    shown = [(alert.time, alert.rule, alert.conversation_id, alert.reason) for alert in replayed(lines).alerts]
    assert shown == [
        (10, "LOW_MOS", "b", None),
        (10, "LOW_MOS", "c", None),
        (10, "STREAM_STALLED", "b", None),
        (10, "STREAM_STALLED", "c", None),
        (10, "PACKET_LOSS_DETECTED", "x", None),
        (10, "STREAM_STALLED", "c", RECOVERED),
        (11, "STREAM_STALLED", "b", RECOVERED),
    ]


def test_a_feed_freezes_the_incidents_of_its_conversations_only() -> None:
    """Those of no feed in particular are concerned by every feed."""
    watches = [watch(name=name, feed=of, max_latency_ms=10) for name, of in (("a", "a"), ("b", "b"), ("any", None))]
    names = ("a", "b", "any")
    raised = [frame(1, name=name) for name in names]
    limits = [watch(2, name, max_latency_ms=500) for name in names]
    lines = [*watches, *raised, *limits, feed(2, "down"), *(frame(20, name=name) for name in names), feed(21, "up")]
    lines += [frame(30.9, name=name) for name in names] + [frame(31, name=name) for name in names]
    resolved = [(alert.time, alert.conversation_id) for alert in replayed(lines).alerts if alert.reason]
    assert resolved == [(20, "b"), (31, "a"), (31, "any")]


def test_the_codec_is_the_conversations_or_that_of_the_settings() -> None:
    """The same network sounds otherwise through another codec, and the model's name tells which."""
    lines = [watch(), watch(name="d", codec="g729a"), watch(name="e", codec="g711-no-plc")]
    lines += [frame(1, 0.02, name) for name in "cde"]
    windows = replayed([settings(), *lines]).windows
    assert [window["mos"] for window in windows] == [
        {"value": 4.214, "model": MODEL},
        {"value": 3.758, "model": "G.107 narrowband, G.729A+VAD"},
        {"value": 3.222, "model": "G.107 narrowband, G.711"},
    ]
    windows = replayed([settings(codec="g729a"), *lines]).windows
    assert [window["mos"]["model"] for window in windows] == [MODELS[2], MODELS[2], MODELS[1]]


def test_no_window_is_of_two_codecs() -> None:
    """Another codec in the settings closes the open windows early; a new watch after the end takes what is open."""
    lines = [
        settings(),
        watch(),
        frame(1, 0.02),
        settings(2, codec="g729a"),
        frame(3, 0.02),
        end(4),
        watch(5, codec="g711"),
    ]
    windows = replayed([*lines, frame(12, 0.02)]).windows
    assert [(window["end"], window["frames"], window["mos"]["model"]) for window in windows] == [
        (10, 1, MODEL),
        (10, 2, MODEL),
        (20, 1, MODEL),
    ]
    lines[-1] = watch(10, codec="g711")
    windows = replayed([*lines, frame(12, 0.02)]).windows
    assert [window["mos"]["model"] for window in windows] == [MODEL, MODELS[2], MODEL]


def test_there_is_room_for_many() -> None:
    """Slots come, go and are used again; each conversation has its own stalls, windows and feed."""
    names = [f"c{number}" for number in range(150)]
    lines = [settings(mos_below=4, stalled_after_s=5), feed(0, "down", "b")]
    lines += [watch(0, name, feed="ab"[number % 2]) for number, name in enumerate(names)]
    lines += [frame(1, BAD, name) for name in names]
    lines += [frame(12, GOOD, name, "conversation.ended") for name in names[:100]]
    lines += [tick(40), *(watch(40, f"d{number}") for number in range(80)), frame(41, BAD, "d7"), feed(42, "up", "b")]
    lines += [tick(46.5), tick(60)]
    alerts = replayed(lines).alerts
    found = {rule: sum(alert.rule == rule for alert in alerts) for rule in ("LOW_MOS", "STREAM_STALLED")}
    assert found == {"LOW_MOS": 150 + 100 + 1, "STREAM_STALLED": 75 + 50 + 25 + 1}
