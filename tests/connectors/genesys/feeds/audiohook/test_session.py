"""The protocol of an AudioHook session: messages in, messages out, and the clock told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.genesys.feeds.audiohook.events import (
    Audio,
    ClientError,
    Closed,
    Declined,
    Discarded,
    Failed,
    Opened,
    Paused,
    Ping,
    Resumed,
    Updated,
)
from connectors.genesys.feeds.audiohook.messages import duration, duration_s
from connectors.genesys.feeds.audiohook.session import (
    MAX_TEXT_BYTES,
    NO_CONVERSATION,
    Session,
    SessionTiming,
)

SESSION = "30b0e395-84d3-4570-ac13-9a62d8f514c0"
ORGANIZATION = "d7934305-0972-4844-938e-9060eef73d05"
STEREO = {"type": "audio", "format": "PCMU", "channels": ["external", "internal"], "rate": 8000}
MONO = STEREO | {"channels": ["external"]}
L16 = STEREO | {"format": "L16"}


class Client:
    """Sends given messages with the right numbers, and keeps what it receives."""

    def __init__(self, now: float = 0.0) -> None:
        self.session = Session(SESSION, ORGANIZATION, now)
        self.now = now
        self.seq = 0
        self.heard: list[dict[str, Any]] = []

    def say(self, kind: str, parameters: object = None, position: object = "PT0S", **changes: object) -> list[Any]:
        self.seq += 1
        message = {
            "version": "2",
            "id": SESSION,
            "type": kind,
            "seq": self.seq,
            "serverseq": len(self.heard),
            "position": position,
            "parameters": {} if parameters is None else parameters,
        }
        return self.raw(json.dumps(message | changes))

    def raw(self, message: str | bytes) -> list[Any]:
        events = self.session.receive(message, self.now)
        self.hear()
        return events

    def hear(self) -> None:
        self.heard += [json.loads(text) for text in self.session.to_send()]

    def open(self, *, media: object = (STEREO, MONO), **more: object) -> list[Any]:
        parameters = {
            "organizationId": ORGANIZATION,
            "conversationId": "090eaa2f-72fa-480a-83e0-8667ff89c0ec",
            "participant": {"id": "883efee8-3d6c-4537-b500-6d7ca4b92fa0", "ani": "", "aniName": "", "dnis": ""},
            "media": media,
        }
        return self.say("open", parameters | more)

    def last(self) -> tuple[str, dict[str, Any]]:
        return self.heard[-1]["type"], self.heard[-1]["parameters"]


def opened() -> Client:
    client = Client()
    client.open()
    assert client.last()[0] == "opened"
    return client


def test_a_whole_session() -> None:
    """Open, ping, audio, discarded, paused, resumed, update, close: each is answered as it must be."""
    client = Client()
    assert client.open() == [
        Opened(
            "090eaa2f-72fa-480a-83e0-8667ff89c0ec",
            0.0,
            2,
            is_probe=False,
            continues=(),
            texts={},
            names=("external", "internal"),
        )
    ]
    assert client.last() == ("opened", {"media": [STEREO], "startPaused": False})
    assert client.say("ping", {}) == [Ping(None, 0.0)]
    assert client.last() == ("pong", {})
    assert client.say("ping", {"rtt": "PT0.0421S"}, "PT0.2S") == [Ping(0.0421, 0.2)]
    assert client.raw(b"\xff" * 1600) == [Audio(800)]
    assert client.say("discarded", {"start": "PT1S", "discarded": "PT0.3S"}) == [Discarded(1.0, 0.3)]
    assert client.say("paused", {}, "PT2S") == [Paused(2.0)]
    assert client.session.paused
    assert client.say("resumed", {"start": "PT2S", "discarded": "PT0.5S"}) == [Resumed(2.0, 0.5)]
    assert client.raw(b"") == [Audio(0)]
    assert client.say("update", {"language": "de-DE"}) == [Updated("de-DE")]
    assert client.last() == ("updated", {})
    assert client.say("error", {"code": 429, "message": "slow down"}) == [ClientError(429, "slow down")]
    assert client.say("close", {"reason": "end"}) == [Closed("end")]
    assert client.last() == ("closed", {})
    assert [(message["seq"], message["clientseq"]) for message in client.heard] == [
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 7),
        (5, 9),
    ]
    assert {(message["version"], message["id"]) for message in client.heard} == {("2", SESSION)}
    assert not client.session.over


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([MONO, STEREO], [STEREO]),
        ([L16, MONO], [MONO]),
        ([MONO, MONO | {"channels": ["internal"]}], [MONO]),
        ([STEREO | {"new": "key"}], [STEREO]),
        ([STEREO | {"channels": ["x" * 257]}, MONO], [MONO]),
        ([STEREO | {"channels": [1, 2]}, MONO], [MONO]),
        ([], []),
    ],
)
def test_one_of_the_offered_media_is_chosen(offered: list[Any], chosen: list[Any]) -> None:
    """The offer with the most channels is sent back, in the protocol's own members; no offer is answered with none."""
    client = Client()
    assert client.open(media=offered)[0].channels == (len(chosen[0]["channels"]) if chosen else 0)
    assert client.last()[1]["media"] == chosen


def test_a_connection_probe_is_answered_without_media() -> None:
    """The all-zero conversation opens with no media, says that it is a probe, and closes like any other."""
    client = Client()
    assert client.open(conversationId=NO_CONVERSATION)[0].is_probe
    assert client.last() == ("opened", {"media": [], "startPaused": False})
    assert client.say("close", {"reason": "end"}) == [Closed("end")]
    assert client.last() == ("closed", {})


def test_optional_parameters_of_open_are_understood() -> None:
    """Languages are answered when asked for, and continued sessions are named."""
    client = Client()
    continued = [{"id": "before", "serverseq": 3, "clientseq": 4}, "nonsense"]
    events = client.open(supportedLanguages=True, continuedSessions=continued, customConfig={}, language="en-US")
    assert events[0].continues == ("before",)
    assert client.last()[1]["supportedLanguages"] == []


@pytest.mark.parametrize("kind", ["dtmf", "playback_started", "playback_completed", "something_new"])
def test_unknown_types_are_ignored_and_counted_in_the_sequence(kind: str) -> None:
    """A type of message that we do not know changes nothing but the sequence."""
    client = opened()
    assert client.say(kind, {"digit": "5"}) == []
    assert client.say("ping") == [Ping(None, 0.0)]
    assert client.heard[-1]["clientseq"] == 3


@pytest.mark.parametrize(
    ("message", "info"),
    [
        ({"seq": 7}, "seq is not 2"),
        ({"seq": 1}, "seq is not 2"),
        ({"seq": True}, "seq is not 2"),
        ({"seq": "2"}, "seq is not 2"),
        ({"serverseq": 2}, "serverseq is not within 0 and 1"),
        ({"serverseq": -1}, "serverseq is not within 0 and 1"),
        ({"serverseq": None}, "serverseq is not within 0 and 1"),
        ({"version": "3"}, "a text message that is not of protocol version 2"),
        ({"type": 5}, "a text message that is not of protocol version 2"),
        ({"id": "other"}, "id is not that of the session"),
        ({"id": None}, "id is not that of the session"),
        ({"parameters": []}, "parameters are missing"),
        ({"position": "1.3"}, "position is not a duration"),
        ({"position": "PT-1S"}, "position is not a duration"),
        ({"position": "PT1M"}, "position is not a duration"),
        ({"position": None}, "position is not a duration"),
        ({"position": f"PT{'9' * 9}S"}, "position is not a duration"),
        ({"position": "PT٣S"}, "position is not a duration"),
        ({"type": "ping", "parameters": {"rtt": 5}}, "ping with bad parameters"),
        ({"type": "discarded"}, "discarded with bad parameters"),
        ({"type": "resumed", "parameters": {"start": "PT1S"}}, "resumed with bad parameters"),
        ({"padding": "x" * MAX_TEXT_BYTES}, f"a text message of more than {MAX_TEXT_BYTES} bytes"),
        ({"padding": "é" * (MAX_TEXT_BYTES // 2)}, f"a text message of more than {MAX_TEXT_BYTES} bytes"),
    ],
)
def test_what_is_wrong_with_a_message_is_told_with_a_disconnect(message: dict[str, Any], info: str) -> None:
    """A message out of sequence or of a bad shape: the client is asked to close, and closes in any sequence."""
    client = opened()
    client.seq += 1
    base = {"version": "2", "id": SESSION, "type": "ping", "seq": client.seq, "serverseq": 1, "position": "PT0S"}
    text = json.dumps(base | {"parameters": {}} | message, ensure_ascii=False)
    assert client.raw(text) == [Failed(info)]
    assert client.last() == ("disconnect", {"reason": "error", "info": info})
    assert client.say("ping") == []
    assert client.raw(b"audio on its way") == []
    assert client.say("close", {"reason": "disconnect"}, seq=99) == [Closed("disconnect")]
    assert client.heard[-1]["type"] == "closed"
    assert client.heard[-1]["clientseq"] == 99


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "5", "{", "\ud800", "\x00", '{"version":"2"}', "[" * 5000])
def test_what_is_no_message_is_told_with_a_disconnect(text: str) -> None:
    """Text that is not a message ends the session in order, and then only a close is accepted."""
    client = opened()
    assert [type(event) for event in client.raw(text)] == [Failed]
    assert client.last()[0] == "disconnect"
    assert client.raw(text) == []
    assert len(client.heard) == 2


@pytest.mark.parametrize(
    ("opening", "info"),
    [
        ({"media": [L16]}, "no PCMU audio of 8000 Hz is offered"),
        ({"media": [None, 5, {"type": "audio"}]}, "no PCMU audio of 8000 Hz is offered"),
        ({"media": None}, "open without media"),
        ({"conversationId": ""}, "open without a conversationId"),
        ({"conversationId": 5}, "open without a conversationId"),
        ({"conversationId": "x" * 300}, "open without a conversationId"),
    ],
)
def test_an_open_that_cannot_be_granted_is_told_with_a_disconnect(opening: dict[str, Any], info: str) -> None:
    """An open without what is needed is answered with the reason, and never with `opened`."""
    client = Client()
    assert client.open(**opening) == [Failed(info)]
    assert client.last() == ("disconnect", {"reason": "error", "info": info})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(["PT1S", SESSION]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=5,
)
KEYS = [
    "rtt",
    "start",
    "discarded",
    "code",
    "message",
    "reason",
    "language",
    "media",
    "conversationId",
    "continuedSessions",
]
TYPES = ["open", "ping", "discarded", "paused", "resumed", "update", "error", "close", "dtmf"]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(TYPES), st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4), JSON)
        | st.binary(max_size=9)
        | st.text(max_size=20),
        max_size=12,
    ),
    st.booleans(),
)
def test_whatever_a_client_says_is_answered_in_order(said: list[Any], opens: bool) -> None:
    """Nothing that a client says raises; what we say is in sequence, and after a close it is nothing but `closed`."""
    client = Client()
    if opens:
        client.open()
    for one in said:
        if isinstance(one, tuple):
            kind, parameters, position = one
            client.say(kind, parameters, position if kind == "dtmf" else "PT1S")
        else:
            client.raw(one)
        client.now += 1.0
    client.session.expire(client.now)
    client.hear()
    assert [message["seq"] for message in client.heard] == list(range(1, len(client.heard) + 1))
    kinds = [message["type"] for message in client.heard]
    assert kinds.count("closed") <= 1
    assert "closed" not in kinds[:-1]
    assert kinds.count("disconnect") <= 1


def test_an_open_for_another_organization_is_unauthorized() -> None:
    """The organization of `open` must be that of the upgrade, whose signature covers it."""
    client = Client()
    assert client.open(organizationId="other") == [Failed("open for another organization")]
    assert client.last()[1]["reason"] == "unauthorized"


def test_audio_at_the_wrong_time_or_of_the_wrong_size_is_an_error() -> None:
    """Audio before `opened`, while paused, of half a sample, or without media is a protocol error."""
    client = Client()
    assert client.raw(b"1234") == [Failed("audio while opening")]
    client = opened()
    client.say("paused")
    assert client.raw(b"1234") == [Failed("audio while paused")]
    client = opened()
    assert client.raw(b"123") == [Failed("audio that is not whole samples")]
    client = Client()
    client.open(media=[])
    assert client.raw(b"12") == [Failed("audio though no media was selected")]


def test_messages_before_open_are_an_error_and_a_second_open_is_ignored() -> None:
    """The first message is `open`, or a close; another one changes nothing."""
    client = Client()
    assert client.say("ping") == [Failed("a message before open")]
    client = Client()
    assert client.say("close", {"reason": "error"}) == [Closed("error")]
    client = opened()
    assert client.open() == []
    assert len(client.heard) == 1


def test_pausing_twice_and_resuming_twice_is_harmless() -> None:
    """The client repeats `paused` and `resumed` when it is asked to do what it has done."""
    client = opened()
    assert client.say("resumed", {"start": "PT1S", "discarded": "PT0S"}) == [Resumed(1.0, 0.0)]
    assert client.say("paused") == [Paused(0.0)]
    assert client.say("paused") == []
    assert client.session.paused


def test_an_open_that_does_not_come_is_given_up_after_5_seconds() -> None:
    """Without `open` the client is asked to close after 5 s, and its connection is closed 10 s later."""
    client = Client(100.0)
    assert client.session.deadline == 105.0
    assert client.session.expire(104.9) == []
    assert client.session.expire(105.0) == [Failed("no open message in time")]
    client.hear()
    assert client.last()[0] == "disconnect"
    assert client.session.deadline == 115.0
    assert client.session.expire(114.9) == []
    assert not client.session.over
    assert client.session.expire(115.0) == []
    assert client.session.over


def test_a_silent_client_is_given_up() -> None:
    """Every message postpones the deadline; a client that neither pings nor sends is asked to close."""
    client = opened()
    client.now = 20.0
    client.raw(b"12")
    assert client.session.deadline == 50.0
    assert client.session.expire(50.0) == [Failed("no ping in time")]
    assert client.session.deadline == 60.0


def test_a_client_that_does_not_hang_up_after_closed_is_hung_up_on() -> None:
    """After `closed` it is the client that closes the WebSocket; after 10 s we do."""
    client = opened()
    client.say("close", {"reason": "end"})
    assert client.session.deadline == 10.0
    assert client.say("ping") == []
    assert client.session.expire(10.0) == []
    assert client.session.over
    assert client.say("ping") == []
    assert client.session.expire(1e9) == []


def test_a_conversation_that_is_not_wanted() -> None:
    """It is opened without media and the client is asked to close; the decision sees the id and the client's texts."""
    asked: list[tuple[str, dict[str, str]]] = []

    def wants(conversation_id: str, texts: Mapping[str, str]) -> bool:
        asked.append((conversation_id, dict(texts)))
        return False

    client = Client()
    client.session = Session(SESSION, ORGANIZATION, 0.0, wants=wants)
    conversation = "090eaa2f-72fa-480a-83e0-8667ff89c0ec"
    custom = {"queue": "sales", "team": 7, "nested": {"x": 1}, "inputVariables": {"queue": "support"}}
    assert client.open(customConfig=custom, inputVariables={"agent": "u"}) == [Declined(conversation)]
    assert asked == [(conversation, {"queue": "support", "team": "7", "agent": "u"})]
    assert [message["type"] for message in client.heard] == ["opened", "disconnect"]
    assert client.heard[0]["parameters"]["media"] == []
    assert client.last() == ("disconnect", {"reason": "completed", "info": "this conversation is not monitored"})
    assert client.raw(b"\x00\x00") == []
    assert client.say("close", {"reason": "disconnect"}) == [Closed("disconnect")]


def test_disconnect_is_sent_once() -> None:
    """`disconnect` is sent once, and a client may answer it with a reconnect."""
    client = Client()
    client.open()
    client.session.disconnect("completed", "stopping", 3.0)
    client.session.disconnect("completed", "stopping", 4.0)
    client.hear()
    assert client.last() == ("disconnect", {"reason": "completed", "info": "stopping"})
    assert len(client.heard) == 2
    assert client.session.deadline == 13.0
    assert client.say("close", {"reason": "reconnect"}) == [Closed("reconnect")]


def test_the_timing_is_as_published() -> None:
    """Opened within 5 s, closed within 10 s; silence is 6 missing pings."""
    assert SessionTiming() == SessionTiming(open_s=5.0, close_s=10.0, quiet_s=30.0)


@pytest.mark.parametrize(
    ("text", "seconds"), [("PT0S", 0.0), ("PT1.3S", 1.3), ("PT.5S", 0.5), ("PT00012.0421S", 12.0421)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    """What the protocol's pattern allows is a number of seconds."""
    assert duration_s(text) == seconds


@pytest.mark.parametrize("seconds", [0.0, 0.1, 1.3, 3600.000001, 12.5])
def test_durations_are_written_as_they_are_read(seconds: float) -> None:
    """A duration that is written reads as the same."""
    assert duration_s(duration(seconds)) == seconds


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("levels", [255, 1000, 1020, 5000])
@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("open", {"media": [STEREO | {"more": "DEEP"}]}),
        ("open", {"media": [STEREO | {"channels": ["DEEP"]}]}),
        ("open", {"media": [STEREO], "continuedSessions": [{"id": "DEEP"}]}),
        ("open", {"media": [STEREO], "organizationId": "DEEP"}),
        ("error", {"code": "DEEP", "message": "DEEP"}),
        ("close", {"reason": "DEEP"}),
    ],
)
def test_deep_nesting_is_no_more_than_an_error_of_the_client(kind: str, parameters: Any, levels: int) -> None:
    """Whatever is nested as deep as JSON allows, or deeper, is left out or refused; nothing is raised."""
    client = Client()
    opening = {"organizationId": ORGANIZATION, "conversationId": "c"} if kind == "open" else {}
    message = {"version": "2", "id": SESSION, "type": kind, "seq": 1, "serverseq": 0, "position": "PT0S"}
    text = json.dumps(message | {"parameters": opening | parameters}).replace('"DEEP"', nested(levels))
    events = client.raw(text)
    assert len(events) == 1
    assert "[[" not in json.dumps(client.heard)


def test_an_update_with_a_language_that_is_no_text_is_answered() -> None:
    """A deeply nested language is ignored."""
    client = Client()
    client.open()
    message = {"version": "2", "id": SESSION, "type": "update", "seq": 2, "serverseq": 1, "position": "PT0S"}
    text = json.dumps(message | {"parameters": {"language": "DEEP"}}).replace('"DEEP"', nested(900))
    assert client.raw(text) == [Updated("")]
