"""What a journal says about itself."""

from __future__ import annotations

from pathlib import Path

import orjson
from backports import zstd

from flows.report.journal import JournalFacts, Stretch, journal_files, read_journal


def journal(directory: Path, *records: dict[str, object], name: str = "00000001.jsonl") -> Path:
    path = directory / name
    data = b"".join(orjson.dumps(record) + b"\n" for record in records)
    path.write_bytes(zstd.compress(data) if name.endswith(".zst") else data)
    return path


def facts_of(*paths: Path) -> JournalFacts:
    *_, facts = read_journal(paths, are_segments=True)
    return facts


def tick(at: float) -> dict[str, object]:
    return {"received_at": at, "tick": True}


def test_a_time_without_ticks_is_a_gap(tmp_path: Path) -> None:
    """Ten seconds without a record are a gap, also between two segments, of which one is compressed."""
    first = journal(tmp_path, tick(100.0), tick(101.0), tick(111.0), tick(125.0), name="00000001.jsonl.zst")
    second = journal(tmp_path, tick(200.0), tick(201.0), name="00000002.jsonl")
    facts = facts_of(first, second)
    assert [(gap.start, gap.end) for gap in facts.gaps] == [(111.0, 125.0), (125.0, 200.0)]
    assert (facts.begin, facts.end, facts.has_ticks) == (100.0, 201.0, True)


def test_a_step_of_the_clock_is_no_gap(tmp_path: Path) -> None:
    """What the clock was moved by does not count; a stop that it hides does."""
    forward = {"received_at": 3702.0, "clock": {"step_s": 3600.0, "reason": "set"}}
    back = {"received_at": 150.0, "clock": {"step_s": -3600.0, "reason": "set back"}}
    facts = facts_of(journal(tmp_path, tick(100.0), tick(101.0), forward, tick(3703.0), back, tick(151.0)))
    assert facts.gaps == [Stretch(103.0, 150.0, facts.gaps[0].reason)]
    assert facts.clocks == [(3702.0, 3600.0, "set"), (150.0, -3600.0, "set back")]


def test_settings_that_are_repeated_do_not_change(tmp_path: Path) -> None:
    """Each segment begins with the settings in force; only another value is a change."""
    one, two = {"alerts": {"raise_n": 1}}, {"alerts": {"raise_n": 2}}
    records = [{"received_at": float(at), "settings": settings} for at, settings in enumerate((one, one, two))]
    facts = facts_of(journal(tmp_path, *records))
    assert facts.settings == [(0.0, one), (2.0, two)]
    assert facts.in_force == two


def test_limits_come_from_the_last_watch(tmp_path: Path) -> None:
    """A later watch may name some limits only; the others stay. An empty id is an id."""
    limits = {"max_latency_ms": 120.0, "packet_loss_threshold": 0.05}
    facts = facts_of(
        journal(
            tmp_path,
            {"received_at": 1.0, "watch": {"conversation_id": "", **limits, "feed": "support"}},
            {"received_at": 2.0, "watch": {"conversation_id": "", "max_latency_ms": 200.0}},
        )
    )
    watched = facts.watches[""]
    assert (watched.max_latency_ms, watched.packet_loss_threshold, watched.feed) == (200.0, 0.05, "support")


def test_segments_before_the_period_are_left_out(tmp_path: Path) -> None:
    """One segment before the period is read, because the period may begin within it."""
    paths = [journal(tmp_path, tick(at), name=f"0000000{at:.0f}.jsonl") for at in (1.0, 2.0, 3.0, 4.0)]
    assert journal_files(tmp_path, 3.5) == paths[1:]
    assert journal_files(tmp_path, float("-inf")) == paths
    assert journal_files(tmp_path / "none", 3.5) == []
