"""The audit chain shows every change, survives crashes and many writers, and a resumed flow adds nothing twice."""

from __future__ import annotations

import hashlib
import json
import stat
import subprocess
import sys
import threading
from datetime import timedelta

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSource, run_main
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.errors import StateError
from connectors.state.audit import AuditEntry, AuditLog, read, verify, verify_lines
from connectors.state.audit_sink import AuditSink


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "audit.jsonl"


def written(path, n=6):
    log = AuditLog(path, now=lambda: 1000.5)
    for number in range(n):
        log.append("ALERT_RAISED", conversation=f"c{number}", outcome="raised", id=f"id-{number}")
    log.close()
    return path.read_bytes().splitlines(keepends=True)


def test_each_line_carries_the_hash_of_the_one_before(path):
    """The format is what the contract says: our keys, then the details, and `prev` over the line's own bytes."""
    first, second, *_ = written(path)
    assert json.loads(first) == {
        "time": 1000.5,
        "action": "ALERT_RAISED",
        "conversation": "c0",
        "outcome": "raised",
        "id": "id-0",
        "prev": "0" * 64,
    }
    assert json.loads(second)["prev"] == hashlib.sha256(first.rstrip(b"\n")).hexdigest()
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [r["conversation"] for r in read(path)] == [f"c{n}" for n in range(6)]
    assert verify(path).ok


def test_a_changed_line_is_found_wherever_it_is(path):
    """Also the last one, which no later line vouches for: the head does."""
    lines = written(path)
    for index in range(len(lines)):
        forged = [*lines]
        forged[index] = forged[index].replace(b"raised", b"Raised")
        path.write_bytes(b"".join(forged))
        verdict = verify(path)
        assert not verdict.ok
        assert f"line {index + 1} was changed" in verdict.faults[0].text


def test_a_removed_line_is_found_wherever_it_was(path):
    """The fault names the lines around the gap, and a missing end is noticed by the head."""
    lines = written(path)
    for index in range(len(lines)):
        path.write_bytes(b"".join(lines[:index] + lines[index + 1 :]))
        (fault,) = verify(path).faults
        assert fault.line == min(index + 1, len(lines) - 1)
        assert "removed" in fault.text


@pytest.mark.parametrize("extra", [b'{"action":"FORGED","prev":"00"}\n', b"garbage\n", b"\n"])
def test_an_inserted_line_is_found_and_named(path, extra):
    """An inserted line is distinguished from the lines around it."""
    lines = written(path)
    for index in range(len(lines)):
        path.write_bytes(b"".join([*lines[:index], extra, *lines[index:]]))
        (fault,) = verify(path).faults
        assert (fault.line, fault.text) == (index + 1, f"line {index + 1} was inserted")
    path.write_bytes(b"".join([*lines, extra]))
    assert verify(path).faults[0].line == len(lines) + 1


def test_swapped_and_repeated_lines_are_found(path):
    """Whole genuine lines in a wrong place break the chain too."""
    lines = written(path)
    assert not verify_lines([lines[0], lines[2], lines[1], *lines[3:]]).ok
    assert not verify_lines([*lines[:3], lines[2], *lines[3:]]).ok


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_change_of_a_byte_goes_unnoticed(tmp_path_factory, data):
    """Any byte of the log changed, removed or added: it does not verify."""
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    whole = b"".join(written(path, 3))
    at = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.binary(min_size=0, max_size=2))
    forged = whole[:at] + byte + whole[at + 1 :]
    path.write_bytes(forged)
    assert verify(path).ok == (forged == whole)


def test_without_its_head_a_log_says_what_cannot_be_known(path):
    """A copied log still verifies by its chain, with a note."""
    written(path)
    path.with_name("audit.jsonl.head").unlink()
    verdict = verify(path)
    assert verdict.ok
    assert "cannot be noticed" in verdict.notes[0]


def test_a_torn_last_line_is_reported_then_repaired(path):
    """`verify` names it; the next append cuts it off, says so in a line, and the chain holds."""
    lines = written(path)
    path.write_bytes(b"".join(lines) + b'{"time":1,"act')
    (fault,) = verify(path).faults
    assert fault.line == 7
    assert "torn" in fault.text
    AuditLog(path).append("FEED_UP", conversation=None, outcome="up")
    *_, repaired, last = read(path)
    assert (repaired["action"], repaired["bytes"]) == ("AUDIT_REPAIRED", 14)
    assert last["action"] == "FEED_UP"
    verdict = verify(path)
    assert verdict.ok
    assert verdict.lines == 8
    assert "line 7" in verdict.notes[0]


def test_lines_missing_at_the_end_are_not_papered_over(path):
    """An append after the log was cut records that its end is not the one it had."""
    lines = written(path)
    path.write_bytes(b"".join(lines[:4]))
    AuditLog(path).append("FEED_UP", conversation=None, outcome="up")
    (note,) = verify(path).notes
    assert note == "line 5: the log was repaired (last_lines_differ)"


def test_a_log_that_is_moved_away_is_begun_anew(path):
    """Rotation by renaming neither loses lines nor writes into the old file."""
    log = AuditLog(path)
    log.append("A", conversation=None, outcome="ok")
    path.rename(path.with_name("old"))
    log.append("B", conversation=None, outcome="ok")
    assert [r["action"] for r in read(path)][-1] == "B"
    assert [r["action"] for r in read(path.with_name("old"))] == ["A"]


def test_threads_and_processes_share_one_chain(path):
    """Interleaved appends of 4 threads and 2 processes all arrive, and the chain holds."""
    code = (
        "import sys, pathlib; from connectors.state.audit import AuditLog\n"
        f"log = AuditLog(pathlib.Path({str(path)!r}))\n"
        "[log.append('P', conversation=None, outcome='ok', id=f'{sys.argv[1]}-{n}') for n in range(200)]"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(n)]) for n in range(2)]
    log = AuditLog(path)

    def work(name):
        for n in range(100):
            log.append("T", conversation=None, outcome="ok", id=f"{name}-{n}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [child.wait(30) for child in children] == [0, 0]
    verdict = verify(path)
    assert verdict.ok
    assert verdict.lines == 800


def test_details_cannot_pose_as_our_keys(path):
    """A detail named like a key of ours is a mistake of the caller."""
    with pytest.raises(ValueError, match="prev"):
        AuditLog(path).append("A", conversation=None, outcome="ok", prev="x")


def test_an_unwritable_log_is_explained(tmp_path):
    """A directory in its place raises StateError, from writing and from reading."""
    (tmp_path / "audit.jsonl").mkdir()
    with pytest.raises(StateError, match=r"audit\.jsonl"):
        AuditLog(tmp_path / "audit.jsonl").append("A", conversation=None, outcome="ok")
    with pytest.raises(StateError, match=r"nothing\.jsonl"):
        verify(tmp_path / "nothing.jsonl")


def test_a_resumed_flow_audits_each_entry_once(tmp_path, path):
    """Entries written after the last snapshot are recognised by action and id, among others' lines."""
    recovery = tmp_path / "recovery"
    recovery.mkdir()
    init_db_dir(recovery, 1)
    AuditLog(path).append("FEED_UP", conversation=None, outcome="up")

    def run(items):
        flow = Dataflow("audit")
        numbers = op.input("in", flow, TestingSource(items, batch_size=4))
        entries = op.map(
            "entry", numbers, lambda n: ("k", AuditEntry("ALERT_RAISED", f"c{n}", "raised", {"id": f"id-{n}"}))
        )
        op.output("out", entries, AuditSink(path))
        run_main(flow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(recovery))

    items = [*range(10), TestingSource.ABORT(), *range(10, 30)]
    run(items)
    log = AuditLog(path)  # what a run wrote that was killed before its snapshot
    log.extend(AuditEntry("ALERT_RAISED", f"c{n}", "raised", {"id": f"id-{n}"}) for n in range(10, 17))
    log.append("CALLBACK_DELIVERED", conversation="c20", outcome="200", id="id-20")
    run(items)
    raised = [r["id"] for r in read(path) if r["action"] == "ALERT_RAISED"]
    assert raised == [f"id-{n}" for n in range(30)]
    assert verify(path).ok
