"""How a call sounds, estimated from what the network does to it: the ITU-T G.107 E-model; RFC 3550 jitter.

`R = Ro − Is − Id − Ie,eff + A` (G.107 §7.1). Every parameter but delay, loss and codec has its G.107 default,
so that A is 0 and the echo path is the default one; loss is random (burst ratio 1). An untouched G.711 call
then has R 93.2 and MOS 4.41. Models disagree by more than one MOS about the same network, so a MOS is always
published with the name of its model, of `MODELS`.

All functions work elementwise on float64 arrays that broadcast together. NaN stays NaN: an unknown delay or
loss gives an unknown MOS.

>>> r = r_factor(np.array([0.0, 150.0, 250.0]), np.zeros(3), G711_PLC)
>>> r.round(3).tolist(), mos_from_r(r).round(3).tolist()
([93.206, 89.539, 79.177], [4.409, 4.328, 3.993])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CODECS",
    "G711",
    "G711_PLC",
    "G729A_VAD",
    "MODEL",
    "MODELS",
    "Codec",
    "Codecs",
    "Floats",
    "codec_of_media",
    "codecs",
    "delay_impairment",
    "jitter_ms",
    "loss_impairment",
    "mos_from_r",
    "r_factor",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Codec:
    """What a codec costs R without loss (`ie`), and how robust it is to loss (`bpl`, in percent)."""

    name: str
    ie: float
    bpl: float


# ITU-T G.113 Appendix I. Opus is missing because no value for it is agreed.
G711 = Codec("G.711", ie=0.0, bpl=4.3)
G711_PLC = Codec("G.711+PLC", ie=0.0, bpl=25.1)
G729A_VAD = Codec("G.729A+VAD", ie=11.0, bpl=19.0)

# What the configuration and a `watch` call them; a codec's number is its place here.
CODECS: Final = {"g711": G711_PLC, "g711-no-plc": G711, "g729a": G729A_VAD}
MODELS: Final = tuple(f"G.107 narrowband, {codec.name}" for codec in CODECS.values())
MODEL: Final = MODELS[0]
_IE: Final = np.array([codec.ie for codec in CODECS.values()])
_BPL: Final = np.array([codec.bpl for codec in CODECS.values()])


# The codecs of media types for which ITU-T G.113 Appendix I has values. A receiver of G.711 is taken to conceal loss.
_OF_MEDIA: Final = {"pcmu": G711_PLC, "pcma": G711_PLC, "g729": G729A_VAD}


def codec_of_media(types: Sequence[str]) -> Codec | str:
    """Return the codec of a leg's media types, or the reason why the E-model has no value for them.

    >>> codec_of_media(["audio/PCMU"]).name
    'G.711+PLC'
    >>> codec_of_media(["audio/opus"])
    'ITU-T G.113 has no narrowband impairment value for audio/opus'
    """
    found = {_OF_MEDIA.get(kind.rpartition("/")[2].lower(), kind) for kind in types}
    unknown = sorted(codec for codec in found if isinstance(codec, str))
    if unknown:
        return f"ITU-T G.113 has no narrowband impairment value for {', '.join(unknown)}"
    if len(found) != 1:
        return "the codec is not known" if not found else "the leg changed its codec"
    (codec,) = found
    return codec


class Codecs(NamedTuple):
    """The same of many: arrays that broadcast with delay and loss."""

    ie: Floats
    bpl: Floats


def codecs(number: NDArray[np.int8]) -> Codecs:
    """Return the codecs with these numbers, places in `CODECS`.

    >>> codecs(np.array([2, 0], np.int8)).bpl.tolist()
    [19.0, 25.1]
    """
    return Codecs(_IE[number], _BPL[number])


# G.107 with all parameters at their defaults: noise, basic signal-to-noise ratio, simultaneous impairments.
_NO_DBM0P = -61.179214
_RO = 94.768822
_IS = 1.413568
# The default echo path: talker echo loudness rating, weighted echo path loss, receive loudness rating.
_TELR_DB = 65.0
_WEPL_DB = 110.0
_RLR_DB = 2.0

# Far beyond what the model describes, and small enough that no intermediate value overflows.
_MAX_DELAY_MS = 1e9


def mos_from_r(r: Floats) -> Floats:
    """Return the mean opinion score, 1 (bad) to 4.5 (excellent), of a rating R (G.107 Annex B).

    The published polynomial dips below 1 for R between 0 and 6.5; there, too, the score is 1.

    >>> mos_from_r(np.array([50.0, 60.0, 70.0, 80.0, 90.0])).round(3).tolist()
    [2.575, 3.1, 3.597, 4.024, 4.339]
    """
    inside = np.clip(r, 0.0, 100.0)
    mos = 1.0 + 0.035 * inside + 7e-6 * inside * (inside - 60.0) * (100.0 - inside)
    return np.maximum(mos, 1.0)


def r_factor(delay_ms: Floats, loss_ratio: Floats, codec: Codec | Codecs) -> Floats:
    """Return the transmission rating R (G.107 §7.1) for one-way delays in ms and packet loss as a ratio 0..1.

    R is 93.2 at best and falls below 0 on a network that cannot carry speech. A negative delay (clock skew)
    counts as none.

    >>> r = r_factor(np.zeros(1), np.array([0.02]), G729A_VAD)
    >>> r.round(3).tolist(), mos_from_r(r).round(3).tolist()
    ([74.206], [3.788])
    """
    return _RO - _IS - delay_impairment(delay_ms) - loss_impairment(loss_ratio, codec)


def loss_impairment(loss_ratio: Floats, codec: Codec | Codecs) -> Floats:
    """Ie,eff (G.107 §7.5): what the codec costs at a random packet loss, a ratio 0..1.

    >>> loss_impairment(np.array([0.0, 0.02]), G729A_VAD).tolist()
    [11.0, 19.0]
    """
    loss_percent = 100.0 * loss_ratio
    return codec.ie + (95.0 - codec.ie) * loss_percent / (loss_percent + codec.bpl)


def delay_impairment(delay_ms: Floats) -> Floats:
    """Id = Idte + Idle + Idd (G.107 §7.4): what a one-way delay in ms costs. Negative delays count as none.

    The delay of the echo path is taken to be the same (T = Ta), and its round trip twice that (Tr = 2·Ta).
    """
    ta_ms = np.clip(delay_ms, 0.0, _MAX_DELAY_MS)
    return _talker_echo(ta_ms) + _listener_echo(ta_ms) + _absolute_delay(ta_ms)


def _talker_echo(t_ms: Floats) -> Floats:
    """Idte: the speaker hears himself.

    Between 0 and 4.2 ms the published formula dips under 0, by 0.11 at most. That is taken as 0, so that more
    delay is never better.
    """
    terv = _TELR_DB - 40.0 * np.log10((1.0 + t_ms / 10.0) / (1.0 + t_ms / 150.0)) + 6.0 * np.exp(-0.3 * t_ms**2)
    re = 80.0 + 2.5 * (terv - 14.0)
    roe = -1.5 * (_NO_DBM0P - _RLR_DB)
    half = (roe - re) / 2.0
    return np.maximum((half + np.sqrt(half**2 + 100.0) - 1.0) * -np.expm1(-t_ms), 0.0)


def _listener_echo(t_ms: Floats) -> Floats:
    """Idle: the listener hears the speaker twice."""
    rle = 10.5 * (_WEPL_DB + 7.0) * (2.0 * t_ms + 1.0) ** -0.25
    half = (_RO - rle) / 2.0
    echo: Floats = half + np.sqrt(half**2 + 169.0)
    return echo


def _absolute_delay(ta_ms: Floats) -> Floats:
    """Idd: even without any echo, people begin to talk over each other beyond 100 ms."""
    x = np.log2(np.maximum(ta_ms, 100.0) / 100.0)
    cost: Floats = 25.0 * ((1.0 + x**6) ** (1 / 6) - 3.0 * (1.0 + (x / 3.0) ** 6) ** (1 / 6) + 2.0)
    return cost


def jitter_ms(latency_ms: Floats) -> Floats:
    """Interarrival jitter in ms after each frame of one spell (RFC 3550 §6.4.1): J += (|D| − J) / 16.

    D, how much later than its predecessor a frame was, is the difference of their latencies, so that the
    offset of the clocks drops out. A spell begins at 0: call it again after a feed gap. Shape (n,) in and out,
    no NaN.

    >>> jitter_ms(np.array([100.0, 116.0, 100.0])).tolist()
    [0.0, 1.0, 1.9375]
    """
    if latency_ms.size == 0:
        return np.zeros(0)
    steps = np.abs(np.diff(latency_ms)).tolist()
    return np.array(list(accumulate(steps, lambda jitter, step: jitter + (step - jitter) / 16.0, initial=0.0)))
