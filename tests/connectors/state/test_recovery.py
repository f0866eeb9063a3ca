"""The recovery store: how it is made, and that it stays small, however many conversations have come and gone."""

from __future__ import annotations

import os
import pickle
import sqlite3
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bytewax.recovery import RecoveryConfig
from bytewax.testing import run_main

from connectors.errors import StateError, UnusableStateError
from connectors.journal.recording import Recording
from connectors.journal.source import RecordingSource
from connectors.state.files import StateLock
from connectors.state.recovery import PAGE_BYTES, check_recovery_store, latest_states, make_recovery_store
from connectors.state.sinks import JsonLinesSink
from flows.dataflow import SHARDS, Outputs, build

CALLS = 10_000
CALLS_IN_A_SEGMENT = 500
CALLS_PER_S = 50
COMMAND = [sys.executable, "-m", "flows", "recovery", "init"]


def write_short_calls(directory: Path) -> list[Path]:
    """Segments of calls of a watch, a frame and an end each; the windows of some hundreds are open at a time."""
    segments = []
    for first in range(0, CALLS, CALLS_IN_A_SEGMENT):
        segments.append(directory / f"{first:08d}.jsonl")
        with segments[-1].open("w") as segment:
            for number in range(first, first + CALLS_IN_A_SEGMENT):
                at = 1_700_000_000 + number / CALLS_PER_S
                frame = f'"entity":{{"id":"call-{number}"}},"timestamp":{at}'
                segment.write(f'{{"received_at":{at},"watch":{{"conversation_id":"call-{number}"}}}}\n')
                segment.write(f'{{"received_at":{at},"frame":{{"event":"conversation.updated",{frame}}}}}\n')
                segment.write(f'{{"received_at":{at},"frame":{{"event":"conversation.ended",{frame}}}}}\n')
    return segments


def test_ended_conversations_leave_nothing_behind(tmp_path: Path) -> None:
    """After many short calls the store has a row for each shard, not for each call, and little in it."""
    recovery = tmp_path / "recovery"
    make_recovery_store(recovery)
    source = RecordingSource(Recording(write_short_calls(tmp_path)), stop=threading.Event())
    windows = tmp_path / "windows.jsonl"
    outputs = Outputs(windows=JsonLinesSink(windows), alerts=JsonLinesSink(tmp_path / "alerts.jsonl"))
    run_main(
        build(source, outputs),
        epoch_interval=timedelta(0),
        recovery_config=RecoveryConfig(recovery, backup_interval=timedelta(0)),
    )
    assert windows.read_bytes().count(b"\n") == 2 * CALLS
    with sqlite3.connect(recovery / "part-0.sqlite3") as store:
        latest = "SELECT step_id, state_key, MAX(snap_epoch), LENGTH(ser_change) FROM snaps GROUP BY 1, 2"
        sizes = {(step, key): size for step, key, _, size in store.execute(latest)}
    store.close()
    shards = {key: size for (step, key), size in sizes.items() if step.startswith("voice_qa.shards")}
    assert set(shards) == set(SHARDS)
    assert len(sizes) < len(SHARDS) + 8
    # All calls together would take ten times as much: a watch alone is a hundred bytes and more.
    assert sum(shards.values()) < 300_000


def test_a_store_is_made_once(tmp_path: Path) -> None:
    """In place of an empty directory and of one left half-made, private, with large pages; made again, it stays."""
    recovery = tmp_path / "recovery"
    recovery.mkdir()
    (tmp_path / "recovery.new").mkdir()
    (tmp_path / "recovery.new" / "part-0.sqlite3").write_bytes(b"half")
    command = [*COMMAND, str(recovery)]
    subprocess.run(command, check=True)
    part = recovery / "part-0.sqlite3"
    made = part.stat()
    assert (recovery.stat().st_mode & 0o777, made.st_mode & 0o777) == (0o700, 0o600)
    with sqlite3.connect(part) as store:
        assert store.execute("PRAGMA page_size").fetchone() == (PAGE_BYTES,)
        assert store.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()
    subprocess.run(command, check=True)
    assert part.stat().st_ino == made.st_ino
    assert {path.name for path in tmp_path.iterdir()} == {"recovery", "lock"}


def test_a_store_is_not_made_beside_a_run(tmp_path: Path) -> None:
    """Nor by two at a time, of which one would spoil what the other makes."""
    with StateLock(tmp_path / "lock"):
        told = subprocess.run([*COMMAND, str(tmp_path / "recovery")], capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "is in use by another voicewatch" in told.stderr
    assert not (tmp_path / "recovery").exists()


def test_a_store_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    """With the path and what to do; the command ends with 1."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"file/recovery.new failed: Not a directory"):
        make_recovery_store(tmp_path / "file" / "recovery")
    for arguments, code in ([str(tmp_path / "file" / "recovery")], 1), ([], 2), (["--bad"], 2), (["a", "b"], 2):
        told = subprocess.run(COMMAND + arguments, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert (told.returncode, told.stdout) == (code, "")
        assert ("voicewatch: " if code == 1 else "recovery init") in told.stderr
        assert "Traceback" not in told.stderr
    assert "file" in {path.name for path in tmp_path.iterdir()} <= {"file", "lock"}


class Harm:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def test_reading_a_state_runs_nothing(tmp_path: Path) -> None:
    """Plain data and arrays are read; a pickle that would call a function is refused and named."""
    make_recovery_store(tmp_path / "recovery")
    part = tmp_path / "recovery" / "part-0.sqlite3"
    array = np.arange(3)
    for key, value in (("0", {"counts": array, "ids": ["a"]}), ("1", Harm(tmp_path / "harm"))):
        with sqlite3.connect(part) as store:
            store.execute(
                "INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES ('step', ?, 1, ?)",
                (key, pickle.dumps(value)),
            )
        store.close()
    states = latest_states(tmp_path / "recovery", "step")
    key, state = next(states)
    assert (key, state["ids"], state["counts"].tolist()) == ("0", ["a"], [0, 1, 2])
    with pytest.raises(
        UnusableStateError, match=r"snapshot step/1 cannot be read: it holds \S+, which is not plain data"
    ):
        next(states)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["", "part-0.sqlite3"])
def test_a_store_that_others_can_change_is_refused(tmp_path: Path, name: str) -> None:
    """Bytewax would run what they put into it. A group that may write is trusted, as with a volume of Kubernetes."""
    recovery = tmp_path / "recovery"
    make_recovery_store(recovery)
    path = recovery / name
    for mode in (0o770, 0o660 if name else 0o2770):
        path.chmod(mode)
        check_recovery_store(recovery, whole=True)
    path.chmod(0o777)
    with pytest.raises(UnusableStateError, match=r"can be changed by every user \(mode 777\).*chmod -R o-w") as refused:
        check_recovery_store(recovery, whole=True)
    assert refused.value.exit_code == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_root_does_not_run_the_store_of_another_user(tmp_path: Path) -> None:
    """Its owner could put code into it."""
    make_recovery_store(tmp_path / "recovery")
    os.chown(tmp_path / "recovery" / "part-0.sqlite3", 12345, -1)
    with pytest.raises(UnusableStateError, match=r"belongs to another user \(id 12345\)"):
        check_recovery_store(tmp_path / "recovery", whole=True)


def test_a_store_is_made_where_a_link_points_to(tmp_path: Path) -> None:
    """State may be spread over disks."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "recovery").symlink_to("disk")
    subprocess.run([*COMMAND, "recovery"], check=True, cwd=tmp_path)
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["part-0.sqlite3"]


def test_a_full_disk_is_explained(tmp_path: Path) -> None:
    """SQLite's errors are state errors as well; here, of a limit on the size of files that large pages go beyond."""
    limited = ["sh", "-c", 'ulimit -f 128; exec "$@"', "sh", *COMMAND, str(tmp_path / "recovery")]
    told = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert (told.returncode, "Traceback" in told.stderr) == (1, False)
    assert "/recovery failed: SQLite reports: " in told.stderr
    assert not (tmp_path / "recovery").exists()
