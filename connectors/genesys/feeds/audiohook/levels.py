"""One-way and dead audio: how loud each channel of a stereo stream is, and which one is silent. Pure.

The samples are µ-law (ITU-T G.711): a table gives the square of each byte's sample, and the level of a second of audio
is the mean of its squares against full scale (2^15), in dBFS. Digital silence has no level; it is reported as -99.
Nothing is kept of the audio but the sums of the second that is under way.

========================  ======================================================================================
`ONE_WAY_AUDIO`           one channel has been silent for `silent_after_s` while the other was not
`DEAD_AIR`                both channels have been silent for `silent_after_s`
========================  ======================================================================================

Time is that of the stream, so that a burst of late audio keeps its length. A pause begins all counts again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from connectors.genesys.feeds.audiohook.messages import RATE_HZ

__all__ = ["FLOOR_DBFS", "MU_LAW", "AudioChange", "Levels", "Silence"]

FLOOR_DBFS: Final = -99.0
ONE_WAY: Final = "ONE_WAY_AUDIO"
DEAD_AIR: Final = "DEAD_AIR"


class Silence(NamedTuple):
    """What counts as silence: a level below `dbfs`, and an alert after `after_s` seconds of it."""

    dbfs: float
    after_s: float


class AudioChange(NamedTuple):
    """A fault of the audio has begun or ended. `channel` is the silent one, None for both; `reason` is why it ended.

    `dbfs` is the level of the last second; `silent_s` is how long the silence has lasted, in seconds of the stream.
    """

    rule: str
    state: str
    channel: str | None
    reason: str | None
    dbfs: float
    silent_s: float


def _mu_law() -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Return the sample of each byte, 16 bits: ITU-T G.711, table 2a, times 4."""
    inverted = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = (((inverted & 0x0F) << 3) + 0x84 << ((inverted & 0x70) >> 4)) - 0x84
    return np.where(inverted & 0x80, -magnitude, magnitude).astype(np.int32)


MU_LAW: Final = _mu_law()
"""The sample of each byte, int32 (256,)."""
_SQUARES: Final = MU_LAW.astype(np.float64) ** 2


class Levels:
    """The two channels of one session, by name."""

    def __init__(self, channels: Sequence[str], silence: Silence) -> None:
        self._channels = tuple(channels)
        self._silence = silence
        self._pieces: list[bytes] = []
        self._samples = 0
        self._silent_s = [0.0, 0.0]
        self._open: set[tuple[str, str | None]] = set()

    def audio(self, data: bytes) -> list[AudioChange]:
        """Take in interleaved samples; return what has begun or ended with a second that is complete by now."""
        self._pieces.append(data)
        self._samples += len(data) // 2
        if self._samples < RATE_HZ:
            return []
        levels = _levels(b"".join(self._pieces))
        seconds = self._samples / RATE_HZ
        self._forget_audio()
        for at, level in enumerate(levels):
            self._silent_s[at] = self._silent_s[at] + seconds if level < self._silence.dbfs else 0.0
        return self._changes(levels)

    def pause(self) -> list[AudioChange]:
        """Restart after a pause; return the ends of what is open."""
        ended = [AudioChange(rule, "resolved", name, "paused", FLOOR_DBFS, 0.0) for rule, name in self._ordered()]
        self._open.clear()
        self._silent_s = [0.0, 0.0]
        self._forget_audio()
        return ended

    def _forget_audio(self) -> None:
        self._pieces.clear()
        self._samples = 0

    def _ordered(self) -> list[tuple[str, str | None]]:
        return sorted(self._open, key=lambda fault: (fault[0], fault[1] or ""))

    def _changes(self, levels: Sequence[float]) -> list[AudioChange]:
        after_s, silent_s = self._silence.after_s, self._silent_s
        found = []
        for at, name in enumerate(self._channels):
            fault = (ONE_WAY, name)
            if fault in self._open:
                if not silent_s[at]:
                    self._open.discard(fault)
                    found.append(AudioChange(ONE_WAY, "resolved", name, "recovered", levels[at], 0.0))
            elif silent_s[at] >= after_s > silent_s[1 - at]:
                self._open.add(fault)
                found.append(AudioChange(ONE_WAY, "raised", name, None, levels[at], silent_s[at]))
        dead = (DEAD_AIR, None)
        loudest, both_s = max(levels), min(silent_s)
        if dead in self._open:
            if not both_s:
                self._open.discard(dead)
                found.append(AudioChange(DEAD_AIR, "resolved", None, "recovered", loudest, 0.0))
        elif both_s >= after_s:
            self._open.add(dead)
            found.append(AudioChange(DEAD_AIR, "raised", None, None, loudest, both_s))
        return found


def _levels(data: bytes) -> list[float]:
    """Return the levels of two interleaved channels, in dBFS."""
    samples = np.frombuffer(data, np.uint8)
    # Counting how often each byte occurs is twenty times as fast as looking each one up.
    counts = (np.bincount(samples[at::2], minlength=256) for at in (0, 1))
    return [_dbfs(float(count @ _SQUARES) / (len(samples) // 2)) for count in counts]


def _dbfs(mean_square: float) -> float:
    if not mean_square:
        return FLOOR_DBFS
    return round(max(10 * math.log10(mean_square / 2.0**30), FLOOR_DBFS), 2)
