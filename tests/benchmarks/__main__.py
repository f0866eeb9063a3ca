"""`make bench`: run the rows, print the table, keep it as JSON in build/bench/results.json.

ROWS names those to run (`make bench ROWS=1000,memory`), SMALL=1 takes less of everything, ROUNDS is how often.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

from tests.benchmarks.measure import ROOT, Measured
from tests.benchmarks.rows import ROWS, Scale

__all__: list[str] = []

RESULTS = ROOT / "build" / "bench" / "results.json"


def main() -> None:
    """Run what the environment asks for."""
    names = [name for name in os.environ.get("ROWS", "").replace(",", " ").split() if name] or list(ROWS)
    unknown = sorted(set(names) - set(ROWS))
    if unknown:
        sys.exit(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    small = os.environ.get("SMALL") == "1"
    rounds = int(os.environ.get("ROUNDS", "3" if small else "5"))
    scale = Scale(rounds, 400_000, 1_000_000, 2_000_000, 60_000, 6.0) if small else Scale(rounds)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    print(_machine(), f"rounds {rounds}", sep="; ")
    print(_HEAD)
    results = []
    for name in (row for row in ROWS if row in names):
        for result in ROWS[name](scale):
            print(_line(result), flush=True)
            results.append({"row": name, **result.as_json()})
    RESULTS.write_text(json.dumps({"machine": _machine(), "rounds": rounds, "small": small, "results": results}))


_HEAD = f"{'':42} {'median':>10} {'min - max':>19} {'by CPU':>8} {'target':>10}   {'of: rate':>12} {'to: rate':>12}"


def _line(result: Measured) -> str:
    sign = ">=" if result.at_least else "<="
    wanted = f"{sign} {_figure(result.target)}"
    if not result.samples:
        return f"{result.name:42} {'skipped: ' + result.note}"
    spread = f"{_figure(min(result.samples))} - {_figure(max(result.samples))}"
    by_cpu = _figure(sorted(result.by_cpu)[len(result.by_cpu) // 2]) if result.by_cpu else ""
    rates = "{:>12} {:>12}".format(*map(_figure, result.rates)) if result.rates else " " * 25
    met = "met" if result.met else "MISSED"
    median = f"{_figure(result.median)} {result.unit}"
    return f"{result.name:42} {median:>10} {spread:>19} {by_cpu:>8} {wanted:>10}   {rates}   {met}"


def _figure(value: float) -> str:
    if value >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.machine())
    return f"{os.cpu_count()} x {model}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
