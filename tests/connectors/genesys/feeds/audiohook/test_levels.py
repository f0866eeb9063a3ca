"""One-way and dead audio: levels from published values, and what begins and ends when."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from connectors.genesys.feeds.audiohook.levels import FLOOR_DBFS, MU_LAW, AudioChange, Levels, Silence
from flows.analytics.precedence import Overrides
from tests.support.recordings import replay_blocks

CHANNELS = ("external", "internal")
DIGITAL_SILENCE = 0xFF


def test_mu_law_is_that_of_the_standard() -> None:
    """G.711, table 2a: the largest, the smallest and both zeros, and symmetry; 16-bit values."""
    assert (MU_LAW[0x80], MU_LAW[0x00], MU_LAW[0xFF], MU_LAW[0x7F]) == (32124, -32124, 0, 0)
    assert (MU_LAW[0xFE], MU_LAW[0x8F], MU_LAW[0x90]) == (8, 16764, 15996)
    assert (MU_LAW[:128] == -MU_LAW[128:]).all()


def encoded(samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The nearest µ-law byte of each sample."""
    order = np.argsort(MU_LAW)
    values = MU_LAW[order]
    at = np.clip(np.searchsorted(values, samples), 1, 255)
    nearer = samples - values[at - 1] < values[at] - samples
    return order[np.where(nearer, at - 1, at)].astype(np.uint8)


def tone(level_dbfs: float, seconds: float = 1.0) -> np.ndarray[Any, Any]:
    """A tone of 440 Hz whose mean square is at a level."""
    peak = 2**15 * math.sqrt(2) * 10 ** (level_dbfs / 20)
    return encoded(peak * np.sin(2 * np.pi * 440 * np.arange(round(8000 * seconds)) / 8000))


QUIET = np.full(8000, DIGITAL_SILENCE, np.uint8)


def stereo(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bytes:
    return np.column_stack([left, right]).tobytes()


def heard(levels: Levels, left: np.ndarray[Any, Any], right: np.ndarray[Any, Any], seconds: int) -> list[AudioChange]:
    """Feed a second of each channel again and again, in messages of 100 ms."""
    data = stereo(left, right)
    pieces = [data[at : at + 1600] for at in range(0, len(data), 1600)]
    return [change for _ in range(seconds) for piece in pieces for change in levels.audio(piece)]


def test_one_silent_channel_is_named_and_recovers() -> None:
    """After the given seconds of silence, not before; and with the first second that is not silent."""
    levels = Levels(CHANNELS, Silence(-60.0, 5.0))
    assert heard(levels, QUIET, tone(-20), 4) == []
    [raised] = heard(levels, QUIET, tone(-20), 1)
    assert raised == AudioChange("ONE_WAY_AUDIO", "raised", "external", None, FLOOR_DBFS, 5.0)
    assert heard(levels, QUIET, tone(-20), 5) == []
    [resolved] = heard(levels, tone(-20), tone(-20), 1)
    assert (resolved.rule, resolved.state, resolved.channel, resolved.reason) == (
        "ONE_WAY_AUDIO",
        "resolved",
        "external",
        "recovered",
    )
    assert resolved.dbfs == pytest.approx(-20, abs=0.2)


def test_comfort_noise_is_silence_and_soft_speech_is_not() -> None:
    """The level decides, not the bytes: noise at -66 dBFS is silence for a limit of -60, a tone at -50 is not."""
    noise = encoded(np.random.default_rng(1).normal(0, 2**15 * 10 ** (-66 / 20), 8000))
    assert [change.channel for change in heard(Levels(CHANNELS, Silence(-60.0, 3.0)), noise, tone(-50), 9)] == [
        "external"
    ]
    assert heard(Levels(CHANNELS, Silence(-60.0, 3.0)), tone(-50), tone(-50), 9) == []


def test_both_silent_is_dead_air_and_no_one_way() -> None:
    """It names no channel, and ends when either speaks."""
    levels = Levels(CHANNELS, Silence(-60.0, 3.0))
    [raised] = heard(levels, QUIET, QUIET, 6)
    assert (raised.rule, raised.state, raised.channel) == ("DEAD_AIR", "raised", None)
    changes = heard(levels, tone(-20), QUIET, 1)
    assert ("DEAD_AIR", "resolved") in [(change.rule, change.state) for change in changes]


def test_a_pause_begins_the_count_again() -> None:
    """Silence before a pause is forgotten, and what is open is resolved by it."""
    levels = Levels(CHANNELS, Silence(-60.0, 3.0))
    heard(levels, QUIET, tone(-20), 2)
    assert levels.pause() == []
    assert heard(levels, QUIET, tone(-20), 2) == []
    heard(levels, QUIET, tone(-20), 1)
    assert [(change.state, change.reason) for change in levels.pause()] == [("resolved", "paused")]


def test_messages_of_any_size_give_the_same() -> None:
    """The stream decides, not how it is cut, up to the second that a level is made of."""
    data = stereo(np.tile(QUIET, 10), np.tile(tone(-20), 10))
    for size in (160, 1600, 16000):
        levels = Levels(CHANNELS, Silence(-60.0, 5.0))
        changes = [one for at in range(0, len(data), size) for one in levels.audio(data[at : at + size])]
        assert [(one.rule, one.silent_s) for one in changes] == [("ONE_WAY_AUDIO", 5.0)]


def audio_record(at: float, **level: Any) -> bytes:
    fields = {"session": "s", "rule": "ONE_WAY_AUDIO", "channel": "external", "reason": None, "dbfs": -80.5}
    message = {"conversationId": "c", "audioLevel": {**fields, "silent_s": 5.0, "limit": -60.0, **level}}
    return json.dumps({"received_at": at, "via": "hook", "frame": message}).encode()


def control(at: float, **keys: Any) -> bytes:
    return json.dumps({"received_at": at, **keys}).encode()


def test_the_journal_raises_and_resolves_what_the_feed_decided() -> None:
    """One incident from raised to resolved, told twice or not; the end of the conversation resolves what is open."""
    watch = control(1.0, watch={"conversation_id": "c", "leg_id": "l"})
    frame = {"event": "conversation.ended", "entity": {"id": "c"}, "timestamp": 20}
    lines = [
        watch,
        audio_record(2.0, state="raised"),
        audio_record(3.0, state="raised"),
        audio_record(4.0, state="resolved", reason="recovered"),
        audio_record(5.0, state="resolved", reason="recovered"),
        audio_record(6.0, state="raised", rule="DEAD_AIR", channel=None),
        control(20.0, frame=frame),
        audio_record(21.0, state="raised"),
    ]
    blocks = [lines[:3], lines[3:6], lines[6:]]
    alerts = [json.loads(alert.body) for alert in replay_blocks(blocks, 4, Overrides(), frozenset({0, 1})).alerts]
    assert [(one["alertType"], one["state"], one["reason"], one["timestamp"]) for one in alerts] == [
        ("ONE_WAY_AUDIO", "raised", None, 2.0),
        ("ONE_WAY_AUDIO", "resolved", "recovered", 4.0),
        ("DEAD_AIR", "raised", None, 6.0),
        ("DEAD_AIR", "resolved", "ended", 20.0),
    ]
    assert alerts[0]["incidentId"] == alerts[1]["incidentId"] != alerts[2]["incidentId"] == alerts[3]["incidentId"]
    assert (alerts[0]["metricValue"], alerts[0]["threshold"], alerts[0]["evidence"]["channel"]) == (
        -80.5,
        -60.0,
        "external",
    )
