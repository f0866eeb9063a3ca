"""Replays by several processes: the bytes that one process writes, whatever is in the recording."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import random
import re
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from backports import zstd

from connectors.format.decode import BULK_BYTES
from connectors.journal.blocks import Block
from flows.analytics.merge import BlockResult, Merger
from flows.analytics.precedence import Overrides
from flows.analytics.shard import Shard
from flows.commands.replay_team import divide
from tests.flows.analytics.test_groups import CONVERSATIONS, group_lines
from tests.support.callbacks import eventually
from tests.support.cli import running, several, voicewatch
from tests.support.recordings import blocks_of, nasty_lines, nasty_overrides

RESULTS = ("windows", "groups", "alerts", "rejected")


def reports(blocks: Sequence[Sequence[bytes]], count: int, overrides: Overrides) -> list[BlockResult]:
    """Return the reports of a recording that `count` processes divide, without the processes."""
    shards, merger = [Shard(overrides) for _ in range(count)], Merger(count)
    found: list[BlockResult] = []
    line = 1
    for number, lines in enumerate(blocks):
        data = b"".join(line + b"\n" for line in lines)
        stats, of_all = divide(Block(number, "file", line, data, last=number == len(blocks) - 1), count)
        merger.add_stats(stats)
        for shard, parts in zip(shards, of_all, strict=True):
            merger.add_results(number, [shard.apply(part) for part in pickle.loads(pickle.dumps(parts))])
        # The place of an alert counts those of its process only.
        found += [
            report._replace(alerts=[alert._replace(place=0) for alert in report.alerts]) for report in merger.results()
        ]
        line += len(lines)
    return found


@pytest.mark.parametrize("seed", range(14))
def test_any_number_of_processes_gives_the_same_reports(seed: int) -> None:
    """Windows, groups, alerts with what inhibits and caps them, rejected lines, counts: of random recordings."""
    rng = random.Random(seed)
    lines = group_lines(rng, 400) if seed % 2 else nasty_lines(rng.choice, 300)
    overrides = Overrides() if seed % 2 else nasty_overrides(rng.choice)
    blocks = blocks_of(lines, sorted(rng.sample(range(len(lines)), rng.choice([0, 3, 30]))))
    whole = reports(blocks, 1, overrides)
    for count in (2, 3, 4):
        assert reports(blocks, count, overrides) == whole


def frames(begin: float, count: int) -> list[bytes]:
    """Lines of one layout, as a journal has them: a third of the conversations breach."""
    lines = []
    for number in range(count):
        at = round(begin + number * 0.003, 3)
        one = CONVERSATIONS[number % len(CONVERSATIONS)]
        late_s = 0.35 if number % 3000 < 1000 and len(one) % 2 else 0.06
        metrics = {"packetLoss": number % 7 / 1000, "jitter": 2.5}
        frame = {"event": "conversation.updated", "entity": {"id": one}, "timestamp": round(at - late_s, 3)}
        line = {"received_at": at, "frame": frame | {"metrics": metrics}}
        lines.append(json.dumps(line, separators=(",", ":")).encode())
    return lines


def recording(directory: Path, *, misleading: bool) -> Path:
    """Write files, packed and plain, with groups, a cap of alerts, rejected lines, large blocks and a torn end."""
    directory.mkdir()
    first = group_lines(random.Random(5), 300)
    end = json.loads(first[-1])["received_at"] + 60
    settings = json.loads(first[0])["settings"]
    settings["alerts"] = {**settings["alerts"], "max_per_minute": 3, "unwatched": "default"}
    settings["groups"] = {**settings["groups"], "by": ["queue", "edge"], "min_conversations": 1}
    second = [json.dumps({"received_at": end, "settings": settings}).encode(), *frames(end, BULK_BYTES // 100)]
    second[10:10] = [b"nonsense", b"", b'{"received_at":1}']
    third = frames(end + 100_000, BULK_BYTES // 100)
    if misleading:
        second[3000:3000] = [second[3000][:130]]
        third[3000:3000] = [third[3000][:-1] + b',"received_at":9e9}']
    (directory / "00000001.jsonl").write_bytes(gzip.compress(b"\n".join(first) + b"\n"))
    (directory / "00000002.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(second) + b"\n")
    (directory / "00000003.jsonl.zst").write_bytes(zstd.compress(b"\n".join(third) + b'\n{"received_at":17'))
    return directory


@pytest.mark.parametrize("misleading", [False, True])
def test_processes_write_what_one_process_writes(tmp_path: Path, *, misleading: bool) -> None:
    """Two, three and four processes, over several files; also when lines are not what they begin as."""
    recorded = recording(tmp_path / "recorded", misleading=misleading)
    outs = [tmp_path / f"out-{count}" for count in (1, 2, 3, 4)]
    done = several(
        [
            ["replay", recorded, "--out", out, "--processes", count]
            for count, out in zip((1, 2, 3, 4), outs, strict=True)
        ]
    )
    assert [one.returncode for one in done] == [0] * 4, done
    for out in outs[1:]:
        assert [(out / f"{name}.jsonl").read_bytes() for name in RESULTS] == [
            (outs[0] / f"{name}.jsonl").read_bytes() for name in RESULTS
        ]
        assert not (out / "PARTIAL").exists()
    summaries = [one.stdout.splitlines()[:-1] for one in done]
    assert summaries[1:] == summaries[:1] * 3
    assert all((outs[0] / f"{name}.jsonl").stat().st_size for name in RESULTS)
    assert b"ALERT_STORM" in (outs[0] / "alerts.jsonl").read_bytes()


def test_what_is_wrong_is_said_once(tmp_path: Path) -> None:
    """A damaged file, and what several processes cannot do, are one line each."""
    recorded = recording(tmp_path / "recorded", misleading=False)
    packed = recorded / "00000003.jsonl.zst"
    packed.write_bytes(packed.read_bytes()[:-100])
    one, two = (voicewatch("replay", recorded, "--out", tmp_path / "out", "--processes", n) for n in (1, 2))
    assert (two.returncode, two.stderr) == (one.returncode, one.stderr)
    assert "cannot be read" in two.stderr
    paced = voicewatch("replay", recorded, "--out", tmp_path / "out", "--processes", 2, "--speed", 2)
    assert paced.returncode == 2
    assert "--speed" in paced.stderr
    assert paced.stderr.count("\n") == 1


def big(directory: Path) -> Path:
    """Write a recording that takes a while: a minute of frames, and the same lines again, which count as later."""
    path = directory / "big.jsonl"
    lines = b"\n".join(frames(1_700_000_000, 20_000)) + b"\n"
    with path.open("wb") as file:
        file.writelines([lines] * 40)
    return path


def test_a_process_that_dies_ends_the_replay(tmp_path: Path) -> None:
    """With one line that says so, exit 1, and no process left; a signal stops all, and says where."""
    path = big(tmp_path)
    config = tmp_path / "voicewatch.toml"
    config.write_text('[alerts]\nunwatched = "default"\n')
    arguments = ["replay", path, "--out", tmp_path / "out", "--processes", "3", "--config", config]
    windows = tmp_path / "out/windows.jsonl"
    with running(tmp_path, *map(str, arguments)) as process:
        eventually(lambda: windows.exists() and windows.stat().st_size > 0, 60)
        team = children_of(process.process.pid)
        os.kill(team[1], signal.SIGKILL)
        assert process.wait() == 1, process.log
    assert re.fullmatch(r"voicewatch: a process of the replay died \(exit code -9\); [^\n]*\n", process.log)
    assert not any(Path(f"/proc/{one}").exists() for one in team)
    windows.unlink()
    with running(tmp_path, *map(str, arguments)) as process:
        eventually(lambda: windows.exists() and windows.stat().st_size > 0, 60)
        assert process.stop() == 128 + signal.SIGTERM, process.log
    assert re.search(r"^interrupted at .*Z, line [1-9][0-9]* of .*big.jsonl: the results", process.output, re.MULTILINE)
    assert "interrupted at" in (tmp_path / "out/PARTIAL").read_text()


def children_of(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def is_running(process: int) -> bool:
    """Tell whether a process is there, and not only waits for its end to be noticed."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_no_process_outlives_the_replay(tmp_path: Path) -> None:
    """When the replay is killed, its processes end, which wait for each other, for their blocks, or for a reader."""
    path = big(tmp_path)
    windows = tmp_path / "out/windows.jsonl"
    config = tmp_path / "voicewatch.toml"
    config.write_text('[alerts]\nunwatched = "default"\n')
    arguments = ["replay", path, "--out", tmp_path / "out", "--processes", "3", "--config", config]
    with running(tmp_path, *map(str, arguments)) as process:
        eventually(lambda: windows.exists() and windows.stat().st_size > 0, 60)
        team = children_of(process.process.pid)
        assert len(team) == 3
        process.process.kill()
        process.process.wait()
        eventually(lambda: not any(map(is_running, team)), 60)
