"""Results by day: which file a line goes into, what is removed, and that no crash loses or repeats a line."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bytewax.recovery import init_db_dir

from connectors.errors import StateError
from connectors.state.daily import DailyLinesSink
from connectors.state.results import daily_files
from tests.support.callbacks import eventually

DAY_S = 86_400
FLOW = Path(__file__).parents[2] / "support" / "daily_flow.py"


def line(number: int, day: float) -> bytes:
    return b'{"n":%d,"end":%r}\n' % (number, day * DAY_S)


def opened(path: Path, state: Any = None, *, keep_days: int | None = 1000, today: float = 0.0) -> Any:
    sink = DailyLinesSink(path, "end", keep_days=keep_days, now=lambda: today * DAY_S)
    return sink.build_part("step", "file", state)


def numbers(path: Path) -> list[int]:
    """The numbers in all files, oldest first."""
    files = [*daily_files(path).values(), *([path] if path.exists() else [])]
    texts = [gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes() for file in files]
    return [json.loads(each)["n"] for text in texts for each in text.splitlines()]


def test_a_file_for_each_day(tmp_path: Path) -> None:
    """The lines of a day are in the file of its name, the newest ones in the file without; empty chunks do nothing."""
    path = tmp_path / "windows.jsonl"
    part = opened(path)
    part.write_batch([b"", line(0, 0.1), line(1, 0.9) + line(2, 1.0), line(3, 1.5), line(4, 0.5), line(5, 3)])
    part.write_batch([])
    part.close()
    assert list(daily_files(path)) == ["1970-01-01", "1970-01-02"]
    assert [len(file.read_bytes().splitlines()) for file in daily_files(path).values()] == [1, 4]
    assert numbers(path) == [0, 1, 2, 3, 4, 5]
    assert path.stat().st_mode & 0o777 == 0o600


def test_nothing_is_renamed_without_the_setting(tmp_path: Path) -> None:
    """Without `keep_days` there is one file, and the state is its length, as it always was."""
    path = tmp_path / "windows.jsonl"
    part = opened(path, keep_days=None)
    part.write_batch([line(0, 0), line(1, 5)])
    assert part.snapshot() == path.stat().st_size
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("seed", range(30))
def test_crashes_anywhere(tmp_path: Path, seed: int) -> None:
    """Dropped at any moment and resumed from any later snapshot, each line is there once, in order."""
    chance = random.Random(seed)
    path = tmp_path / "windows.jsonl"
    lines = [line(number, number / 3) for number in range(60)]
    done, state, keep = 0, None, chance.choice([None, 1000])
    while done < len(lines):
        keep = chance.choice([keep, None, 1000])
        part, at = opened(path, state, keep_days=keep), done
        for _ in range(chance.randrange(12)):
            step = chance.randrange(1, 9)
            part.write_batch(
                [b"".join(lines[at : at + 2]), *lines[at + 2 : at + step]] if step > 2 else lines[at : at + step]
            )
            at = min(at + step, len(lines))
            if chance.random() < 0.4:
                taken = part.snapshot()
                if chance.random() < 0.7:  # committed
                    done, state = at, taken
        part.close()
    assert numbers(path) == list(range(60))


def test_a_single_file_is_continued_by_days(tmp_path: Path) -> None:
    """A state of before, the length of one file, is continued; the file is renamed by its last line's day."""
    path = tmp_path / "windows.jsonl"
    path.write_bytes(line(0, 0) + line(1, 4) + line(99, 5))
    part = opened(path, len(line(0, 0) + line(1, 4)))
    part.write_batch([line(2, 6)])
    part.close()
    assert list(daily_files(path)) == ["1970-01-05"]
    assert numbers(path) == [0, 1, 2]


def test_a_fresh_start_keeps_older_days(tmp_path: Path) -> None:
    """Without a resume state, files of the first line's day and later are written again, older ones stay."""
    path = tmp_path / "windows.jsonl"
    part = opened(path)
    part.write_batch([line(number, number) for number in range(5)])
    part.close()
    part = opened(path)
    state = part.snapshot()
    part.write_batch([line(2, 2) + line(3, 3)])
    part.close()
    part = opened(path, state)  # nothing of it was committed
    part.write_batch([line(2, 2) + line(3, 3), line(4, 4)])
    part.close()
    assert numbers(path) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("packed", [False, True])
def test_a_fresh_start_keeps_what_the_journal_no_longer_has(tmp_path: Path, *, packed: bool) -> None:
    """The flow begins in the middle of a day: its lines before it stay, in whichever file, also after a crash."""
    path = tmp_path / "windows.jsonl"
    for first in (2, 13):  # of a renamed file, and of the one that is written
        part = opened(path)
        part.write_batch([line(number, 4 + number / 10) for number in range(15)])
        part.close()
        if packed:
            for file in daily_files(path).values():
                file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
                file.unlink()
        with path.open("ab") as torn:
            torn.write(b'{"n":99,"en')  # a crash in the middle of a line
        part = opened(path)
        state = part.snapshot()
        part.write_batch([line(number, 4 + number / 10) for number in range(first, 14)])
        part.close()  # killed, and nothing of it was committed
        assert numbers(path) == list(range(14))
        part = opened(path, state)
        part.write_batch([line(number, 4 + number / 10) for number in range(first, 15)])
        part.snapshot()
        part.close()
        assert numbers(path) == list(range(15))
        assert list(daily_files(path)) == ["1970-01-05"]
        assert {file.stat().st_mode & 0o777 for file in tmp_path.glob("*.jsonl")} == {0o600}


def test_a_fresh_start_keeps_earlier_lines_without_days(tmp_path: Path) -> None:
    """In the one file, too, also where the first line is of a window that the journal now begins in the middle of."""
    path = tmp_path / "windows.jsonl"
    part = opened(path, keep_days=None)
    part.write_batch([line(number, number) for number in range(6)])
    part.close()
    state = None
    for first in (line(3, 3), line(33, 3)):
        part = opened(path, state, keep_days=None)
        state = part.snapshot()
        part.write_batch([first, line(4, 4)])
        part.close()
        assert numbers(path) == [0, 1, 2, json.loads(first)["n"], 4]


def test_a_fresh_start_repeats_no_line_of_before_a_clock_step(tmp_path: Path) -> None:
    """Times may be smaller after a step back: the first line itself says where the flow begins again."""
    path = tmp_path / "windows.jsonl"
    for _ in range(2):
        part = opened(path, keep_days=None)
        part.write_batch([line(0, 5), line(1, 6), line(2, 4.5)])
        part.close()
        assert numbers(path) == [0, 1, 2]


def test_a_day_that_was_packed_is_put_back_as_lines(tmp_path: Path) -> None:
    """A file that was renamed after the snapshot, and then compressed; one that is damaged is named."""
    path = tmp_path / "windows.jsonl"
    part = opened(path)
    part.write_batch([line(0, 0)])
    state = part.snapshot()
    part.write_batch([line(1, 1)])
    part.close()
    [day] = daily_files(path).values()
    content = gzip.compress(day.read_bytes())
    day.unlink()
    packed = day.with_name(day.name + ".gz")
    packed.write_bytes(content[:-9])
    with pytest.raises(StateError, match=r"windows-1970-01-01\.jsonl\.gz is damaged"):
        opened(path, state)
    packed.write_bytes(content)
    part = opened(path, state)
    part.write_batch([line(1, 1)])
    part.close()
    assert numbers(path) == [0, 1]


class Days:
    """A wall clock and a monotonic one, in days; the wall clock can be set."""

    def __init__(self, wall: float) -> None:
        self.wall, self.passed = wall, 0.0

    def open(self, path: Path, state: Any = None) -> Any:
        clocks = {"now": lambda: self.wall * DAY_S, "monotonic": lambda: self.passed * DAY_S}
        return DailyLinesSink(path, "end", keep_days=2, **clocks).build_part("step", "file", state)

    def write(self, part: Any, first: int, last: int) -> None:
        """Write a line a day, as the days pass."""
        for day in range(first, last + 1):
            part.write_batch([line(day, day)])
            for file in daily_files(Path(part._path)).values():
                if file.stat().st_mtime > (self.wall + 1) * DAY_S:  # as if the clock of the disk were this one
                    os.utime(file, (self.wall * DAY_S,) * 2)
            part.snapshot()
            self.wall += 1
            self.passed += 1


def test_old_days_are_removed(tmp_path: Path) -> None:
    """A file is removed when two days have passed since its last line, packed or not, also those of earlier runs."""
    path, days = tmp_path / "windows.jsonl", Days(6)
    part = days.open(path)
    days.write(part, 6, 8)
    packed = daily_files(path)["1970-01-07"]
    packed.with_name(packed.name + ".gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    days.write(part, 9, 11)
    assert list(daily_files(path)) == ["1970-01-09", "1970-01-10", "1970-01-11"]
    state = part.snapshot()
    part.close()
    days.wall += 1.5  # nothing ran
    part = days.open(path, state)
    days.write(part, 14, 14)
    assert list(daily_files(path)) == ["1970-01-12"]
    assert numbers(path) == [11, 14]


@pytest.mark.parametrize("by_days", [47_000, -5000])
@pytest.mark.parametrize("restart", [False, True])
def test_a_clock_that_is_set_removes_no_file(tmp_path: Path, by_days: int, *, restart: bool) -> None:
    """In the year 2100, or in the past, in a run or at its start, the files stay until their time has passed."""
    path, days = tmp_path / "windows.jsonl", Days(20_000)
    part = days.open(path)
    days.write(part, 20_000, 20_002)
    state = part.snapshot()
    days.wall += by_days
    if restart:
        part.close()
        part = days.open(path, state)
    part.snapshot()
    assert len(daily_files(path)) == 2
    days.passed += 3
    part.snapshot()
    assert daily_files(path) == {}


def test_days_begin_again_after_a_clock_was_set_forward(tmp_path: Path) -> None:
    """Lines of a far day, and then the right day again: the next days have files of their own."""
    path = tmp_path / "windows.jsonl"
    part = opened(path)
    part.write_batch([line(0, 100), line(1, 47_000), line(2, 100), line(3, 101), line(4, 102), line(5, 103)])
    part.close()
    assert list(daily_files(path)) == ["1970-04-11", "1970-04-12", "1970-04-13"]
    assert numbers(path) == [0, 1, 2, 3, 4, 5]


def test_a_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    """A file shorter than at the snapshot was damaged from outside."""
    path = tmp_path / "windows.jsonl"
    part = opened(path)
    part.write_batch([line(0, 0), line(1, 1)])
    state = part.snapshot()
    part.close()
    path.write_bytes(b"")
    with pytest.raises(StateError, match="cut, replaced or lost"):
        opened(path, state)


def test_kill_9(tmp_path: Path) -> None:
    """A flow that is killed again and again while it begins new files ends with each line once."""
    recovery, state = tmp_path / "recovery", tmp_path / "state"
    recovery.mkdir()
    init_db_dir(recovery, 1)
    path, total = state / "windows.jsonl", 24 * 200
    for kill in range(5):
        child = subprocess.Popen([sys.executable, str(FLOW), str(recovery), str(state), str(total)])
        try:
            if kill < 4:
                enough = len(daily_files(path)) + 15
                eventually(lambda: len(daily_files(path)) >= enough or child.poll() is not None, 60)  # noqa: B023
                child.send_signal(signal.SIGKILL)
                child.wait(60)
            else:
                assert child.wait(100) == 0
        finally:
            child.kill()
            child.wait()
    assert numbers(path) == list(range(total))
    assert len(daily_files(path)) == 199
