"""The bar on standard error, and the line of a run: only on a terminal, and never in the way of a result."""

from __future__ import annotations

from pathlib import Path

from connectors.journal.recording import Recording
from flows.cli.status_line import Backlog
from tests.support.cli import ROOT, voicewatch
from tests.support.terminal import on_terminal

RECORDING = ROOT / "tests" / "data" / "three-minutes.jsonl"
BAR = """
from flows.cli.progress import progress_bar
with progress_bar("Reading", patience_s={patience}) as show:
    for done in range(0, 1001, 250):
        show(done * 1_000_000, 1_000_000_000)
print("done")
"""
LINE = """
import sys
from pathlib import Path
from flows.analytics.merge import Counts
from flows.cli.status_line import StatusLine
line = StatusLine(sys.stderr)
print("first", file=line)
line.show("12 frames " + "x" * 100)
print("a log line", file=line)
line.show("")
print("last", file=line)
"""


def test_a_long_command_shows_how_far_it_is() -> None:
    """A bar with share, rate and time left, gone at the end."""
    with on_terminal(columns=80, script=BAR.format(patience=-1)) as terminal:
        assert terminal.ended() == 0
    for text in ("Reading", "0%", "left", "\x1b[2K"):
        assert text in terminal.shown
    assert terminal.shown.splitlines()[-1].endswith("done")


def test_a_short_command_shows_nothing() -> None:
    """What ends at once draws no bar."""
    with on_terminal(columns=80, script=BAR.format(patience=60)) as terminal:
        assert terminal.ended() == 0
    assert terminal.shown == "done\n"


def test_results_are_the_same_with_a_terminal(tmp_path: Path) -> None:
    """Standard output in a file has no trace of the bar, whether standard error is a terminal or not."""
    with (
        (tmp_path / "out").open("wb") as file,
        on_terminal(
            "backtest", RECORDING, "--sweep", "alerts.max_latency_ms=100:200:50", columns=80, stdout=file.fileno()
        ) as one,
    ):
        assert one.ended() == 0
    piped = voicewatch("backtest", RECORDING, "--sweep", "alerts.max_latency_ms=100:200:50")
    assert (tmp_path / "out").read_text() == piped.stdout
    assert piped.stderr == ""


def test_what_is_logged_goes_above_the_line() -> None:
    """The line is cleared before a log line, drawn again behind it, cut at the width, and gone at the end."""
    with on_terminal(columns=40, script=LINE) as terminal:
        assert terminal.ended() == 0
    shown = "12 frames " + "x" * 29
    clear = "\r\x1b[K"
    assert terminal.shown == f"first\n{clear}{shown}{clear}a log line\n{shown}{clear}last\n"


def test_bytes_on_the_disk_are_counted(tmp_path: Path) -> None:
    """Plain, gzip and Zstandard: at the end as many bytes are done as the files have."""
    import gzip

    from backports import zstd

    data = RECORDING.read_bytes()
    packed = {"r.jsonl": data, "r.jsonl.gz": gzip.compress(data), "r.jsonl.zst": zstd.compress(data)}
    for name, content in packed.items():
        (tmp_path / name).write_bytes(content)
        recording = Recording([tmp_path / name])
        assert recording.progress == (0, len(content))
        seen = [recording.progress[0] for _ in recording.chunks(0, 0, 1 << 16)]
        assert seen == sorted(seen)
        assert recording.progress == (len(content), (tmp_path / name).stat().st_size)


def test_a_long_start_shows_what_is_left_of_the_journal() -> None:
    """With the rate since it began and the seconds left, and nothing once the run keeps up."""
    times = iter([10.0, 12.0, 14.0, 20.0])
    backlog = Backlog(lambda: next(times))
    assert backlog.text(1000) == ""
    assert backlog.text(900_000_000) == "reading the journal: 900 MB left"
    assert backlog.text(700_000_000) == "reading the journal: 700 MB left, 100.0 MB/s, 7 s"
    assert backlog.text(500_000_000) == "reading the journal: 500 MB left, 100.0 MB/s, 5 s"
    assert backlog.text(1000) == ""
    assert backlog.text(600_000_000) == "reading the journal: 600 MB left"
