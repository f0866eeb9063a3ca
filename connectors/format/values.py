"""Numbers and times as messages spell them. Pure."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from connectors.format.limits import MAX_EPOCH_S

__all__ = ["epoch_seconds", "number_or_nan"]

_ISO_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?)(Z|[+-]\d\d:?\d\d)?")


def number_or_nan(value: Any) -> float:
    """Return a usable number, or NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        return np.nan
    return float(value)


def epoch_seconds(value: Any) -> float:
    """Return the epoch seconds of a time in seconds, milliseconds or ISO 8601 (UTC without a zone), or NaN."""
    if isinstance(value, str):
        return _iso_time(value)
    seconds = number_or_nan(value)
    if abs(seconds) > MAX_EPOCH_S:
        seconds /= 1000
    return seconds if abs(seconds) <= MAX_EPOCH_S else np.nan


def _iso_time(text: str) -> float:
    found = _ISO_TIME.fullmatch(text)
    if found is None:
        return np.nan
    try:
        seconds = int(np.datetime64(found[1], "us").astype(np.int64)) / 1e6
    except ValueError:  # such as a 13th month
        return np.nan
    zone = found[2] or "Z"
    if zone != "Z":
        minutes = int(zone[1:3]) * 60 + int(zone[-2:])
        seconds -= minutes * 60 if zone[0] == "+" else -minutes * 60
    return seconds if abs(seconds) <= MAX_EPOCH_S else np.nan
