"""Whole processes and what they cost, and ratios of costs that were measured side by side."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["ROOT", "Cost", "Measured", "Ratio", "Run", "environ", "interleaved", "measured", "python", "spent"]

ROOT = Path(__file__).parent.parent.parent
AHEAD_S = 0.15


class Cost(NamedTuple):
    """What a process took: seconds by the clock, seconds of processors, and memory at its peak."""

    wall_s: float
    cpu_s: float
    peak_mib: float


class Run(NamedTuple):
    """A thing to be run again and again; `work` is how much it does, in the unit that costs are compared in."""

    name: str
    work: float
    spend: Callable[[], Cost]


class Ratio(NamedTuple):
    """What is wanted of the speed (work in a second) of run `of`, as a multiple of that of run `to`."""

    name: str
    of: str
    to: str
    target: float
    at_least: bool = True


class Measured(NamedTuple):
    """A line of the table: samples of a figure, what was wanted of it, and by processor time what was a ratio.

    `rates` are the medians of work in a second of the two runs of a ratio. Without samples, `note` says why.
    """

    name: str
    unit: str
    target: float
    at_least: bool
    samples: list[float]
    by_cpu: list[float] = []  # noqa: RUF012 - never changed
    rates: tuple[float, float] | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """The median of the samples."""
        return statistics.median(self.samples)

    @property
    def met(self) -> bool | None:
        """Whether the median is what was wanted; None if nothing was measured."""
        if not self.samples:
            return None
        return self.median >= self.target if self.at_least else self.median <= self.target

    def as_json(self) -> dict[str, Any]:
        """The line for a program."""
        return {**self._asdict(), "median": self.median if self.samples else None, "met": self.met}


def python(*arguments: object) -> list[str]:
    """A command of the interpreter that runs this."""
    return [sys.executable, *map(str, arguments)]


def environ(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of what is measured: nothing of voicewatch's own that is set here, and modules compiled once."""
    left_out = ("VOICEWATCH_", "GENESYS_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return {**kept, "PYTHONPATH": str(ROOT), **(more or {})}


def spent(*commands: Sequence[str], env: Mapping[str, str] | None = None, ahead_s: float = AHEAD_S) -> Cost:
    """Run commands side by side to their end; the sum of their processor time, the largest of their memory.

    The first is a moment ahead: a Bytewax process that finds no other to talk to tries again after a whole second.

    Memory counts from this process', whose pages a child has until it becomes the command: keep it small. Raises
    RuntimeError with the output of a command that fails.
    """
    log = ROOT / "build" / "bench" / "output.txt"
    began = time.perf_counter()
    with log.open("w+b") as output:
        children = []
        for command in commands:
            children.append(subprocess.Popen(command, env=environ(env), stdout=output, stderr=output, cwd=ROOT))
            time.sleep(ahead_s if len(children) < len(commands) else 0)
        cpu_s = peak_mib = 0.0
        codes = []
        for child in children:
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            codes.append(child.returncode)
            cpu_s += usage.ru_utime + usage.ru_stime
            peak_mib = max(peak_mib, usage.ru_maxrss / 1024)
    wall_s = time.perf_counter() - began
    if any(codes):
        raise RuntimeError(f"{commands} ended with {codes}: {log.read_text()[-2000:]}")
    return Cost(wall_s, cpu_s, peak_mib)


def interleaved(runs: Sequence[Run], rounds: int) -> dict[str, list[tuple[Run, Cost]]]:
    """The costs of each run, by its name; all are run once in each round, in another order each time."""
    costs: dict[str, list[tuple[Run, Cost]]] = {run.name: [] for run in runs}
    for number in range(rounds):
        begin = number % len(runs)
        for run in (*runs[begin:], *runs[:begin]):
            cost = run.spend()
            costs[run.name].append((run, cost))
            print(f"  round {number + 1}: {run.name}: {cost.wall_s:.2f} s", file=sys.stderr, flush=True)
    return costs


def measured(ratio: Ratio, costs: Mapping[str, Sequence[tuple[Run, Cost]]]) -> Measured:
    """The ratio in each round, of runs that were made within it."""
    pairs = list(zip(costs[ratio.of], costs[ratio.to], strict=True))

    def ratios(seconds: Callable[[Cost], float]) -> list[float]:
        return [one.work / seconds(cost) / (two.work / seconds(base)) for (one, cost), (two, base) in pairs]

    def rate(name: str) -> float:
        return statistics.median(run.work / cost.wall_s for run, cost in costs[name])

    return Measured(
        ratio.name,
        "x",
        ratio.target,
        ratio.at_least,
        ratios(lambda cost: cost.wall_s),
        ratios(lambda cost: cost.cpu_s),
        (rate(ratio.of), rate(ratio.to)),
    )
