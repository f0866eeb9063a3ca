"""`voicewatch inspect`, `replay -`, directories, `--input` and `--format`."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from backports import zstd

from connectors.errors import RecordingError, UsageError
from flows.commands.inputs import readable_files
from flows.commands.inspect import inspect
from tests.support.cli import ROOT, command, environ, several, voicewatch

RECORDING = ROOT / "tests/data/three-minutes.jsonl"
CASES = ROOT / "tests/data/cases"
SHAPE = "conversation=call_id,timestamp=sent_at:ms,latency=rtt,loss=lost:percent"


def piped(data: bytes, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    """Run a command with something on its standard input."""
    return subprocess.run(command(*arguments), input=data, env=environ({}), capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a replay of the shipped recording."""
    out = tmp_path_factory.mktemp("results") / "out"
    assert voicewatch("replay", RECORDING, "--out", out).returncode == 0
    return out


@pytest.mark.parametrize("pack", [bytes, zstd.compress])
def test_standard_input(results: Path, tmp_path: Path, pack: Any) -> None:
    """What comes through a pipe, packed or not, gives the same results; no copy of it is left."""
    out = tmp_path / "out"
    done = piped(pack(RECORDING.read_bytes()), "replay", "-", "--out", out)
    assert done.returncode == 0, done.stderr
    for name in ("windows.jsonl", "alerts.jsonl", "groups.jsonl"):
        assert (out / name).read_bytes() == (results / name).read_bytes()
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in results.iterdir())


def test_limits_of_standard_input(tmp_path: Path) -> None:
    """Nothing at all, and more than the limit, are refused, and the copy is removed."""
    with (
        pytest.raises(RecordingError, match="standard input is empty"),
        readable_files([Path("-")], tmp_path, stdin=io.BytesIO()),
    ):
        pass
    with (
        pytest.raises(UsageError, match="longer than 10 bytes"),
        readable_files([Path("-")], tmp_path, stdin=io.BytesIO(b"x" * 11), max_stdin_bytes=10),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_directories(tmp_path: Path) -> None:
    """A state directory stands for its journal, a directory for its files, sorted; hidden ones are left out."""
    journal = tmp_path / "state" / "journal"
    journal.mkdir(parents=True)
    (tmp_path / "state" / "windows.jsonl").write_bytes(b"{}\n")
    shutil.copy(RECORDING, journal / "00000001.jsonl")
    (journal / "00000002.jsonl").touch()
    (journal / "00000003.jsonl.new").touch()
    for path in (tmp_path / "state", journal):
        with readable_files([path], tmp_path) as files:
            assert files == [journal / "00000001.jsonl"]
    other = tmp_path / "other"
    other.mkdir()
    for name in ("b", "a", ".hidden"):
        (other / name).touch()
    with readable_files([other, RECORDING], tmp_path) as files:
        assert files == [other / "a", other / "b", RECORDING]


def test_parquet(results: Path, tmp_path: Path) -> None:
    """`--format parquet` writes what an export of the lines holds, and no lines; the next replay removes it."""
    parquet, exported = tmp_path / "parquet", tmp_path / "exported"
    done = several(
        [
            ["replay", RECORDING, "--out", parquet, "--format", "parquet"],
            ["export", results, "--out", exported, "--format", "parquet"],
        ]
    )
    assert [each.returncode for each in done] == [0, 0], done
    for kind in ("windows", "alerts", "groups"):
        assert pq.read_table(parquet / f"{kind}.parquet").equals(pq.read_table(exported / f"{kind}.parquet"))
        assert not (parquet / f"{kind}.jsonl").exists()
    assert pq.read_schema(parquet / "windows.parquet").field("end").type.tz == "UTC"
    assert voicewatch("replay", RECORDING, "--out", parquet).returncode == 0
    assert not list(parquet.glob("*.parquet"))


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        (
            "09-transcription.jsonl",
            {"notification (bare)": 3, "EventBridge event (in rawEvent)": 1, "EventBridge event (in Body)": 1},
        ),
        ("11b-details-export.jsonl", {"media record (bare)": 3}),
    ],
)
def test_captures_are_recognised(name: str, kinds: dict[str, int]) -> None:
    """Wrapped messages and exports of analytics are named, with a command that replays them."""
    found = inspect([CASES / name], shape=None, input_map=None, gap_s=60)
    assert found.kinds == kinds
    assert found.rejected == {}
    assert found.command == f"voicewatch replay {CASES / name} --out replayed"


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(("key", "body"), [("Messages", "Body"), ("Records", "body")])
def test_what_tools_of_aws_print_of_a_queue_is_recognised(
    tmp_path: Path, key: str, body: str, indent: int | None
) -> None:
    """The output of `aws sqs receive-message` and the event of a Lambda function are lists of messages."""
    detail = {"conversationId": "c9", "eventTime": 1_767_225_600_000}
    topic = "v2.detail.events.conversation.c9.user.start"
    event = {"id": "e1", "detail-type": topic, "detail": {"topicName": topic, "eventBody": detail}}
    messages = [{"MessageId": "m", body: json.dumps({**event, "id": f"e{number}"})} for number in range(3)]
    path = tmp_path / "queue.json"
    path.write_text(json.dumps({key: messages}, indent=indent))
    found = inspect([path], shape=None, input_map=None, gap_s=60)
    assert found.kinds == {f"EventBridge event (in {body})": 3}
    assert (found.rejected, found.conversations) == ({}, 1)


def test_gaps(tmp_path: Path) -> None:
    """A silence of at least the given length is a gap; a step of the clock is not."""
    ticks = "".join(f'{{"received_at":{at},"tick":true}}\n' for at in (0, 1, 31, 32))
    clock = '{"received_at":500,"clock":{"step_s":468,"reason":"set"}}\n{"received_at":500.5,"tick":true}\n'
    path = tmp_path / "journal.jsonl"
    path.write_text(ticks + clock)
    found = inspect([path], shape=None, input_map=None, gap_s=30)
    assert [(gap.begin, gap.end) for gap in found.gaps] == [(1, 31)]
    assert (found.begin, found.end, found.lines) == (0, 500.5, 6)


def test_a_recording_without_limits_needs_a_configuration() -> None:
    """A capture is replayed with limits from a file, and the text says so; a journal has its own."""
    capture, journal = several(
        [["inspect", CASES / "09-transcription.jsonl"], ["inspect", ROOT / "tests/data/three-minutes.jsonl"]]
    )
    assert 'it names no limits: add --config CONFIG with [alerts] unwatched = "default"' in capture.stdout
    assert "it names no limits" not in journal.stdout


def test_the_command_it_prints_works(tmp_path: Path) -> None:
    """CSV is not a recording; the mapping that is guessed for it, and one that is given, can be replayed."""
    calls = ROOT / "tests/data/calls.csv"
    plain, mapped = several([["inspect", calls, "--json"], ["inspect", calls, "--json", "--input", SHAPE]])
    assert (plain.returncode, mapped.returncode) == (1, 0)
    assert "it looks like CSV" in json.loads(plain.stdout)["description"]
    found = json.loads(mapped.stdout)
    assert (found["records"], found["conversations"], len(found["preview"])) == (4, 2, 3)
    config = tmp_path / "all.toml"
    config.write_text('[alerts]\nunwatched = "default"\n')
    arguments = shlex.split(found["command"])[1:]
    arguments[arguments.index("replayed")] = str(tmp_path / "out")
    assert voicewatch(*arguments, "--config", config).returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "windows.jsonl").read_bytes().splitlines()]
    assert max(row["latency_ms"]["max"] for row in rows) == 300
    assert max(row["packet_loss"]["max"] for row in rows) == 0.025
    assert sum(row["frames"] for row in rows) == 8  # in two windows each


def test_other_shapes_with_bad_lines(tmp_path: Path) -> None:
    """Lines that are not objects, and objects without the fields, are rejected one by one."""
    path = tmp_path / "shape.jsonl"
    path.write_text('{"c":"1","t":1}\n[]\nnonsense\n{"c":"2"}\n{"c":"3","t":2}\n')
    done = voicewatch("inspect", path, "--json", "--input", "conversation=c,timestamp=t")
    found = json.loads(done.stdout)
    assert (found["records"], sum(found["rejected"].values())) == (2, 3)
    wrong = voicewatch("inspect", path, "--input", "conversation=c")
    assert (wrong.returncode, "timestamp is missing" in wrong.stderr) == (2, True)


def test_long_and_deep_values_are_one_line_or_rejected(tmp_path: Path) -> None:
    """A field of CSV of any length, and an item of any depth, end neither command with a traceback."""
    mapped = ("--input", SHAPE)
    long = tmp_path / "long.csv"
    long.write_text(f"call_id,sent_at,rtt,lost,note\nc1,1700000000000,20,1,{'x' * 300_000}\n")
    deep = tmp_path / "deep.json"
    deep.write_text(f'[{{"call_id": {"[" * 600}{"]" * 600}, "sent_at": 1}}]')
    header = tmp_path / "header.csv"
    header.write_text(f"{'y' * 300_000},b\n1,2\n")
    done = several(
        [
            ["inspect", long, *mapped],
            ["replay", long, "--out", tmp_path / "long", *mapped],
            ["inspect", deep],
            ["replay", deep, "--out", tmp_path / "deep", *mapped],
            ["replay", header, "--out", tmp_path / "header", *mapped],
        ]
    )
    assert [each.returncode for each in done] == [0, 0, 1, 2, 1]
    assert "1 line(s), 1 conversation(s)" in done[0].stdout
    assert done[3].stderr == f"voicewatch: {deep}: there is neither a JSON object nor a row of CSV in it\n"
    assert done[4].stderr.startswith(f"voicewatch: {header}: --input maps no line to a frame; rejected.jsonl in ")
    assert len(done[4].stderr.splitlines()) == 1


def test_inspect_reads_a_pipe() -> None:
    """`-` is named as such, and the command says so, too."""
    done = piped(RECORDING.read_bytes(), "inspect", "-", "--json")
    found = json.loads(done.stdout)
    assert (found["files"], found["command"]) == (["-"], "voicewatch replay - --out replayed")
