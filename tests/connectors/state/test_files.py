"""State files are private, locked and probed; the JSON Lines sink is exactly once."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSource, run_main

from connectors.errors import StateError
from connectors.state.files import (
    StateLock,
    check_writable,
    last_line,
    make_private_dir,
    replace_durably,
    state_errors,
    write_all,
)
from connectors.state.sinks import JsonLinesSink


def run(items, path, recovery):
    flow = Dataflow("files")
    lines = op.input("in", flow, TestingSource(items, batch_size=3))
    op.output("out", op.map("line", lines, lambda n: ("k", b'{"n":%d}\n' % n)), JsonLinesSink(path))
    run_main(flow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(recovery))


@pytest.fixture
def recovery(tmp_path):
    path = tmp_path / "recovery"
    path.mkdir()
    init_db_dir(path, 1)
    return path


def expected(numbers):
    return b"".join(b'{"n":%d}\n' % n for n in numbers)


def test_a_flow_that_aborts_and_resumes_writes_each_line_once(tmp_path, recovery):
    """What was written after the last snapshot is cut off and written again."""
    path = tmp_path / "out" / "windows.jsonl"
    items = [*range(10), TestingSource.ABORT(), *range(10, 14), TestingSource.EOF(), *range(14, 20)]
    run(items, path, recovery)
    with path.open("ab") as file:
        file.write(b'{"n":-1}\n{"torn')  # a crash after a write and before the snapshot
    for _ in range(3):  # to the EOF, past it, to the end
        run(items, path, recovery)
    assert path.read_bytes() == expected(range(20))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_fresh_start_empties_the_file(tmp_path, recovery):
    """Without a resume state nothing of an earlier run stays."""
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"old\n" * 100)
    run(range(5), path, recovery)
    assert path.read_bytes() == expected(range(5))


def test_a_file_that_was_cut_is_reported(tmp_path):
    """Shorter than at the snapshot means that output is missing, and resuming says so."""
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"{}\n")
    with pytest.raises(StateError, match=r"is 3 bytes long but held 900 .*put the file back"):
        JsonLinesSink(path).build_part("out", "file", 900)
    assert path.read_bytes() == b"{}\n"


def test_a_snapshot_is_the_length_and_close_never_raises(tmp_path):
    """Chunks of several lines count in bytes, and closing twice is allowed."""
    part = JsonLinesSink(tmp_path / "a.jsonl").build_part("out", "file", None)
    part.write_batch([b"{}\n{}\n", b"{}\n"])
    assert part.snapshot() == 9
    part.close()
    part.close()


def test_a_directory_is_created_private_and_probed(tmp_path):
    """Nothing of the probe is left, and the rights are the owner's alone."""
    state = tmp_path / "a" / "state"
    check_writable(state, need_bytes=1)
    assert list(state.iterdir()) == []
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_an_unusable_directory_is_explained(tmp_path):
    """A file in the way and too little space are each named, with what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="move it away"):
        check_writable(tmp_path / "file")
    with pytest.raises(StateError, match="move it away"):
        check_writable(tmp_path / "file" / "state")
    with pytest.raises(StateError, match=r"MiB are needed; free some space"):
        check_writable(tmp_path, need_bytes=2**60)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_explained(tmp_path):
    """The remedy for a missing right is a right."""
    tmp_path.chmod(0o500)
    with pytest.raises(StateError, match="write permission"):
        check_writable(tmp_path / "state")


def test_a_full_disk_is_explained():
    """ENOSPC, which /dev/full gives to every writer, becomes a StateError with a remedy."""
    with (
        pytest.raises(StateError, match=r"No space left on device; free some space"),
        state_errors("writing"),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path):
    """A second holder is refused with the first one's process id; a killed holder holds nothing."""
    path = tmp_path / "state" / "lock"
    code = (
        "import sys, pathlib; from connectors.state.files import StateLock\n"
        f"StateLock(pathlib.Path({str(path)!r})).acquire(); print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    with pytest.raises(StateError, match=rf"in use by another voicewatch \(process {child.pid}\)"):
        StateLock(path).acquire()
    child.kill()
    child.communicate()
    with StateLock(path):
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(StateError):
            StateLock(path).acquire()
    with StateLock(path):
        pass


def test_an_existing_directory_keeps_its_mode(tmp_path):
    """Only what is missing is created private."""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    shared.chmod(0o755)
    make_private_dir(shared / "state")
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"a", b"a\n", b"a\nb", b"a\nbc\n", b"\n\n", b"x" * 200_000, b"a\n" + b"x" * 131_072]
)
def test_the_last_line_of_a_file_is_found(tmp_path: Path, text: bytes) -> None:
    """With its newline if it has one, however long it is and wherever the reads are cut."""
    path = tmp_path / "file"
    path.write_bytes(text)
    with path.open("rb") as file:
        begin, line = last_line(file.fileno(), len(text))
    lines = io.BytesIO(text).readlines() or [b""]
    assert (begin, line) == (len(text) - len(lines[-1]), lines[-1])


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """The new content is there with the name, private; a writer that fails leaves the old file and nothing else."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    (tmp_path / "file.new").write_bytes(b"left by a crash")

    def fail(fd: int) -> None:
        os.write(fd, b"half")
        raise OSError("for a test")

    with pytest.raises(OSError, match="for a test"):
        replace_durably(path, fail)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"file": b"old"}
    os.close(replace_durably(path, lambda fd: write_all(fd, b"new")))
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"file": b"new"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
