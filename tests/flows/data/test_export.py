"""Export: the results of a span of time, as lines that are unchanged, and as Parquet that says the same."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.commands.export import parse_time
from tests.support.cli import ROOT, voicewatch


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a replay of the shipped recording."""
    out = tmp_path_factory.mktemp("results") / "out"
    done = voicewatch("replay", ROOT / "tests/data/three-minutes.jsonl", "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_everything_is_exported_unchanged(results: Path, tmp_path: Path) -> None:
    """Without a span the lines are those of the source, byte for byte."""
    done = voicewatch("export", results, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for kind in ("windows", "alerts"):
        assert (tmp_path / f"out/{kind}.jsonl").read_bytes() == (results / f"{kind}.jsonl").read_bytes()


def test_a_span_includes_its_beginning_and_excludes_its_end(results: Path, tmp_path: Path) -> None:
    """Two spans that meet share no line, and together hold all of both."""
    middle = "2026-01-01T00:01:00Z"
    counts: list[list[int]] = []
    for begin, end in (("0", middle), (middle, "9e9"), ("0", "9e9")):
        out = tmp_path / f"{len(counts)}"
        assert voicewatch("export", results, "--out", out, "--from", begin, "--to", end).returncode == 0
        counts.append([len((out / f"{kind}.jsonl").read_bytes().splitlines()) for kind in ("windows", "alerts")])
    assert [sum(pair) for pair in zip(*counts[:2], strict=True)] == counts[2]
    assert 0 < counts[0][0] < counts[2][0]


def test_parquet_says_what_the_lines_say(results: Path, tmp_path: Path) -> None:
    """Rows, names and values agree; times are UTC timestamps; an empty result is an empty table with its types."""
    done = voicewatch("export", results, "--out", tmp_path / "out", "--format", "parquet")
    assert done.returncode == 0, done.stderr
    for kind in ("windows", "alerts"):
        lines = [json.loads(line) for line in (results / f"{kind}.jsonl").read_text().splitlines()]
        table = pq.read_table(tmp_path / f"out/{kind}.parquet")
        rows = table.to_pylist()
        assert len(rows) == len(lines)
        time = "end" if kind == "windows" else "timestamp"
        for row, line in zip(rows, lines, strict=True):
            assert row[time].timestamp() == pytest.approx(line[time], abs=1e-6)
            assert row[time].tzinfo is not None
            for name in ("latency_ms", "packet_loss", "mos", "alertId", "state", "metricValue", "conversation_id"):
                assert row.get(name) == line.get(name)
    assert pq.read_table(tmp_path / "out/groups.parquet").schema.names[:3] == ["group", "start", "end"]


def test_labels_and_past_days_are_read(tmp_path: Path) -> None:
    """Files of past days, compressed or not, come before today's; a torn last line is left out."""
    line = '{{"conversation_id":"{id}","start":{start},"end":{end},"frames":1,"latency_ms":null,"packet_loss":null,'
    line += '"mos":null,"labels":{{"queue":"support"}}}}\n'
    with gzip.open(tmp_path / "windows-2026-01-01.jsonl.gz", "wt") as file:
        file.write(line.format(id="a", start=0, end=10))
    (tmp_path / "windows-2026-01-02.jsonl").write_text(line.format(id="b", start=10, end=20))
    (tmp_path / "windows.jsonl").write_text(line.format(id="c", start=20, end=30) + '{"conversation_id":"torn')
    done = voicewatch("export", tmp_path, "--out", tmp_path / "out", "--format", "parquet")
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "out/windows.parquet").to_pylist()
    assert [row["conversation_id"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["labels"] == [("queue", "support")]
    assert rows[0]["end"] == datetime(1970, 1, 1, 0, 0, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--from", "yesterday"], "--from yesterday"),
        (["--format", "csv"], "csv"),
    ],
)
def test_bad_options_are_explained(results: Path, tmp_path: Path, arguments: list[str], expected: str) -> None:
    """The exit code is 2, and one line quotes the option."""
    done = voicewatch("export", results, "--out", tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert expected in done.stderr


def test_a_directory_without_results_is_refused(results: Path, tmp_path: Path) -> None:
    """Nothing is written over, and nothing is made of nothing."""
    assert voicewatch("export", tmp_path, "--out", tmp_path / "out").returncode == 2
    assert voicewatch("export", results, "--out", results).returncode == 2
    assert not (tmp_path / "out").exists()


def test_the_state_directory_of_another_run_is_refused(results: Path, tmp_path: Path) -> None:
    """Its results stay as they are."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "lock").touch()
    (other / "windows.jsonl").write_text("kept\n")
    done = voicewatch("export", results, "--out", other)
    assert done.returncode == 2
    assert "is the state directory of a run" in done.stderr
    assert (other / "windows.jsonl").read_text() == "kept\n"
    assert len(list(other.iterdir())) == 2


def test_times_are_utc_without_an_offset() -> None:
    """An offset is respected."""
    assert parse_time("2026-01-01T01:00:00+01:00", "--from") == parse_time("2026-01-01", "--from") == 1767225600.0
