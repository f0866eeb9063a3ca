"""Numbers to text by the column: always what orjson writes, and without it for decimals that are short enough."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from connectors.format.decimals import number_texts, scaled
from connectors.format.words import beside, text_of, words_of

DECIMALS = st.sampled_from([0, 1, 3, 6, 7, 9, 14])


def written(values: NDArray[Any], decimals: int) -> list[bytes]:
    """What orjson writes, one by one."""
    return [orjson.dumps(value if decimals else int(value)) for value in values.tolist()]


def texts(values: NDArray[Any], decimals: int) -> list[bytes]:
    return [text_of(row) for row in number_texts(values, decimals)]


@st.composite
def short_decimals(draw: st.DrawFn) -> tuple[NDArray[Any], int]:
    """Numbers of at most 15 digits, up to a given number of them decimals, that are written without an exponent."""
    decimals = draw(DECIMALS)
    least = 10 ** max(0, decimals - 4)
    size = st.sampled_from([0, least]) | st.integers(least, draw(st.sampled_from([10 * least, 10**11, 10**15])) - 1)
    pairs = draw(st.lists(st.tuples(size, st.booleans()), min_size=1))
    whole = [-one if negative and one else one for one, negative in pairs]
    return np.array([float(Decimal(one).scaleb(-decimals)) for one in whole]), decimals


@given(short_decimals())
def test_short_decimals_are_written_as_by_orjson_and_without_it(column: tuple[NDArray[Any], int]) -> None:
    """Up to fifteen digits: those that windows are made of."""
    assert scaled(*column)[1].all()
    assert texts(*column) == written(*column)


@given(
    st.lists(st.floats(-1e18, 1e18) | st.floats(0, 1) | st.sampled_from([-0.0, 1e-5, 1e16, 5e-324]), min_size=1),
    DECIMALS,
)
def test_any_numbers_are_written_as_by_orjson(values: list[float], decimals: int) -> None:
    """Whatever else is in the column, and however many decimals are expected."""
    column = np.array(values, np.float64)
    if not decimals:
        column = np.rint(column)
    assert texts(column, decimals) == written(column, decimals)


EDGES = [0.5, 0.0, 1e7, 1e6, 999999.999, 99999.999, 9999.999, 1e-4, 0.000123, 1e-5, 1e-9, 123456789.25, 1e15, 1e300]


@pytest.mark.parametrize("value", [*EDGES, *(math.nextafter(edge, 1.0) for edge in EDGES)])
@pytest.mark.parametrize("sign", [1, -1])
def test_edges(value: float, sign: int) -> None:
    """Where a text gets a further word or an exponent, a number is not a short decimal, or too large for a scale."""
    column = np.array([sign * value, 3.0])
    for decimals in (3, 6, 9):
        assert texts(column, decimals) == written(column, decimals)


@given(st.lists(st.binary(max_size=20).filter(lambda text: b"\0" not in text)))
def test_words_hold_texts(some: list[bytes]) -> None:
    """Of any bytes but zeros, alone and beside others."""
    assert [text_of(row) for row in words_of(some)] == some
    assert text_of(beside(len(some), [b"<", words_of(some), b" in the middle ", words_of(some), b">"])) == b"".join(
        b"<" + text + b" in the middle " + text + b">" for text in some
    )
