"""The rows of the table: what is run, and what is wanted of it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from connectors.format.owners import Share
from tests.benchmarks import live
from tests.benchmarks.agreement import disagreement
from tests.benchmarks.audiohook import level_ratios
from tests.benchmarks.baselines import LATENCY_MS, OPTIONAL, SLOW, WINDOWED
from tests.benchmarks.eventbridge import acknowledged
from tests.benchmarks.measure import ROOT, Cost, Measured, Ratio, Run, environ, interleaved, measured, python, spent

__all__ = ["ROWS", "Scale"]

BENCH: Final = ROOT / "build" / "bench"
OUT: Final = BENCH / "out"
REPLAY_FLOW: Final = "tests.support.replay_flow"


@dataclass(frozen=True)
class Scale:
    """How much of everything: `frames` in most recordings, `many` where the length matters, `few` where not."""

    rounds: int
    frames: int = 1_000_000
    many: int = 4_000_000
    most: int = 10_000_000
    few: int = 200_000
    live_s: float = 20.0


def compared(scale: Scale, conversations: int, targets: dict[str, float]) -> Iterator[Measured]:
    """The replay against each of the baselines over the same recording.

    Against the slow ones also over a longer recording, to which starting matters less. They would take minutes for it,
    and be no faster.
    """
    whole, long = recording(scale.frames, conversations), recording(scale.many, conversations)
    part = recording(scale.few, conversations)
    for name in sorted(set(targets) & set(OPTIONAL)):
        if importlib.util.find_spec(name) is None:
            target = targets.pop(name)
            note = f"{name} is not installed"
            yield Measured(f"replay {conversations} / {name}", "x", target, at_least=True, samples=[], note=note)
    for name in sorted(set(targets) & set(WINDOWED)):
        check(name, part)
    of = f"replay {conversations}"
    of_long = f"{of}, {scale.many:,} frames"
    runs = [Run(of, scale.frames, lambda: replay(whole)), Run(of_long, scale.many, lambda: replay(long))]
    runs += [baseline(name, whole, scale.frames) for name in targets]
    costs = interleaved(runs, scale.rounds)
    for name, target in targets.items():
        yield measured(Ratio(f"{of} / {name}", of, name, target), costs)
        if name in SLOW:
            yield measured(Ratio(f"{of_long} / {name}", of_long, name, target), costs)


def thousand(scale: Scale) -> Iterator[Measured]:
    """1,000 conversations."""
    targets = {"stock": 30, "documented": 100, "plain": 4, "parse": 0.9, "duckdb": 0.7, "pathway": 30}
    yield from compared(scale, 1000, targets)


def twenty_thousand(scale: Scale) -> Iterator[Measured]:
    """20,000 conversations."""
    yield from compared(scale, 20_000, {"stock": 50, "duckdb": 0.7})


def shapes(scale: Scale) -> Iterator[Measured]:
    """Few and many conversations, and a storm of alerts."""
    paths = {str(count): recording(scale.frames, count) for count in (50, 1000, 20_000)}
    paths["storm"] = recording(scale.frames, 1000, "storm")
    runs = [Run(name, scale.frames, lambda path=path: replay(path)) for name, path in paths.items()]  # type: ignore[misc]
    costs = interleaved(runs, scale.rounds)
    yield measured(Ratio("cost a frame, 20,000 / 50 conversations", "50", "20000", 2.0, at_least=False), costs)
    yield measured(Ratio("alert storm / healthy", "storm", "1000", 0.5), costs)


def recovery(scale: Scale) -> Iterator[Measured]:
    """Recovery with a snapshot each second, over a recording long enough for several."""
    path = recording(scale.many, 20_000)
    runs = [Run("off", scale.many, lambda: in_bytewax(path)), Run("on", scale.many, lambda: in_bytewax(path, snaps=1))]
    costs = interleaved(runs, scale.rounds)
    yield measured(Ratio("recovery on / off, 20,000 conversations", "on", "off", 0.9), costs)
    command = python("-m", "tests.benchmarks.snapshot", recording(scale.frames, 20_000))
    samples = [float(output(command)) for _ in range(scale.rounds)]
    yield Measured("one snapshot, 20,000 conversations", "ms", 50, at_least=False, samples=samples)


def journal(scale: Scale) -> Iterator[Measured]:
    """The journal's writer against the disk."""
    path = recording(scale.frames, 1000)

    def spend(how: str) -> Cost:
        told = json.loads(output(python("-m", "tests.benchmarks.append", how, path, fresh(OUT))))
        return Cost(told["wall_s"] / told["bytes"], told["cpu_s"] / told["bytes"], 0.0)

    runs = [Run(how, 1e-6, lambda how=how: spend(how)) for how in ("journal", "disk")]  # type: ignore[misc]
    costs = interleaved(runs, scale.rounds)
    yield measured(Ratio("journal append / disk (MB/s)", "journal", "disk", 0.5), costs)


def memory(scale: Scale) -> Iterator[Measured]:
    """The peak of a long replay, and of one a tenth as long."""
    long, short = recording(scale.most, 20_000), recording(scale.most // 10, 20_000)
    peaks = [[replay(path).peak_mib * 1.048576 for path in (long, short)] for _ in range(min(scale.rounds, 2))]
    yield Measured(f"peak memory, {scale.most:,} frames", "MB", 200, at_least=False, samples=[one for one, _ in peaks])
    ratios = [one / other for one, other in peaks]
    yield Measured("peak memory, ten times the frames", "x", 1.1, at_least=False, samples=ratios)


def cluster(scale: Scale) -> Iterator[Measured]:
    """Two processes against one, which must write the same."""
    path = recording(scale.many, 1000)

    def one() -> Cost:
        return in_bytewax(path, out=OUT / "one")

    def two() -> Cost:
        cost = in_bytewax(path, out=OUT / "two", processes=2)
        for name in ("windows.jsonl", "alerts.jsonl"):
            if (OUT / "one" / name).read_bytes() != (OUT / "two" / name).read_bytes():
                raise RuntimeError(f"two processes write another {name} than one")
        return cost

    one()
    costs = interleaved([Run("one", scale.many, one), Run("two", scale.many, two)], scale.rounds)
    yield measured(Ratio(f"two processes / one, {scale.many:,} frames", "two", "one", 1.6), costs)


def processes(scale: Scale) -> Iterator[Measured]:
    """Two processes of a replay against their ceiling: two replays of half of the conversations, side by side."""
    whole = recording(scale.many, 1000)
    parts = [half(whole, index) for index in range(2)]

    def divided() -> Cost:
        cost = voicewatch("replay", whole, "--out", fresh(OUT / "divided"), "--processes", 2)
        for name in ("windows.jsonl", "alerts.jsonl"):
            if (OUT / "replay" / name).read_bytes() != (OUT / "divided" / name).read_bytes():
                raise RuntimeError(f"two processes write another {name} than one")
        return cost

    def independent() -> Cost:
        command = python("-c", "from flows.cli import main; main()", "replay")
        return spent(*([*command, str(part), "--out", str(fresh(OUT / part.stem))] for part in parts), ahead_s=0)

    replay(whole)
    runs = [Run("divided", scale.many, divided), Run("independent", scale.many, independent)]
    runs.append(Run("alone", scale.many, lambda: replay(whole)))
    costs = interleaved(runs, scale.rounds)
    of = f"replay --processes 2, {scale.many:,} frames"
    yield measured(Ratio(f"{of} / two independent replays of half each", "divided", "independent", 0.85), costs)
    yield measured(Ratio(f"{of} / one process", "divided", "alone", 1.2), costs)


def latency(scale: Scale) -> Iterator[Measured]:
    """From a frame at the socket to its callback."""
    for rate in (1000, 10_000):
        found = [live.latency(fresh(OUT), rate, scale.live_s) for _ in range(scale.rounds)]
        at = f"frame to callback, {rate:,} frames/s"
        yield Measured(f"{at}, p50", "ms", 8, at_least=False, samples=[one.p50_ms for one in found])
        yield Measured(f"{at}, p99", "ms", 25, at_least=False, samples=[one.p99_ms for one in found])


def page(scale: Scale) -> Iterator[Measured]:
    """What the live page, with a viewer, adds to the latency of the run beside it."""
    ratios = []
    for number in range(scale.rounds):
        pair = {
            with_page: live.latency(fresh(OUT), 10_000, scale.live_s, page=with_page).p99_ms
            for with_page in ((False, True) if number % 2 else (True, False))
        }
        ratios.append(pair[True] / pair[False])
    yield Measured("p99 with the live page / without, 10,000 frames/s", "", 1.1, at_least=False, samples=ratios)


def sustained(scale: Scale) -> Iterator[Measured]:
    """Live frames a second on one processor."""
    rates = [1000.0 * thousands for thousands in (20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120, 140, 160, 200)]
    samples = [live.sustained(fresh(OUT), rates, scale.live_s / 4) for _ in range(min(scale.rounds, 3))]
    yield Measured("live frames/s of one processor", "1/s", 100_000, at_least=True, samples=samples)


def idle(scale: Scale) -> Iterator[Measured]:
    """A run in which nothing happens."""
    samples = [100 * live.idle_cpu(fresh(OUT), scale.live_s) for _ in range(min(scale.rounds, 3))]
    yield Measured("idle, 1,000 quiet conversations", "% CPU", 3, at_least=False, samples=samples)


def eventbridge(scale: Scale) -> Iterator[Measured]:
    """Events over HTTP, each on the disk before it is acknowledged: many senders share a sync.

    A disk of 200 syncs a second is the limit unless a sync serves many; one of 7,000 is not.
    """
    found = [acknowledged(BENCH, 64, min(scale.live_s, 5.0)) for _ in range(min(scale.rounds, 3))]
    rates = [one.events_per_s for one in found]
    yield Measured("EventBridge, 64 connections", "events/s", 1000, at_least=True, samples=rates)


def audiohook(scale: Scale) -> Iterator[Measured]:
    """What the audio level costs 1,000 stereo AudioHook sessions with 10 messages a second each."""
    ratios = list(level_ratios(scale.rounds, 1000, 10.0, scale.live_s))
    yield Measured(
        "1,000 AudioHook sessions, CPU with audio level / without", "x", 1.25, at_least=False, samples=ratios
    )


def start(scale: Scale) -> Iterator[Measured]:
    """How long it takes to start."""
    ten = BENCH / "ten.jsonl"
    with recording(scale.few, 50).open("rb") as lines:
        ten.write_bytes(b"".join(line for line, _ in zip(lines, range(62), strict=False)))
    costs = interleaved(
        [Run("help", 1, lambda: voicewatch("--help")), Run("ten", 10, lambda: replay(ten))], scale.rounds
    )
    samples = {name: [cost.wall_s for _, cost in some] for name, some in costs.items()}
    yield Measured("voicewatch --help", "s", 0.3, at_least=False, samples=samples["help"])
    yield Measured("replay of ten frames", "s", 1.0, at_least=False, samples=samples["ten"])


def labels(scale: Scale) -> Iterator[Measured]:
    """Five labels a watch against none, and groups of the conversations of a queue against none."""
    options = {"plain": (), "labels": ("labels",), "groups": ("labels", "groups")}
    paths = {name: recording(scale.frames, 1000, *more) for name, more in options.items()}
    runs = [Run(name, scale.frames, lambda path=path: replay(path)) for name, path in paths.items()]  # type: ignore[misc]
    costs = interleaved(runs, scale.rounds)
    yield measured(Ratio("5 labels a watch / none", "labels", "plain", 0.95), costs)
    yield measured(Ratio("groups by queue / none", "groups", "labels", 0.9), costs)


def report(scale: Scale) -> Iterator[Measured]:
    """The report of a day of calls, as a page and as a file."""
    day = BENCH / f"day-{scale.frames}"
    if not day.exists():
        BENCH.mkdir(parents=True, exist_ok=True)
        spent(python("-m", "tests.benchmarks.day", day, scale.frames))
    page = BENCH / "report.html"
    costs = [voicewatch("report", day, "--out", page) for _ in range(scale.rounds)]
    of = f"report of a day, {scale.frames:,} frames"
    yield Measured(of, "s", 10, at_least=False, samples=[cost.wall_s for cost in costs])
    yield Measured(f"{of}, its size", "MB", 5, at_least=False, samples=[page.stat().st_size / 1e6])


def backtest(scale: Scale) -> Iterator[Measured]:
    """Ten rule sets over a recording against one replay of it."""
    path = recording(scale.frames, 1000)
    sweep = "alerts.max_latency_ms=100:280:20"
    runs = [
        Run("backtest", scale.frames, lambda: voicewatch("backtest", path, "--sweep", sweep)),
        Run("replay", scale.frames, lambda: replay(path)),
    ]
    costs = interleaved(runs, scale.rounds)
    pairs = list(zip(costs["backtest"], costs["replay"], strict=True))
    wall = [one.wall_s / base.wall_s for (_, one), (_, base) in pairs]
    cpu = [one.cpu_s / base.cpu_s for (_, one), (_, base) in pairs]
    yield Measured("cost of 10 rule sets / one replay", "x", 2.5, at_least=False, samples=wall, by_cpu=cpu)


# Run in this order. Memory comes first, for the peak of a child counts from what this process has taken by then.
ROWS: Final[dict[str, Callable[[Scale], Iterator[Measured]]]] = {
    "memory": memory,
    "1000": thousand,
    "20000": twenty_thousand,
    "shapes": shapes,
    "labels": labels,
    "recovery": recovery,
    "journal": journal,
    "cluster": cluster,
    "processes": processes,
    "latency": latency,
    "page": page,
    "sustained": sustained,
    "idle": idle,
    "eventbridge": eventbridge,
    "audiohook": audiohook,
    "start": start,
    "report": report,
    "backtest": backtest,
}


def recording(frames: int, conversations: int, *options: str) -> Path:
    """Return a recording, made on first use with these options of `generate` and kept."""
    path = BENCH / f"{'-'.join(options) or 'healthy'}-{conversations}-{frames}.jsonl"
    if not path.exists():
        BENCH.mkdir(parents=True, exist_ok=True)
        more = [f"--{option}" for option in options]
        spent(python("-m", "tests.benchmarks.generate", path, frames, conversations, *more))
    return path


def half(path: Path, index: int) -> Path:
    """The frames of half of the conversations of a recording, made on first use and kept; all other lines."""
    part = path.with_name(f"{path.stem}-{index}-of-2.jsonl")
    if not part.exists():
        share, mine = Share(index, 2), dict[bytes, bool]()
        with path.open("rb") as lines, part.with_suffix(".new").open("wb") as file:
            for line in lines:
                one = line.partition(b'"entity":{"id":"')[2][:36]
                if one not in mine:
                    mine[one] = not one or share.owns_text(one.decode())
                if mine[one]:
                    file.write(line)
        part.with_suffix(".new").rename(part)
    return part


def fresh(directory: Path) -> Path:
    """The directory, emptied."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def voicewatch(*arguments: object) -> Cost:
    """The command, to its end."""
    return spent(python("-c", "from flows.cli import main; main()", *arguments))


def replay(path: Path) -> Cost:
    """The whole job over a recording."""
    return voicewatch("replay", path, "--out", fresh(OUT / "replay"))


def baseline(name: str, path: Path, frames: int) -> Run:
    """A baseline over a recording."""
    return Run(name, frames, lambda: spent(python("-m", "tests.benchmarks.baselines", name, path, fresh(OUT / name))))


def check(name: str, path: Path) -> None:
    """Raise RuntimeError unless a baseline finds the windows that the replay finds."""
    replay(path)
    baseline(name, path, 1).spend()
    files = (OUT / out / "windows.jsonl" for out in ("replay", name))
    difference = disagreement(*files, latency_ms=LATENCY_MS[name])
    if difference:
        raise RuntimeError(f"{name} does another job than the replay: {difference}")


def in_bytewax(path: Path, *, out: Path = OUT / "flow", snaps: int = 0, processes: int = 1) -> Cost:
    """The replay's flow in Bytewax' own runner: with a snapshot every `snaps` seconds, in several processes."""
    source = fresh(BENCH / "source")
    os.link(path, source / path.name)
    flow = ["-m", "bytewax.run", REPLAY_FLOW]
    if snaps:
        store = BENCH / "recovery"
        shutil.rmtree(store, ignore_errors=True)
        subprocess.run(python("-m", "flows", "recovery", "init", store), check=True, env=environ())
        flow += ["-r", str(store), "-s", str(snaps), "-b", "0"]
    if processes > 1:
        addresses = ";".join(f"127.0.0.1:{2101 + number}" for number in range(processes))
        commands = [python(*flow, "-i", number, "-a", addresses) for number in range(processes)]
    else:
        commands = [python(*flow)]
    return spent(*commands, env={"RECORDING": str(source), "OUT": str(fresh(out))})


def output(command: list[str]) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environ(), cwd=ROOT).stdout
