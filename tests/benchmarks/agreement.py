"""Whether two programs found the same windows, within what the contract promises of each figure."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

__all__ = ["disagreement"]

QUANTILES = ("p50", "p95", "p99")


def disagreement(one: Path, other: Path, *, latency_ms: float = 1e-6) -> str:
    """The first difference between two files of windows, in any order; nothing if they agree.

    `latency_ms` is how much latencies may differ.
    """
    windows, others = _windows(one), _windows(other)
    if windows.keys() != others.keys():
        return f"{len(windows.keys() - others.keys())} windows are missing, {len(others.keys() - windows.keys())} extra"
    for key, window in windows.items():
        for group in ("latency_ms", "packet_loss"):
            for name, value in window[group].items():
                exact = latency_ms if group == "latency_ms" else 1e-6
                tolerance = 0.01 * abs(value) if name in QUANTILES else exact
                found = others[key][group][name]
                if not math.isclose(found, value, rel_tol=0.0, abs_tol=tolerance):
                    return f"{key}: {group}.{name} is {found!r}, not {value!r}"
        if window["frames"] != others[key]["frames"]:
            return f"{key}: {others[key]['frames']} frames, not {window['frames']}"
    return ""


def _windows(path: Path) -> dict[tuple[str, float, float], dict[str, Any]]:
    rows = (json.loads(line) for line in path.read_bytes().splitlines())
    windows = {}
    for row in rows:
        key = (row["conversation_id"], float(row["start"]), float(row["end"]))
        if key in windows:
            raise ValueError(f"{path}: the window {key} is there twice")
        windows[key] = row
    return windows
