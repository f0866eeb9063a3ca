"""The E-model against every published value, and the properties that hold for any network."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.format.limits import CodecName
from flows.analytics import voice_quality
from flows.analytics.voice_quality import (
    CODECS,
    G711,
    G711_PLC,
    G729A_VAD,
    MODEL,
    MODELS,
    Codec,
    codecs,
    delay_impairment,
    jitter_ms,
    loss_impairment,
    mos_from_r,
    r_factor,
)
from flows.settings.models import WindowSettings

SOME_CODEC = st.sampled_from([G711, G711_PLC, G729A_VAD])
DELAYS_MS = st.floats(-1e6, 1e6)
LOSSES = st.floats(0.0, 1.0)


def one(value: float) -> voice_quality.Floats:
    return np.array([value])


@pytest.mark.parametrize(
    ("codec", "delay_ms", "loss_ratio", "r", "mos"),
    [
        (G711, 0.0, 0.0, 93.206, 4.409),
        (G711_PLC, 0.0, 0.0, 93.206, 4.409),
        (G711_PLC, 150.0, 0.0, 89.539, 4.328),
        (G711_PLC, 250.0, 0.0, 79.177, 3.993),
        (G711_PLC, 0.0, 0.05, 77.425, 3.923),
        (G729A_VAD, 0.0, 0.02, 74.206, 3.788),
    ],
)
def test_published_ratings(codec: Codec, delay_ms: float, loss_ratio: float, r: float, mos: float) -> None:
    """The full model gives every published R and MOS to the last published digit."""
    rating = r_factor(one(delay_ms), one(loss_ratio), codec)
    assert rating.round(3).tolist() == [r]
    assert mos_from_r(rating).round(3).tolist() == [mos]


def test_published_loss_impairment() -> None:
    """G.729A loses 19 points at 2 % loss, and only its own 11 without any."""
    assert loss_impairment(np.array([0.0, 0.02]), G729A_VAD).tolist() == [11.0, 19.0]


def test_published_mos_of_r() -> None:
    """R 50 to 90 map to the MOS values of the recommendation."""
    mos = mos_from_r(np.array([50.0, 60.0, 70.0, 80.0, 90.0]))
    assert mos.round(3).tolist() == [2.575, 3.1, 3.597, 4.024, 4.339]


def test_mos_outside_the_polynomial() -> None:
    """Below R 6.5, where the polynomial dips under 1, the score is 1; above 100 it is 4.5."""
    assert mos_from_r(np.array([-50.0, 0.0, 3.0, 6.4, 100.0, 130.0])).tolist() == [1, 1, 1, 1, 4.5, 4.5]


def test_absolute_delay_begins_after_100_ms() -> None:
    """Up to 100 ms only echo costs anything, and the terms meet without a step there."""
    just_under, just_over = delay_impairment(np.array([100.0, 100.0001]))
    assert just_over == pytest.approx(just_under, abs=1e-4)


def test_negative_delay_is_no_delay() -> None:
    """A clock that runs behind makes a call neither better nor worse than one without delay."""
    assert delay_impairment(one(-1e12)) == delay_impairment(one(0.0))


def test_extremes_are_finite() -> None:
    """An absurd delay (a timestamp of 1970) is a bad call, not an overflow."""
    r = r_factor(np.array([1e300, np.inf, 2e12]), np.ones(3), G711_PLC)
    assert np.isfinite(r).all()
    assert mos_from_r(r).tolist() == [1.0, 1.0, 1.0]


def test_unknown_stays_unknown() -> None:
    """Without a delay or a loss there is no MOS."""
    r = r_factor(np.array([np.nan, 10.0]), np.array([0.0, np.nan]), G711_PLC)
    assert np.isnan(mos_from_r(r)).all()


@given(codec=SOME_CODEC, delay_ms=DELAYS_MS, loss=LOSSES)
def test_mos_is_in_range(codec: Codec, delay_ms: float, loss: float) -> None:
    """Whatever the network does, the score is between 1 and 4.5."""
    mos = mos_from_r(r_factor(one(delay_ms), one(loss), codec))
    assert 1.0 <= mos[0] <= 4.5


@given(codec=SOME_CODEC, delays=st.lists(DELAYS_MS, min_size=2), loss=LOSSES)
def test_more_delay_is_never_better(codec: Codec, delays: list[float], loss: float) -> None:
    """R and MOS fall, or stay, as delay grows."""
    r = r_factor(np.sort(np.array(delays)), np.array(loss), codec)
    assert (np.diff(r) <= 1e-9).all()
    assert (np.diff(mos_from_r(r)) <= 1e-9).all()


@given(codec=SOME_CODEC, delay_ms=DELAYS_MS, losses=st.lists(LOSSES, min_size=2))
def test_more_loss_is_never_better(codec: Codec, delay_ms: float, losses: list[float]) -> None:
    """R and MOS fall, or stay, as loss grows."""
    r = r_factor(np.array(delay_ms), np.sort(np.array(losses)), codec)
    assert (np.diff(r) <= 1e-9).all()
    assert (np.diff(mos_from_r(r)) <= 1e-9).all()


def test_concealment_helps() -> None:
    """A codec that conceals loss is better under loss and no different without."""
    losses = np.array([0.0, 0.01, 0.1])
    gain = r_factor(np.zeros(3), losses, G711_PLC) - r_factor(np.zeros(3), losses, G711)
    assert gain[0] == 0.0
    assert (gain[1:] > 0.0).all()


def test_shape_and_type() -> None:
    """Arrays keep their shape and are float64."""
    mos = mos_from_r(r_factor(np.zeros((2, 3)), np.zeros((2, 3)), G711))
    assert mos.shape == (2, 3)
    assert mos.dtype == np.float64


def test_model_names_its_codec() -> None:
    """The published model name says standard, band and codec."""
    assert MODEL == "G.107 narrowband, G.711+PLC"
    assert MODELS == (MODEL, "G.107 narrowband, G.711", "G.107 narrowband, G.729A+VAD")


def test_the_codecs_have_one_name_everywhere() -> None:
    """In the configuration, in the records and in the table of values."""
    assert get_args(CodecName) == get_args(WindowSettings.model_fields["codec"].annotation) == tuple(CODECS)


def test_codecs_side_by_side() -> None:
    """Each row is rated by its own codec, as it would be alone."""
    delay_ms, loss = np.array([20.0, 150.0, 20.0]), np.array([0.02, 0.0, 0.2])
    together = r_factor(delay_ms, loss, codecs(np.array([0, 1, 2], np.int8)))
    alone = [r_factor(one(delay_ms[row]), one(loss[row]), codec)[0] for row, codec in enumerate(CODECS.values())]
    assert together.tolist() == alone


@given(latencies=st.lists(st.floats(-1e4, 1e4), max_size=60), offset_ms=st.floats(-1e4, 1e4))
def test_jitter_is_the_rfc_recurrence(latencies: list[float], offset_ms: float) -> None:
    """Each value is the RFC's step from the one before, whatever the offset between the clocks."""
    expected, jitter = [], 0.0
    for index, latency in enumerate(latencies):
        if index:
            jitter += (abs(latency - latencies[index - 1]) - jitter) / 16
        expected.append(jitter)
    assert jitter_ms(np.array(latencies) + offset_ms) == pytest.approx(expected, abs=1e-6)
