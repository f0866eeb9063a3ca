"""The audio of generated calls: µ-law (ITU-T G.711) tones, comfort noise, hold music and silence. Pure.

Every sound is a loop of one second at 8000 samples a second, so that a chunk is a slice of it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["RATE", "Channel", "Sound", "Span", "chunk", "mu_law", "sound_at"]

RATE: Final = 8000
TURN_S: Final = 2.0

Channel = Literal["external", "internal"]
Sound = Literal["speech", "noise", "silence", "music"]
CHANNELS: Final[tuple[Channel, ...]] = ("external", "internal")

_BIAS = 132
_CLIP = 32_635


class Span(NamedTuple):
    """From `begins_s` to `ends_s` of a call, a channel carries this sound."""

    begins_s: float
    ends_s: float
    channel: Channel
    sound: Sound


def mu_law(samples: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Encode linear samples of 16 bits as µ-law.

    >>> mu_law(np.array([0, 32767, -32768, 8, -8])).tolist()
    [255, 128, 0, 254, 126]
    """
    magnitude = np.minimum(np.abs(samples), _CLIP) + _BIAS
    exponent = np.floor(np.log2(magnitude)).astype(np.int64) - 7
    mantissa = (magnitude >> (exponent + 3)) & 0x0F
    sign = np.where(samples < 0, 0x80, 0)
    encoded: NDArray[np.uint8] = (~(sign | (exponent << 4) | mantissa) & 0xFF).astype(np.uint8)
    return encoded


def sound_at(spans: tuple[Span, ...], channel: Channel, at_s: float) -> Sound:
    """Return the sound of a channel: that of the last span that covers the time, or a turn of speech or of listening.

    The external party speaks first; the listening party sends comfort noise.

    >>> sound_at((), "external", 1.0), sound_at((), "internal", 1.0), sound_at((), "internal", 3.0)
    ('speech', 'noise', 'speech')
    """
    for span in reversed(spans):
        if span.channel == channel and span.begins_s <= at_s + 1e-9 < span.ends_s:
            return span.sound
    speaks_first = int((at_s + 1e-9) / TURN_S) % 2 == 0
    return "speech" if speaks_first == (channel == "external") else "noise"


@lru_cache(maxsize=1024)
def chunk(sounds: tuple[Sound, ...], offset: int, samples: int) -> bytes:
    """Return `samples` samples from `offset` on, with one sound for each channel, interleaved."""
    at = (offset + np.arange(samples)) % RATE
    return np.stack([_loop(sound)[at] for sound in sounds], axis=1).tobytes()


@lru_cache(maxsize=8)
def _loop(sound: Sound) -> NDArray[np.uint8]:
    at_s = np.arange(RATE) / RATE
    wave: NDArray[np.float64]
    match sound:
        case "speech":  # a vowel's harmonics, four syllables a second; -17 dBFS
            voice = np.sum([np.sin(2 * np.pi * 150 * n * at_s) / n for n in (1, 2, 3, 5)], axis=0)
            wave = 4500 * voice * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * at_s))
        case "music":
            wave = 2500 * np.sum([np.sin(2 * np.pi * note * at_s) for note in (262, 330, 392)], axis=0)
        case "noise":  # the lowest steps of µ-law: -75 dBFS
            wave = np.random.default_rng(7).choice([-8.0, 0.0, 8.0], RATE)
        case _:
            wave = np.zeros(RATE)
    return mu_law(np.round(wave).astype(np.int64))
