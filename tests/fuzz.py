"""Coverage-guided fuzzing with atheris: `make fuzz`, or `python -m tests.fuzz --seconds 60`.

Two targets, each in a process of its own: `frames`, the frame decoder, and `journal`, everything that reads journals
and recordings. What crashes or hangs one is kept in `.fuzz/` and ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["main"]

ROOT = Path(__file__).parent.parent
KEPT = ROOT / ".fuzz"
TARGETS = ("frames", "journal")
SECONDS_FOR_ONE = 20
MEMORY_MIB = 2048


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=int, default=60, help="how long for each target")
    parser.add_argument("--target", choices=TARGETS, help="fuzz this one, in this process")
    options = parser.parse_args()
    if options.target is not None:
        fuzz(options.target, options.seconds)
    KEPT.mkdir(exist_ok=True)
    failed = []
    for target in TARGETS:
        print(f"Fuzzing {target} for {options.seconds} s ...", flush=True)
        command = [sys.executable, "-m", "tests.fuzz", "--target", target, "--seconds", str(options.seconds)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
        last = [line for line in done.stderr.splitlines() if line.startswith(("Done ", "#"))][-2:]
        print("\n".join(last) if done.returncode == 0 else done.stderr[-6000:])
        if done.returncode:
            failed.append(target)
    print(f"CRASHED: {', '.join(failed)}; the inputs are in {KEPT}" if failed else "No crash.")
    return 1 if failed else 0


def fuzz(target: str, seconds: int) -> None:
    """Fuzz one target until the time is over, and end the process."""
    import atheris

    with atheris.instrument_imports(include=["connectors", "flows"]):
        test = _frames() if target == "frames" else _journal()
    with tempfile.TemporaryDirectory(prefix="voicewatch-fuzz-") as corpus:
        _seed(Path(corpus))
        limits = [f"-max_total_time={seconds}", f"-timeout={SECONDS_FOR_ONE}", f"-rss_limit_mb={MEMORY_MIB}"]
        atheris.Setup([sys.argv[0], corpus, *limits, f"-artifact_prefix={KEPT}/{target}-", "-max_len=65536"], test)
        atheris.Fuzz()


def _frames() -> Callable[[bytes], None]:
    from connectors.format.decode import decode_block, ended_conversation
    from connectors.format.records import Control, FrameLine, InvalidFrameError, Signalled, parse_line

    def test(data: bytes) -> None:
        decoded = decode_block(data)
        with contextlib.suppress(InvalidFrameError):
            ended_conversation(data)
        lines = data.split(b"\n")
        unfinished = lines.pop()
        lines += [unfinished] if unfinished else []
        rows: list[str] = []
        controls = bad = 0
        for line in lines:
            try:
                parsed = parse_line(line)
            except InvalidFrameError:
                bad += 1
            else:
                if isinstance(parsed, Signalled):
                    controls += len(parsed.signals)
                record = parsed.record if isinstance(parsed, Signalled) else parsed
                if isinstance(record, Control):
                    controls += 1
                elif record is not None:
                    rows.append((record.frame if isinstance(record, FrameLine) else record).entity.id)
        assert decoded.ids.texts() == rows, "another frame than by the definition"
        assert len(decoded.controls) == controls, "another control record than by the definition"
        assert len(decoded.rejected) + decoded.torn == bad, "another rejected line than by the definition"

    return test


def _journal() -> Callable[[bytes], None]:
    from connectors.errors import RecordingError
    from connectors.format.decode import decode_block
    from connectors.journal.recording import Recording
    from connectors.journal.segments import JournalTail, segments
    from connectors.journal.writer import Journal
    from flows.settings.models import Settings

    settings = Settings().flow_record()
    memory = Path("/dev/shm")
    parent = memory if memory.is_dir() else None

    def test(data: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="voicewatch-fuzz-", dir=parent) as place:
            directory = Path(place)
            path = directory / "00000001.jsonl"
            path.write_bytes(data)
            with contextlib.suppress(RecordingError):
                for chunk in Recording([path]).chunks(0, 0, 64):
                    decode_block(chunk)
            tail = JournalTail(directory, None)
            read = b""
            while (found := tail.read(16))[1]:
                read += found[1]
            tail.close()
            assert read == data[: data.rfind(b"\n") + 1], "the tail read something else"
            journal = Journal(directory, settings=settings)
            journal.frame(data)
            journal.close()
            for segment in segments(directory)[1:]:
                text = segment.read_bytes()
                assert len(text.splitlines()) == text.count(b"\n"), "a line was torn"
                decoded = decode_block(text.rpartition(b"\n")[0].rpartition(b"\n")[2] + b"\n")
                assert not decoded.rejected, f"the journal wrote what it cannot read: {decoded.rejected}"

    return test


def _seed(corpus: Path) -> None:
    """Lines of every kind to begin with, plain and packed."""
    import gzip

    from backports import zstd

    from tests.soak.calls import HOSTILE

    lines = (ROOT / "tests/data/three-minutes.jsonl").read_bytes().splitlines(keepends=True)
    kinds: dict[bytes, bytes] = {}
    for line in lines:
        kinds.setdefault(line.split(b",", 1)[-1][:10], line)
    texts = [*kinds.values(), b"".join(lines[:6])]
    texts += [message.encode() if isinstance(message, str) else message for message in HOSTILE]
    texts.append(b'{"event":"conversation.ended","entity":{"id":"c"},"timestamp":1.5,"receivedAt":2}\n')
    for number, text in enumerate(texts):
        (corpus / f"{number}").write_bytes(text[:65536])
        (corpus / f"{number}.gz").write_bytes(gzip.compress(text))
        (corpus / f"{number}.zst").write_bytes(zstd.compress(text))


if __name__ == "__main__":
    sys.exit(main())
