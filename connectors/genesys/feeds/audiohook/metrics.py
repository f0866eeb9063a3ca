"""What can be measured of an AudioHook stream: it comes over TCP, so nothing is lost on the way, but late or left out.

- packet loss: Genesys discards audio that it cannot send, because the network or we are too slow. The loss of an
  interval is `discarded / (audio + discarded)`, in seconds of media. What is left out in a pause is not a loss.
- lateness: how far the position of the stream has fallen behind the clock, compared with the best of the last minutes.
  That comparison takes out the offset of the clocks, and the burst in which Genesys catches up on audio from before the
  session; forgetting the best after 5 to 10 minutes takes out clocks that do not run at the same speed.
- latency: the larger of the lateness and the round-trip time that Genesys measured with its last ping.
- jitter: RFC 3550, section 6.4.1, with the position in the stream for the sender's time.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from connectors.genesys.feeds.audiohook.messages import RATE_HZ

__all__ = ["Sample", "StreamMetrics"]

BEST_OF_S: Final = 300.0


class Sample(NamedTuple):
    """What is known of a stream: milliseconds, and a ratio 0..1; None is unknown.

    `packet_loss`, `audio_ms` and `discarded_ms` are of the interval since the sample before; `lateness_ms` is the worst
    of it. `unaccounted_ms` is how far Genesys' own position was ahead of what was received, at its last message.
    """

    latency_ms: float
    packet_loss: float | None
    jitter_ms: float | None
    rtt_ms: float | None
    lateness_ms: float | None
    audio_ms: float
    discarded_ms: float
    unaccounted_ms: float | None


class StreamMetrics:
    """The measurements of one session that was opened at `position_s`; times are seconds of a monotonic clock."""

    def __init__(self, now: float, position_s: float = 0.0) -> None:
        self._skipped_s = position_s
        self._samples = 0
        self._sampled_until = 0
        self._discarded_s = 0.0
        self._paused = False
        self._rtt_s: float | None = None
        self._unaccounted_s: float | None = None
        self._drift_s: float | None = None
        self._length_s = 0.0
        self._jitter_s: float | None = None
        self._best_s = self._best_before_s = math.inf
        self._worst_s = 0.0
        self._best_until = now + BEST_OF_S

    @property
    def position_s(self) -> float:
        """Return the position in the stream: all the audio, and all that was discarded or left out in pauses."""
        return self._skipped_s + self._samples / RATE_HZ

    def audio(self, samples: int, now: float) -> None:
        """Count the given number of samples of each channel as arrived."""
        if not samples:
            return
        self._samples += samples
        self._length_s = samples / RATE_HZ
        drift_s = now - self._skipped_s - self._samples / RATE_HZ
        if self._drift_s is not None:
            # The difference of two drifts is RFC 3550's D: arrivals apart minus positions apart.
            jitter_s = self._jitter_s or 0.0
            self._jitter_s = jitter_s + (abs(drift_s - self._drift_s) - jitter_s) / 16
        self._drift_s = drift_s
        if drift_s < self._best_s:
            self._best_s = drift_s
        late_s = drift_s - min(self._best_s, self._best_before_s)
        if late_s > self._worst_s:
            self._worst_s = late_s

    def discarded(self, seconds: float) -> None:
        """Genesys threw so much audio away."""
        self._discarded_s += seconds
        self._skipped_s += seconds

    def paused(self) -> None:
        """No audio is to be expected."""
        self._paused = True

    def resumed(self, left_out_s: float) -> None:
        """Audio is to be expected again; so much was left out."""
        self._paused = False
        self._skipped_s += left_out_s

    def ping(self, rtt_s: float | None, position_s: float) -> None:
        """Genesys measured a round trip, if it did, and says where it is in the stream."""
        if rtt_s is not None:
            self._rtt_s = rtt_s
        if not self._paused:  # the length of a pause is reported at its end
            self._unaccounted_s = position_s - self.position_s

    def glance(self, now: float) -> Sample:
        """Return what is known now, without a loss; the interval goes on."""
        self._wait(now)
        return self._sample(None, 0.0, 0.0)

    def sample(self, now: float) -> Sample:
        """Return the measurements of the interval that ends now; the next one begins."""
        self._wait(now)
        audio_s = (self._samples - self._sampled_until) / RATE_HZ
        total_s = audio_s + self._discarded_s
        loss = self._discarded_s / total_s if total_s else None
        sample = self._sample(loss, audio_s, self._discarded_s)
        self._sampled_until = self._samples
        self._discarded_s = 0.0
        self._worst_s = 0.0
        if now >= self._best_until:
            self._best_until = now + BEST_OF_S
            self._best_before_s, self._best_s = self._best_s, math.inf
        return sample

    def _wait(self, now: float) -> None:
        """Take into account that the next audio is not here yet, though it may be due."""
        if self._drift_s is None or self._paused:
            return
        # What has not come by now would be as late as this; and where nothing came, things are as they were at least.
        drift_s = now - self.position_s - self._length_s
        if self._samples == self._sampled_until:
            drift_s = max(drift_s, self._drift_s)
        self._worst_s = max(self._worst_s, drift_s - min(self._best_s, self._best_before_s))

    def _sample(self, loss: float | None, audio_s: float, discarded_s: float) -> Sample:
        lateness_s = None if self._drift_s is None else self._worst_s
        return Sample(
            latency_ms=_ms(max(self._rtt_s or 0.0, lateness_s or 0.0)),
            packet_loss=None if loss is None else round(loss, 6),
            jitter_ms=None if self._jitter_s is None else _ms(self._jitter_s),
            rtt_ms=None if self._rtt_s is None else _ms(self._rtt_s),
            lateness_ms=None if lateness_s is None else _ms(lateness_s),
            audio_ms=_ms(audio_s),
            discarded_ms=_ms(discarded_s),
            unaccounted_ms=None if self._unaccounted_s is None else _ms(self._unaccounted_s),
        )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
