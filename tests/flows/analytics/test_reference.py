"""The analytics as a whole against `tests.support.reference`, over nasty recordings, however they are cut."""

from __future__ import annotations

import json
import math
import random
from bisect import bisect_right
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.analytics.precedence import Overrides
from tests.support import reference
from tests.support.recordings import Replayed, blocks_of, nasty_lines, nasty_overrides, replay_blocks

SHARDS = st.sampled_from([1, 3, 16])
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@st.composite
def recordings(draw: st.DrawFn) -> tuple[list[bytes], Overrides]:
    def pick(options: Any) -> Any:
        return options[draw(st.integers(0, len(options) - 1))]

    return nasty_lines(pick, draw(st.integers(0, 30))), nasty_overrides(pick)


cuts_of_30 = st.lists(st.integers(0, 33), max_size=8)


def cut(lines: list[bytes], cuts: list[int]) -> list[list[bytes]]:
    return blocks_of(lines, [min(place, len(lines)) for place in cuts])


@settings(unhurried, max_examples=120)
@given(recordings(), cuts_of_30, SHARDS)
def test_windows_and_alerts_are_those_of_the_contract(
    recorded: tuple[list[bytes], Overrides], cuts: list[int], shards: int
) -> None:
    """Every window, alert, rejected line and unwatched frame is the reference's, in the block that makes it known."""
    lines, overrides = recorded
    blocks = cut(lines, cuts)
    assert_agrees(replay_blocks(blocks, shards, overrides), blocks, overrides)


@pytest.mark.parametrize("seed", range(40))
def test_long_recordings_agree_too(seed: int) -> None:
    """Hundreds of records, so that incidents come, go and come again, and slots are used again."""
    rng = random.Random(seed)
    lines = nasty_lines(rng.choice, 400)
    overrides = nasty_overrides(rng.choice)
    blocks = blocks_of(lines, sorted(rng.sample(range(len(lines)), rng.choice([0, 5, 50]))))
    stops = frozenset(number for number in range(len(blocks)) if rng.random() < 0.2)
    assert_agrees(replay_blocks(blocks, rng.choice([1, 3, 16]), overrides, stops), blocks, overrides)


@settings(unhurried, max_examples=100)
@given(recordings(), cuts_of_30, SHARDS, st.frozensets(st.integers(0, 8)))
def test_no_cut_no_stop_and_no_number_of_shards_changes_anything(
    recorded: tuple[list[bytes], Overrides], cuts: list[int], shards: int, stops: frozenset[int]
) -> None:
    """Other blocks, other shards, and a restart from a pickled snapshot give the same rows and the same bytes."""
    lines, overrides = recorded
    whole = replay_blocks([lines], 1, overrides)
    pieces = replay_blocks(cut(lines, cuts), shards, overrides, stops)
    assert sorted(map(json.dumps, pieces.windows)) == sorted(map(json.dumps, whole.windows))
    assert [alert.body for alert in pieces.alerts] == [alert.body for alert in whole.alerts]
    assert [alert[5:] for alert in pieces.alerts] == [alert[5:] for alert in whole.alerts]
    assert pieces.rejected == whole.rejected
    assert (pieces.unwatched, pieces.conversations) == (whole.unwatched, whole.conversations)
    assert pieces.silent == whole.silent


def assert_agrees(replayed: Replayed, blocks: list[list[bytes]], overrides: Overrides) -> None:
    lines = [line for block in blocks for line in block]
    ends = [sum(map(len, blocks[: number + 1])) for number in range(len(blocks))]
    expected = reference.replay(lines, *overrides)

    def block_of(line: int) -> int:
        return min(bisect_right(ends, line), len(blocks) - 1)

    assert replayed.rejected == [line for line, _ in expected.rejected]
    assert replayed.unwatched == expected.unwatched
    assert replayed.silent == expected.silent
    assert_alike(
        sorted(zip(replayed.window_blocks, replayed.windows, strict=True), key=window_key),
        sorted(zip(map(block_of, expected.window_lines), expected.windows, strict=True), key=window_key),
    )
    bodies = [json.loads(alert.body) for alert in replayed.alerts]
    assert_alike(
        list(zip(replayed.alert_blocks, bodies, strict=True)),
        list(zip(map(block_of, expected.alert_lines), expected.alerts, strict=True)),
    )
    ids = [alert["alertId"] for alert in expected.alerts]
    assert len(set(ids)) == len(ids)


def window_key(item: tuple[int, dict[str, Any]]) -> tuple[Any, ...]:
    """Changed window lengths can cut a window in two that begin and end alike: all else orders those."""
    block, window = item
    metrics = [number for name in ("latency_ms", "packet_loss") for number in (window[name] or {}).values()]
    first = (block, window["end"], window["conversation_id"], window["start"], window["frames"])
    return (*first, [round(number, 4) for number in metrics])


def assert_alike(found: Any, expected: Any, name: str = "") -> None:
    """Equal, but for what the contract leaves open: 1e-6 in means, and the rounding of a MOS near a tie."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), name
        assert list(found) == list(expected), name
        for key, value in expected.items():
            tolerant = f"{name}.{key}" if key != "value" or name[-4:] != ".mos" else "mos"
            assert_alike(found[key], value, tolerant)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), name
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_alike(one, other, f"{name}[{index}]")
    elif name == "mos":
        assert abs(found - expected) < 0.00101
    elif name.endswith(".mean"):
        assert math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-6), name
    else:
        assert found == expected, name
