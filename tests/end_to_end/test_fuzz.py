"""Hostile input: whatever is in a file, a header or a message, the answer is a value or one of the documented errors.

That the fast frame decoder agrees with the definition is in test_frames.py, that anything received is a line that
replays in test_journal.py, and that any tables give settings or mistakes in test_settings.py.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import tempfile
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import orjson
import pytest
from backports import zstd
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectors.callbacks.outbox import Outbox
from connectors.callbacks.secrets import parse_secrets
from connectors.callbacks.signing import sign
from connectors.errors import ConfigurationError, RecordingError, StateError, UsageError
from connectors.format.decode import decode_block
from connectors.format.records import Control, InvalidFrameError, parse_line
from connectors.genesys.simulator.faults import load_faults
from connectors.journal.recording import Recording
from connectors.journal.segments import JournalTail, Position, segments
from connectors.journal.writer import Journal
from connectors.retry import retry_after_s
from connectors.state import audit
from connectors.state.audit import AuditLog, verify
from connectors.state.interceptors import InterceptorRegistry
from flows.commands.output import print_audit
from flows.settings.loading import load_settings
from flows.settings.models import Settings
from tests.connectors.format.test_decode import jsonish, mutations
from tests.soak.calls import HOSTILE

some = settings(deadline=None, max_examples=150)
few = settings(deadline=None, max_examples=60)

# Bytes as they get into files: any, lines that are nearly right, or right ones with a piece changed.
nearly_lines = st.lists(jsonish | mutations, max_size=8).map(b"\n".join)
lines_or_junk = st.builds(
    lambda data, end: data + end, st.binary(max_size=200) | nearly_lines, st.sampled_from([b"", b"\n", b"\r\n", b"\0"])
)


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="voicewatch-fuzz-") as name:
        yield Path(name)


def packed(data: bytes, how: str) -> bytes:
    if how == "gzip":
        return gzip.compress(data)
    return zstd.compress(data) if how == "zstd" else data


def changed(data: bytes, at: float, gone: int, new: bytes) -> bytes:
    begin = round(at * len(data))
    return data[:begin] + new + data[begin + gone :]


files = st.builds(
    changed,
    st.builds(packed, lines_or_junk, st.sampled_from(["plain", "gzip", "zstd"])),
    st.floats(0, 1),
    st.integers(0, 9),
    st.sampled_from([b"", b"\0", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xff" * 9]),
)


# The journal


@some
@given(st.lists(files, min_size=1, max_size=3), st.integers(1, 100))
def test_any_files_are_a_recording_or_one_error(contents: list[bytes], size: int) -> None:
    """Files are read as lines that the flow can decode, or are refused as a recording."""
    with directory() as place:
        paths = [place / f"{number}.jsonl" for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        with contextlib.suppress(RecordingError):
            recording = Recording(paths)
            for index in range(len(recording.paths)):  # an empty file beside others is left out
                for chunk in recording.chunks(index, 0, size):
                    decode_block(chunk)


@some
@given(lines_or_junk, st.integers(1, 64))
def test_the_tail_of_any_bytes_is_their_complete_lines(data: bytes, size: int) -> None:
    """A reader of a journal gets complete lines, all of them, from whatever is in the segment."""
    with directory() as place:
        (place / "00000001.jsonl").write_bytes(data)
        tail = JournalTail(place, None)
        read = b""
        while (found := tail.read(size))[1]:
            assert found[1].endswith(b"\n")
            read += found[1]
        tail.close()
    assert read == data[: data.rfind(b"\n") + 1]
    assert tail.position == Position("00000001.jsonl", len(read), read.count(b"\n"))


@some
@given(st.lists(lines_or_junk, min_size=1, max_size=2))
def test_a_journal_goes_on_after_any_segments(contents: list[bytes]) -> None:
    """Whatever the last run has left in its segments, a new one begins, and its own lines are records."""
    with directory() as place:
        for number, content in enumerate(contents, 1):
            (place / f"{number:08d}.jsonl").write_bytes(content)
        journal = Journal(place, settings=Settings().flow_record())
        journal.frame(b'{"event":"conversation.ended","entity":{"id":"c"},"timestamp":1}')
        journal.tick()
        journal.close()
        written = [line for path in segments(place)[len(contents) :] for line in path.read_bytes().splitlines()]
    kinds = [set(orjson.loads(line)) - {"received_at", "reason"} for line in written]
    assert kinds[0] == {"settings"}
    assert kinds[-2:] == [{"frame"}, {"tick"}]


@some
@given(mutations | st.binary(max_size=40))
@example(b'{"event":"e","entity":{"id":"c"},"timestamp":1,"x":"\xed\xa0\x80"}')
@example(b'{"event":"e","entity":{"id":"c"},"timestamp":1,"x":1e999}')
def test_what_a_feed_hears_is_a_line_of_json(message: bytes) -> None:
    """A message becomes one line of JSON that the flow takes as a frame, or as invalid with the reason."""
    with directory() as place:
        journal = Journal(place, settings=Settings().flow_record())
        journal.frame(message)
        journal.close()
        data = segments(place)[0].read_bytes()
    lines = data.splitlines()
    assert len(lines) == data.count(b"\n") == 2
    assert set(json.loads(lines[1])) - {"reason"} in ({"received_at", "frame"}, {"received_at", "invalid"})
    assert not decode_block(data).rejected


# Frames


@some
@given(lines_or_junk)
def test_every_line_of_any_block_is_accounted_for(data: bytes) -> None:
    """Rows, controls, rejected lines and a torn last one are all the lines there are."""
    decoded = decode_block(data)
    rows = len(decoded.arrival) + len(decoded.controls) + len(decoded.rejected) + decoded.torn
    assert rows == data.count(b"\n") + (not data.endswith(b"\n") and data != b"")


@some
@given(st.text() | st.sampled_from(["", "\0", "\u2028", "\ud800", "\udfff", "\ud83d\ude00", "é" * 5000]), st.booleans())
def test_an_id_is_any_text(id_: str, escaped: bool) -> None:
    """An id comes out as orjson reads it, however it is written; half a surrogate pair makes no frame."""
    frame = {"event": "x", "entity": {"id": id_}, "timestamp": 1.0}
    line = json.dumps({"received_at": 1.0, "frame": frame}, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    try:
        expected = [orjson.loads(line)["frame"]["entity"]["id"]]
    except orjson.JSONDecodeError:
        expected = []
    decoded = decode_block(line + b"\n")
    assert decoded.ids.texts() == expected
    assert len(decoded.rejected) == 1 - len(expected)


@pytest.mark.parametrize("message", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_messages_are_read_alike(message: str | bytes) -> None:
    """Deep, huge, repeated and forged: each line is what the definition says, in the fast loop as well."""
    data = message.encode() if isinstance(message, str) else message
    for line in (data.replace(b"\n", b" "), b'{"received_at":1,"frame":%b}' % data.replace(b"\n", b" ")):
        decoded = decode_block(line + b"\n")
        try:
            record = parse_line(line)
        except InvalidFrameError:
            assert len(decoded.rejected) == 1
        else:
            assert len(decoded.controls) == isinstance(record, Control)
            assert len(decoded.arrival) == (not isinstance(record, Control))


TEN_MB = 10 * 2**20


@pytest.mark.parametrize(
    "line",
    [
        b"x" * TEN_MB,
        b"[" * TEN_MB,
        b'{"a":' * (TEN_MB // 5),
        b"9" * TEN_MB,
        b"\0" * TEN_MB,
        b'{"received_at":1,"frame":{"event":"x","entity":{"id":"%b"},"timestamp":1}}' % (b"i" * TEN_MB),
        b'{"received_at":1,"frame":{"event":"x","entity":{"id":"c"},"timestamp":1,"x":[%b1]}}'
        % (b"1," * (TEN_MB // 2)),
        b'{"received_at":1,"invalid":"%b"}' % (b"\\u0000" * (TEN_MB // 6)),
    ],
    ids=["text", "arrays", "objects", "digits", "nul", "id", "list", "invalid"],
)
def test_a_line_of_ten_megabytes_takes_bounded_memory(line: bytes) -> None:
    """A huge line costs a small multiple of its size while it is decoded, and what is kept of a bad one is short."""
    data = line + b"\n"
    tracemalloc.start()
    try:
        decoded = decode_block(data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(decoded.arrival) + len(decoded.controls) + len(decoded.rejected) == 1
    assert all(len(rejected.text or "") <= 4096 and len(rejected.reason) < 4096 for rejected in decoded.rejected)
    assert most < 20 * len(data)  # orjson's tree alone takes 12 times the text


# Files of settings and state

TOML = b"""
[genesys]
base_url = "http://127.0.0.1:1"
max_concurrent = 5
[alerts]
policy = "frame"
[[interceptor]]
conversation_id = "c"
leg_id = 'l'
interceptor_address = "sip:x"
qa_callback_url = "https://qa.example.com/"
channel_matrix = ["mono"]
"""
FAULTS = (
    b'[[fault]]\nafter_frames = 2\ndo = "stall"\nseconds = 1.5\n[[fault]]\non = "create"\nstatus = 429\ntimes = 2\n'
)
PIECES = [
    *b'[ ] [[ ]] = . , " \'\'\' """ { } inf nan -0 1e400 1_0 0x 1979-05-27T07:32:00Z true \\u0000 \\ud800'.split(),
    *(b"\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"9" * 5000, b"[" * 2000, b"a." * 2000, b"x = [" + b"[" * 1000),
]


def tomls(valid: bytes) -> st.SearchStrategy[bytes]:
    change = st.tuples(st.floats(0, 1), st.sampled_from([0, 1, 5]), st.sampled_from(PIECES))
    return st.binary(max_size=60) | st.lists(change, max_size=3).map(partial(_edited, valid))


def _edited(data: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for change in changes:
        data = changed(data, *change)
    return data


@some
@given(tomls(TOML))
def test_any_configuration_file_is_settings_or_mistakes(data: bytes) -> None:
    """Whatever bytes a configuration file holds, the only error is one that lists its mistakes."""
    with directory() as place:
        path = place / "voicewatch.toml"
        path.write_bytes(data)
        with contextlib.suppress(ConfigurationError):
            load_settings(path, {})


@some
@given(tomls(FAULTS))
def test_any_faults_file_is_faults_or_mistakes(data: bytes) -> None:
    """Whatever bytes a faults file holds, the only error is one that lists its mistakes."""
    with directory() as place:
        path = place / "faults.toml"
        path.write_bytes(data)
        with contextlib.suppress(ConfigurationError):
            load_faults(path)


def audit_log(path: Path, lines: int) -> None:
    log = AuditLog(path, lambda: 1.0)
    for number in range(lines):
        log.append("TESTED", conversation=None, outcome="ok", number=number)
    log.close()


HEADS = st.binary(max_size=40) | st.sampled_from(
    [
        b'{"bytes":Infinity,"sha256":""}',
        b'{"bytes":-1,"sha256":7}',
        b'{"bytes":NaN,"sha256":""}',
        b"[" * 100_000,
        b"null",
    ]
)
DAMAGE = st.tuples(
    st.floats(0, 1),
    st.integers(0, 200),
    st.binary(max_size=20) | st.sampled_from([b'{"prev":7}\n', b'\n{"prev":"","time":"x","action":[]}\n']),
)


@few
@given(DAMAGE, st.none() | HEADS, st.booleans())
@example((0.0, 10_000, b'{"prev":7}\n'), None, True)
@example((0.0, 0, b""), b"[" * 100_000, True)
def test_any_audit_log_has_a_verdict(damage: tuple[float, int, bytes], head: bytes | None, more: bool) -> None:
    """A log of any bytes is judged, shown if it has a line left, and gone on with; what was changed in it is found."""
    with directory() as place:
        path = place / "audit.jsonl"
        audit_log(path, 3)
        before = path.read_bytes()
        path.write_bytes(after := changed(before, *damage))
        if head is not None:
            path.with_name("audit.jsonl.head").write_bytes(head)
        if head is None:
            assert verify(path).ok == (before == after)
        records = list(audit.read(path))
        assert len(records) <= after.count(b"\n") + 1
        with contextlib.nullcontext() if records or not after else pytest.raises(UsageError):
            print_audit(path)
        if more:
            audit_log(path, 1)
            assert b'"TESTED"' in path.read_bytes().splitlines()[-1]
        verify(path)


@few
@given(st.binary(max_size=200) | st.sampled_from([b"null", b'{"version":1,"interceptors":{"c":7}}']))
@example(b"[" * 100_000)
def test_any_state_file_is_used_or_refused(data: bytes) -> None:
    """A registry or an outbox that is something else is a StateError, and stays as it is."""
    with directory() as place:
        registry, outbox = place / "interceptors.json", place / "outbox.sqlite3"
        registry.write_bytes(data)
        outbox.write_bytes(data)
        with contextlib.suppress(StateError):
            InterceptorRegistry(registry)
        assert registry.read_bytes() == data
        with contextlib.suppress(StateError):
            Outbox(outbox).close()


# Texts of others

SECRET_TEXTS = st.lists(
    st.text(max_size=30)
    | st.binary(min_size=20, max_size=70).map(lambda key: "whsec_" + _base64(key))
    | st.text("ABCab+/=_- \t\n", max_size=90).map("whsec_".__add__),
    max_size=3,
).map(",".join)


def _base64(key: bytes) -> str:
    return base64.b64encode(key).decode().rstrip("=")


@some
@given(SECRET_TEXTS)
def test_any_secrets_sign_or_are_mistakes_that_tell_nothing(text: str) -> None:
    """Secrets that are accepted can sign; of those that are not, no error shows anything."""
    try:
        secrets = parse_secrets(text)
    except ConfigurationError as error:
        told = str(error)
        assert not any(len(part) > 12 and part.strip() in told for part in text.split(","))
    else:
        assert len(sign("id", 1_700_000_000, b"{}", secrets).get("webhook-signature", "").split()) == len(secrets)


RETRY_AFTER = (
    st.text(max_size=40)
    | st.integers().map(str)
    | st.floats().map(str)
    | st.builds(
        "{}, {} {} {} {}:00:{} {}".format,
        st.sampled_from(["Mon", "Sun", "", "X"]),
        st.integers(-1, 40),
        st.sampled_from(["Jan", "Dec", "13", ""]),
        st.integers(-1, 99_999),
        st.integers(-1, 30),
        st.integers(-1, 70),
        st.sampled_from(["GMT", "+9999", "-0000", "-2359", "", "Z", "+99999999"]),
    )
)


@settings(deadline=None, max_examples=500)
@given(RETRY_AFTER, st.floats(0, 4e9))
def test_any_retry_after_is_a_wait_within_the_cap_or_none(text: str, now: float) -> None:
    """However a server writes Retry-After, the wait is between nothing and the cap, or there is none."""
    wait_s = retry_after_s({"retry-after": text}, now, cap_s=60.0)
    assert wait_s is None or 0 <= wait_s <= 60
