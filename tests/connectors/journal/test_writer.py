"""The journal: what it writes, how it goes on after a crash, and that a reader gets every line once."""

from __future__ import annotations

import itertools
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.errors import StateError
from connectors.format.decode import decode_block
from connectors.format.notifications import read_notification
from connectors.journal.segments import JournalTail, Position, segments
from connectors.journal.writer import Journal
from tests.support.clocks import same_clocks

SETTINGS: dict[str, Any] = {"windows": {"length_s": 10.0, "slide_s": 5.0}, "alerts": {"policy": "incident"}}
WATCH = {"conversation_id": "c1", "leg_id": "l1", "max_latency_ms": 150.0, "packet_loss_threshold": 0.02}
DEADLINE_S = 30.0


def journal_in(directory: Path, now: Callable[[], float] = lambda: 1000.0, **limits: Any) -> Journal:
    return Journal(directory, settings=SETTINGS, read_clocks=same_clocks(now), **limits)


def frame(conversation_id: str = "c1", event: str = "conversation.updated", **more: Any) -> bytes:
    return orjson.dumps({"event": event, "entity": {"id": conversation_id}, "timestamp": 999.5, **more})


def lines_of(directory: Path) -> list[bytes]:
    return [line for segment in segments(directory) for line in segment.read_bytes().splitlines()]


def records(directory: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in lines_of(directory)]


def kinds(found: list[dict[str, Any]]) -> list[str]:
    return [next(key for key in record if key not in ("received_at", "reason")) for record in found]


def test_every_record_has_the_form_that_the_contract_gives_it(tmp_path: Path) -> None:
    """Settings, feed, watch, frame, invalid and tick are written byte for byte as §4 says, frames as received."""
    clock = itertools.count(1000.0, 0.25)
    journal = journal_in(tmp_path / "journal", lambda: next(clock))
    journal.feed("voice-events", "up", "connected")
    journal.watch(WATCH)
    journal.frame(b'{"event":"conversation.new", "entity":{"id":"c1"},"timestamp":1.50,"new":[1]}')
    journal.frame(frame().decode())
    journal.invalid("\x00", "binary message")
    journal.frame(b'{"event":"x"')
    journal.tick()
    journal.close()
    time = rb"\d+\.\d+"
    expected = [
        rb'{"received_at":%b,"settings":{"windows":{"length_s":10.0,"slide_s":5.0},"alerts":{"policy":"incident"}}}',
        rb'{"received_at":%b,"feed":{"name":"voice-events","state":"up","reason":"connected"}}',
        rb'{"received_at":%b,"watch":{"conversation_id":"c1","leg_id":"l1","max_latency_ms":150.0,"packet_loss_threshold":0.02}}',
        rb'{"received_at":%b,"frame":{"event":"conversation.new", "entity":{"id":"c1"},"timestamp":1.50,"new":[1]}}',
        rb'{"received_at":%b,"frame":{"event":"conversation.updated","entity":{"id":"c1"},"timestamp":999.5}}',
        rb'{"received_at":%b,"invalid":"\u0000","reason":"binary message"}',
        rb'{"received_at":%b,"invalid":"{\"event\":\"x\"","reason":"not JSON: ',
        rb'{"received_at":%b,"tick":true}',
    ]
    written = lines_of(tmp_path / "journal")
    assert len(written) == len(expected)
    for line, pattern in zip(written, expected, strict=True):
        before, after = pattern.split(b"%b")
        assert re.fullmatch(re.escape(before) + time + re.escape(after) + rb".*", line), line
    assert [record["received_at"] for record in map(orjson.loads, written)] == sorted(
        record["received_at"] for record in map(orjson.loads, written)
    )


def test_times_never_go_backward(tmp_path: Path) -> None:
    """Records of threads that overtake each other are in order, and so they are when a restart is a little behind."""
    clock = iter([1000.0, 1000.0, 1002.0, 1001.0, 990.0, 1003.5])
    journal = journal_in(tmp_path, lambda: next(clock, 900.0))
    for _ in range(5):
        journal.frame(frame())
    journal.close()
    journal = journal_in(tmp_path, lambda: 1002.6)
    journal.tick()
    journal.close()
    times = [record["received_at"] for record in records(tmp_path)]
    assert times == sorted(times)
    assert times[0] == 1000.0
    assert times[-1] == max(times)


def test_a_frame_is_timed_before_it_waits_for_another_writer(tmp_path: Path) -> None:
    """The arrival time is taken when the message is handed over, not when its turn to be written has come."""
    asked = threading.Event()

    def now() -> float:
        if threading.current_thread().name == "slow":  # asked for the time of a feed record, with the journal held
            assert asked.wait(DEADLINE_S)
            return 30.0
        asked.set()
        return 20.0

    writing = False
    journal = journal_in(tmp_path, lambda: now() if writing else 10.0)
    writing = True
    slow = threading.Thread(target=journal.feed, args=("voice-events", "up", "connected"), name="slow")
    slow.start()
    journal.frame(frame())
    slow.join(DEADLINE_S)
    writing = False
    journal.close()
    written = [{key: record[key] for key in record if key.endswith("_at")} for record in records(tmp_path)[1:]]
    assert written == [{"received_at": 30.0}, {"received_at": 30.0, "arrived_at": 20.0}]


def test_a_newline_between_tokens_stays_one_line(tmp_path: Path) -> None:
    """A frame that was sent over several lines is one line of the journal, and the same frame."""
    journal = journal_in(tmp_path)
    pretty = orjson.dumps(orjson.loads(frame(note="a\nb")), option=orjson.OPT_INDENT_2).replace(b"\n", b"\r\n")
    journal.frame(pretty)
    journal.frame(b'{"event":"x","entity":{"id":"a\nb"},"timestamp":1}')
    journal.close()
    _, first, second = records(tmp_path)
    assert first["frame"] == orjson.loads(frame(note="a\nb"))
    assert second["invalid"] == '{"event":"x","entity":{"id":"a\nb"},"timestamp":1}'


def test_an_invalid_message_is_cut_and_always_text(tmp_path: Path) -> None:
    """A message that is not a frame is cut at 4096 characters, whatever bytes it was made of, with the reason."""
    journal = journal_in(tmp_path)
    journal.frame("é".encode() * 5000)
    journal.frame(b"\xff\xfe{}")
    journal.frame('{"event":"\ud800"}')
    journal.invalid("\ud800", "a reason with \udfff in it")
    journal.close()
    found = records(tmp_path)[1:]
    assert kinds(found) == ["invalid"] * 4
    assert found[0]["invalid"] == "é" * 4096
    assert found[1]["invalid"] == "\ufffd\ufffd{}"
    assert found[3] == {"received_at": 1000.0, "invalid": "?", "reason": "a reason with ? in it"}
    assert all(record["reason"] for record in found)


def test_files_are_private(tmp_path: Path) -> None:
    """Segments are 0600 in a directory of 0700."""
    journal_in(tmp_path / "journal").close()
    assert stat.S_IMODE((tmp_path / "journal").stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in segments(tmp_path / "journal")] == [0o600]


# Rotation


def test_a_new_segment_holds_all_that_is_in_force(tmp_path: Path) -> None:
    """After its size is reached, a segment is followed by one that starts with settings, watches and feed states."""
    journal = journal_in(tmp_path, max_segment_bytes=2000)
    journal.feed("voice-events", "up", "connected")
    journal.watch(WATCH)
    journal.watch({**WATCH, "conversation_id": "c2"})
    journal.watch({**WATCH, "max_latency_ms": 100.0})
    journal.frame(frame("c2", "conversation.ended"))
    while len(segments(tmp_path)) == 1:
        journal.frame(frame())
        journal.flush()
    journal.close()
    head = [orjson.loads(line) for line in segments(tmp_path)[1].read_bytes().splitlines()]
    assert kinds(head) == ["settings", "watch", "feed"]
    assert head[0]["settings"] == SETTINGS
    assert head[1]["watch"] == {**WATCH, "max_latency_ms": 100.0, "last_frame_at": head[1]["received_at"]}
    assert head[2]["feed"] == {"name": "voice-events", "state": "up", "reason": "as in the segment before"}
    assert segments(tmp_path)[0].stat().st_size >= 2000
    assert [path.name for path in segments(tmp_path)] == ["00000001.jsonl", "00000002.jsonl"]


def test_a_segment_ends_by_its_age_in_journal_time(tmp_path: Path) -> None:
    """An old segment is followed by a new one with the next write, however small it is."""
    clock = iter([0.0, 0.0, 3599.0, 3600.0])
    journal = journal_in(tmp_path, lambda: next(clock, 3600.5), max_segment_age_s=3600.0)
    while len(segments(tmp_path)) == 1:
        journal.tick()
    journal.tick()
    journal.close()
    first, second = (path.read_bytes().splitlines() for path in segments(tmp_path))
    assert orjson.loads(first[-1])["received_at"] >= 3600.0
    assert kinds([orjson.loads(line) for line in second]) == ["settings", "tick"]


def test_a_conversation_that_ends_with_a_segment_is_not_watched_in_the_next(tmp_path: Path) -> None:
    """The frame that fills the buffer and ends a conversation does not carry its watch over into the next segment."""
    journal = journal_in(tmp_path, max_segment_bytes=1)
    journal.watch(WATCH)
    before = len(segments(tmp_path))
    journal.frame(frame("c1", "conversation.ended", padding="x" * 300_000))
    assert len(segments(tmp_path)) == before + 1
    journal.close()
    newest = [orjson.loads(line) for line in segments(tmp_path)[-1].read_bytes().splitlines()]
    assert kinds(newest) == ["settings"]
    assert not journal.is_watching("c1")


# Crash and restart


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    """What a crash tore off in the middle of a line is gone after reopening, and nothing before it."""
    journal = journal_in(tmp_path)
    journal.watch(WATCH)
    journal.frame(frame())
    journal.close()
    [segment] = segments(tmp_path)
    whole = segment.read_bytes()
    with segment.open("ab") as file:
        file.write(b'{"received_at":1001.0,"watch":{"conversation_id":"c9"' + b"x" * 200_000)
    journal = journal_in(tmp_path)
    assert segment.read_bytes() == whole
    assert journal.is_watching("c1")
    assert not journal.is_watching("c9")
    journal.close()


@pytest.mark.parametrize("unread", ["9" * 30, "[" * 300 + "]" * 300, "1e999"])
def test_an_end_is_found_again_whatever_else_is_in_it(tmp_path: Path, unread: str) -> None:
    """A frame that ended a watch when it was received ends it when the journal is opened again, too."""
    journal = journal_in(tmp_path)
    journal.watch(WATCH)
    message = f'{{"event":"conversation.ended","entity":{{"id":"c1"}},"timestamp":1,"unread":{unread}}}'
    journal.frame(message)
    assert not journal.is_watching("c1")
    journal.close()
    assert not journal_in(tmp_path).is_watching("c1")


def test_a_conversation_that_a_notification_ended_is_not_watched_again(tmp_path: Path) -> None:
    """The end is found again in the message as it was received, when the journal is opened the next time."""
    journal = journal_in(tmp_path)
    journal.watch(WATCH)
    topic = "v2.detail.events.conversation.c1.customer.end"
    body = {"eventTime": 999_500, "conversationId": "c1", "mediaType": "VOICE"}
    journal.frame(orjson.dumps({"topicName": topic, "eventBody": body}))
    assert not journal.is_watching("c1")
    journal.close()
    assert not journal_in(tmp_path).is_watching("c1")


@pytest.mark.parametrize("left", [b"", b'{"received_at":1000.0,"settings":{"win'])
def test_an_empty_last_segment_does_not_hide_the_one_before(tmp_path: Path, left: bytes) -> None:
    """A segment of which a power loss left nothing or a torn line is passed over: its predecessor tells the state."""
    journal = journal_in(tmp_path, lambda: 2000.0)
    journal.watch(WATCH)
    journal.close()
    (tmp_path / "00000002.jsonl").write_bytes(left)
    (tmp_path / "00000003.jsonl.new").write_bytes(b"left over")
    journal = journal_in(tmp_path, lambda: 1999.5)
    assert journal.is_watching("c1")
    journal.tick()
    journal.close()
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"0000000{n}.jsonl" for n in (1, 2, 3)]
    assert all(record["received_at"] == 2000.0 for record in records(tmp_path))
    assert kinds(records(tmp_path)) == ["settings", "watch", "settings", "watch", "tick"]


def test_lines_that_are_no_records_stop_nobody(tmp_path: Path) -> None:
    """A journal that was damaged in its middle can be opened; what can be read of it is in force."""
    journal = journal_in(tmp_path)
    journal.watch(WATCH)
    journal.close()
    [segment] = segments(tmp_path)
    bad = [b"\x00" * 50, b"[]", b"7", b'{"received_at":"soon"}', b'{"received_at":1,"watch":[]}']
    bad += [b'{"received_at":1,"frame":7}', b'{"received_at":1,"frame":{"event":"conversation.ended","entity":7}}']
    segment.write_bytes(b"\n".join([*bad, segment.read_bytes(), b""]))
    journal = journal_in(tmp_path)
    assert journal.is_watching("c1")
    journal.close()


def test_a_feed_that_was_up_when_the_process_died_is_noted_as_down(tmp_path: Path) -> None:
    """After a crash the journal says that the feed was lost, so that alerts freeze, once."""
    journal = journal_in(tmp_path)
    journal.feed("voice-events", "up", "connected")
    journal.flush()
    again = journal_in(tmp_path)
    again.close()
    last = records(tmp_path)[-1]
    assert last["feed"]["state"] == "down"
    assert last["feed"]["name"] == "voice-events"
    journal_in(tmp_path).close()
    assert kinds(records(tmp_path))[-2:] == ["settings", "feed"]
    assert records(tmp_path)[-1]["feed"]["state"] == "down"


def test_watches_are_in_force_again_after_a_restart(tmp_path: Path) -> None:
    """What is watched outlives the process and every segment, until the conversation has ended."""
    journal = journal_in(tmp_path)
    journal.watch(WATCH)
    journal.watch({**WATCH, "conversation_id": "c2"})
    journal.close()
    for _ in range(3):
        journal = journal_in(tmp_path)
        assert journal.is_watching("c1")
        assert journal.is_watching("c2")
        journal.close()
    journal = journal_in(tmp_path)
    journal.frame(frame("c2", "conversation.ended"))
    journal.close()
    journal = journal_in(tmp_path)
    assert [journal.is_watching(one) for one in ("c1", "c2", "absent")] == [True, False, False]
    journal.close()


# Failures


def test_a_full_disk_is_an_error_and_no_silent_loss(tmp_path: Path) -> None:
    """When the disk takes no more, the call says so, and so do all calls after it; what was written stays readable."""
    script = """
import resource, sys
from pathlib import Path
from connectors.errors import StateError
from connectors.journal.writer import Journal
from connectors.format.decode import parse_messages

journal = Journal(Path(sys.argv[1]), settings={})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
written = 0
try:
    while True:
        journal.frame(b'{"event":"e","entity":{"id":"c"},"timestamp":%d}' % written)
        journal.flush()
        written += 1
except StateError as error:
    print(written, error)
failed = 0
for call in (lambda: journal.frame(b'{"event":"e","entity":{"id":"c"},"timestamp":1}'), journal.tick, journal.close,
             lambda: journal.watch({"conversation_id": "c"})):
    try:
        call()
        journal.flush()
    except StateError:
        failed += 1
print(failed)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.returncode == 0, done.stderr
    first, failed = done.stdout.splitlines()
    written, message = first.split(" ", 1)
    assert message.startswith(f"writing the journal in {tmp_path} failed: File too large; ")
    assert failed == "4"
    journal = journal_in(tmp_path)
    journal.close()
    assert [record["frame"]["timestamp"] for record in records(tmp_path) if "frame" in record] == list(
        range(int(written))
    )


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file where the directory should be is an error with its path and a remedy."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateError, match=r"file/journal failed: .*; a part of the path is a file"):
        journal_in(tmp_path / "file" / "journal")


def test_closing_twice_and_syncing_afterwards_do_no_harm(tmp_path: Path) -> None:
    """A journal that is closed has everything on the disk already."""
    journal = journal_in(tmp_path)
    journal.frame(frame())
    journal.close()
    journal.close()
    journal.sync()
    assert kinds(records(tmp_path)) == ["settings", "frame"]


# Reading


def read_all(tail: JournalTail, size: int) -> Iterator[tuple[Position, bytes]]:
    while (found := tail.read(size))[1]:
        yield found


def test_a_reader_gets_every_line_once_while_it_is_written(tmp_path: Path) -> None:
    """Behind a writer that rotates many times, the reader sees each line once, complete and in order."""
    journal = journal_in(tmp_path, max_segment_bytes=3000)
    total = 3000

    def write() -> None:
        for number in range(total):
            journal.frame(frame(number=number))
            if number % 7 == 0:
                journal.flush()
        journal.close()

    tail = JournalTail(tmp_path, None)
    writer = threading.Thread(target=write)
    writer.start()
    seen: list[int] = []
    at: dict[str, tuple[int, int]] = {}
    while True:
        over = not writer.is_alive()
        for position, data in read_all(tail, 1000):
            assert data.endswith(b"\n")
            assert at.get(position.segment, (0, 0)) == (position.offset, position.lines)
            at[position.segment] = (position.offset + len(data), position.lines + data.count(b"\n"))
            seen += [r["frame"]["number"] for r in map(orjson.loads, data.splitlines()) if "frame" in r]
        if over:
            break
    tail.close()
    assert seen == list(range(total))
    assert at == {p.name: (p.stat().st_size, p.read_bytes().count(b"\n")) for p in segments(tmp_path)}
    assert len(at) > 20


def test_a_reader_goes_on_from_any_position(tmp_path: Path) -> None:
    """From wherever a reader stopped, another one reads exactly the rest."""
    journal = journal_in(tmp_path, max_segment_bytes=600)
    for number in range(20):
        journal.frame(frame(number=number))
        journal.flush()
    journal.close()
    whole = b"".join(path.read_bytes() for path in segments(tmp_path))
    tail = JournalTail(tmp_path, None)
    before = b""
    while True:
        rest = JournalTail(tmp_path, tail.position)
        assert before + b"".join(data for _, data in read_all(rest, 10**6)) == whole
        rest.close()
        _, data = tail.read(100)
        if not data:
            break
        before += data
    tail.close()


def test_a_line_longer_than_a_read_is_read(tmp_path: Path) -> None:
    """A line is complete however long it is, and a line that is not yet complete is not there yet."""
    journal = journal_in(tmp_path)
    journal.frame(frame(padding="x" * 300_000))
    journal.close()
    [segment] = segments(tmp_path)
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-1])
    tail = JournalTail(tmp_path, None)
    assert b"".join(data for _, data in read_all(tail, 64)) == whole[: whole.index(b"\n") + 1]
    segment.write_bytes(whole)
    assert b"".join(data for _, data in read_all(tail, 64)) == whole[whole.index(b"\n") + 1 :]
    tail.close()


@pytest.mark.parametrize("damage", ["gone", "shorter"])
def test_a_place_that_is_gone_is_an_error(tmp_path: Path, damage: str) -> None:
    """Where the recovery state goes on from a segment that is missing or was cut, it says so and what to do."""
    journal = journal_in(tmp_path)
    journal.frame(frame())
    journal.close()
    tail = JournalTail(tmp_path, None)
    tail.read(10**6)
    tail.close()
    [segment] = segments(tmp_path)
    if damage == "gone":
        segment.rename(tmp_path / "elsewhere")
    else:
        os.truncate(segment, 10)
    with pytest.raises(StateError, match=rf"{segment} is {damage}.* (?s:.)*recovery directory away"):
        JournalTail(tmp_path, tail.position)


# Any message

MESSAGES = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ).map(lambda value: {"event": "conversation.updated", "entity": {"id": "c"}, "timestamp": 1.5, "more": value}),
    st.fixed_dictionaries(
        {
            "event": st.sampled_from(["conversation.ended", "x", None, 7]),
            "entity": st.sampled_from([{"id": "c"}, {"id": ""}, {"id": 7}, {}, None, [], {"id": "\u2028\x7f"}]),
            "timestamp": st.one_of(st.floats(), st.integers(), st.sampled_from(["1", None, True, 1e10, -1e10])),
        },
        optional={"metrics": st.sampled_from([None, {}, [], {"packetLoss": 1}, {"packetLoss": 1.1}, {"jitter": "x"}])},
    ),
)


def sent(value: Any, layout: int) -> str | bytes:
    if isinstance(value, bytes | str):
        return value
    return json.dumps(value, ensure_ascii=layout & 1 == 0, indent=[None, 1][layout >> 1 & 1])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(MESSAGES, st.integers(0, 3)), max_size=6))
def test_whatever_arrives_is_one_line_that_replays(messages: list[tuple[Any, int]]) -> None:
    """Every message becomes one line of valid JSON that the dataflow reads as a frame or as `invalid`."""
    with tempfile.TemporaryDirectory() as directory:
        journal = journal_in(Path(directory))
        for value, layout in messages:
            message = sent(value, layout)
            journal.frame(message)
        journal.close()
        [segment] = segments(Path(directory))
        written = segment.read_bytes().splitlines()[1:]
        assert len(written) == len(messages)
        decoded = decode_block(segment.read_bytes())
        found = [orjson.loads(line) for line in written]
    assert set(kinds(found)) <= {"frame", "invalid"}
    assert not decoded.rejected
    assert len(decoded.arrival) == kinds(found).count("frame")
    assert [control.kind for control in decoded.controls][1:] == ["invalid"] * kinds(found).count("invalid")


PLAIN = st.builds(
    lambda event, n: frame("c", f"conversation.{event}", note="é" * n),
    st.sampled_from(["updated", "updated", "started", "ended"]),
    st.integers(0, 2),
)
BATCHES = st.lists(
    st.tuples(
        st.sampled_from([1000.0, 1000.5, 999.0]),
        st.lists(st.one_of(PLAIN, st.tuples(MESSAGES, st.integers(0, 3)).map(lambda one: sent(*one))), max_size=8),
    ),
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(BATCHES, st.sampled_from([None, 'a "feed"']))
def test_messages_that_came_together_are_recorded_as_one_by_one(
    batches: list[tuple[float, list[str | bytes]]], via: str | None
) -> None:
    """Frames, invalid messages and ends in one go: the same lines, and the same watches in force."""
    written = []
    for together in (True, False):
        with tempfile.TemporaryDirectory() as directory:
            clock = [1000.0]
            journal = journal_in(Path(directory), lambda: clock[0])  # noqa: B023 - not used after the loop
            journal.watch(WATCH | {"conversation_id": "c"})
            recorder = journal if via is None else journal.recorder(via)
            watching = []
            for clock[0], received in batches:
                if together:
                    encoded = [m if isinstance(m, bytes) else m.encode("utf-8", "surrogatepass") for m in received]
                    recorder.frames(encoded)
                else:
                    for message in received:
                        recorder.frame(message)
                watching.append(journal.is_watching("c"))
            journal.close()
            [segment] = segments(Path(directory))
            written.append((segment.read_bytes(), watching))
    assert written[0] == written[1]


BODY = {"conversationId": "c", "eventTime": 1765551750107, "mediaType": "VOICE", "sessionId": "s"}
TOPIC = "v2.detail.events.conversation.c."


@pytest.mark.parametrize(
    "message",
    [
        {"topicName": TOPIC + "user.start", "eventBody": BODY},
        {"topicName": TOPIC + "customer.end", "eventBody": BODY},
        {"topicName": TOPIC + "customer.end", "eventBody": BODY, "enrich": True},
        {"topicName": TOPIC + "user.end", "eventBody": BODY, "over": True},
        {"topicName": TOPIC + "customer.end", "eventBody": BODY | {"mediaType": "EMAIL"}},
        {"conversationId": "c", "mediaEndpointStats": None, "ended": True},
        {"conversationId": "c", "mediaStatistics": []},
        {"topicName": "channel.metadata", "eventBody": {"message": "WebSocket Heartbeat"}},
        {"topicName": "v2.operations.events", "eventBody": None},
    ],
    ids=lambda message: message.get("topicName", "media").rpartition(".")[2],
)
@pytest.mark.parametrize(("via", "at"), [(None, None), ("support", None), ("support", 1001.0)])
def test_a_parsed_notification_is_recorded_like_one_that_is_not(
    tmp_path: Path, message: dict[str, Any], via: str | None, at: float | None
) -> None:
    """The same line, the same watches in force and the same counts, without a second parse."""
    written = []
    for is_parsed in (True, False):
        directory = tmp_path / str(is_parsed)
        journal = journal_in(directory, lambda: 1000.0)
        journal.watch(WATCH | {"conversation_id": "c"})
        recorder = journal if via is None else journal.recorder(via)
        text = orjson.dumps(message)
        if is_parsed:
            recorder.event(text, read_notification(message), at=at)
        else:
            recorder.frame(text, at=at)
        journal.close()
        [segment] = segments(directory)
        written.append((segment.read_bytes(), journal.is_watching("c"), dict(journal.messages)))
    assert written[0] == written[1]


def test_a_message_that_came_with_an_invalid_one_keeps_its_time(tmp_path: Path) -> None:
    """What arrived together has one time in the journal, whatever it is, though the clock went on meanwhile."""
    clock = itertools.count(1000.0, 0.25)
    journal = journal_in(tmp_path, lambda: next(clock))
    journal.frames([frame(), b"{", frame(), b"\xff", frame()])
    journal.close()
    found = records(tmp_path)[1:]
    assert kinds(found) == ["frame", "invalid", "frame", "invalid", "frame"]
    assert len({record["received_at"] for record in found}) == 1


def test_whoever_reads_along_is_woken_by_a_write(tmp_path: Path) -> None:
    """Waiting ends with the write it waits for, at once if that has been, and after its time if there is none."""
    journal = journal_in(tmp_path)
    seen = journal.writes
    journal.wait_for_write(seen, 0.001)
    assert journal.writes == seen
    journal.frame(frame())
    assert journal.writes == seen
    woken = threading.Thread(target=journal.wait_for_write, args=[seen, 10 * DEADLINE_S])
    woken.start()
    journal.flush()
    woken.join(DEADLINE_S)
    assert not woken.is_alive()
    assert journal.writes == seen + 1
    journal.wait_for_write(seen, 10 * DEADLINE_S)
    journal.close()


@pytest.mark.parametrize("depth", [5, 1000, 1022, 1023, 1024, 100_000])
def test_a_deeply_nested_message_is_a_frame_only_if_its_line_can_be_read(tmp_path: Path, depth: int) -> None:
    """What the journal calls a frame is one to the dataflow too, though it is a level deeper in its line."""
    journal = journal_in(tmp_path)
    journal.frame(frame()[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}")
    journal.close()
    decoded = decode_block(segments(tmp_path)[0].read_bytes())
    assert not decoded.rejected
    assert len(decoded.arrival) + len(decoded.controls) == 2


def test_a_frame_with_an_unread_number_beyond_floats_ends_its_watch_for_good(tmp_path: Path) -> None:
    """What ended a conversation when it was received ends it when the journal is opened again."""
    journal = journal_in(tmp_path)
    journal.watch({"conversation_id": "c"})
    journal.frame(b'{"event":"conversation.ended","entity":{"id":"c"},"timestamp":1,"x":1e999}')
    assert not journal.is_watching("c")
    journal.close()
    assert not journal_in(tmp_path).is_watching("c")


def test_an_absurd_time_in_an_edited_segment_is_not_taken_over(tmp_path: Path) -> None:
    """A line beyond the times that a record may have does not set the clock of the journal."""
    journal_in(tmp_path).close()
    with segments(tmp_path)[-1].open("ab") as segment:
        segment.write(b'{"received_at":1e300,"tick":true}\n')
    journal_in(tmp_path).close()
    assert all(json.loads(line)["received_at"] < 1e10 for line in segments(tmp_path)[-1].read_bytes().splitlines())


def test_messages_are_counted_as_the_decoder_counts_them(tmp_path: Path) -> None:
    """Each once, by the feed that sent it: also a frame with a nested key `frame` or `invalid`, or a nested `via`."""
    journal = journal_in(tmp_path)
    nested = frame("c", "conversation.updated", note={"via": "other", "frame": {"invalid": 1}})
    journal.frames([nested, b"{", nested], via="hook")
    journal.frame(nested)
    journal.invalid("x", "binary message", via="hook")
    journal.close()
    assert journal.messages == {("hook", "frame"): 2, ("hook", "invalid"): 2, (None, "frame"): 1, (None, "invalid"): 0}
    decoded = decode_block(b"".join(segment.read_bytes() for segment in segments(tmp_path)))
    assert len(decoded.arrival) == 3
    assert [control.kind for control in decoded.controls].count("invalid") == 2
