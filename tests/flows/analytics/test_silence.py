"""A watch without a frame for `[watch] forget_after_s` ends by itself, however the journal is cut."""

from __future__ import annotations

from typing import Any

import pytest

from tests.flows.analytics.test_optional_rules import end, frame, record, replayed, tick, told, watch
from tests.support.recordings import replay_blocks

HOUR = 3600.0


def settings(after_s: float, at: float = 0, length_s: float = 10, **alerts: Any) -> bytes:
    windows = {"length_s": length_s, "slide_s": length_s}
    return record(at, settings={"windows": windows, "alerts": alerts, "watch": {"forget_after_s": after_s}})


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([watch(), frame(5), tick(64.999)], [], id="not yet"),
        pytest.param([watch(), frame(5), tick(65)], [(65, "c")], id="at the moment"),
        pytest.param([watch(), frame(5), tick(1000)], [(65, "c")], id="known later, of its own time"),
        pytest.param([watch(3), tick(63)], [(63, "c")], id="without any frame, from the watch on"),
        pytest.param([watch(), frame(50), watch(100), tick(110)], [(110, "c")], id="another watch does not restart it"),
        pytest.param([watch(), frame(50), frame(109), tick(168)], [], id="each frame restarts the wait"),
        pytest.param([watch(), end(5), tick(1000)], [], id="what has ended is not silent"),
        pytest.param([watch(), watch(1, "d"), tick(200)], [(60, "c"), (61, "d")], id="each of its own"),
        pytest.param([watch(last_frame_at=-40), tick(20)], [(20, "c")], id="a wait of the segment before goes on"),
        pytest.param([watch(last_frame_at=-60), tick(59)], [], id="one that would be over restarts"),
        pytest.param([watch(), tick(60), watch(70), tick(130)], [(60, "c"), (130, "c")], id="watched again"),
        pytest.param([watch(), settings(50, 30), tick(80)], [(80, "c")], id="another limit restarts the wait"),
        pytest.param([watch(), settings(60, 30), tick(60)], [(60, "c")], id="the same limit does not"),
    ],
)
def test_a_watch_ends_when_it_has_had_no_frame_for_too_long(
    lines: list[bytes], expected: list[tuple[float, str]]
) -> None:
    """The time of the last frame counts, or of the watch before there is one."""
    assert replayed([settings(60), *lines]).silent == expected


def test_frames_behind_the_moment_are_unwatched() -> None:
    """Also where one block holds both, and where the rest of the block is of others."""
    lines = [
        settings(60),
        watch(),
        watch(0, "d"),
        frame(1),
        frame(2, name="d"),
        frame(50, name="d"),
        frame(61),
        frame(62),
    ]
    whole = replayed([*lines, frame(70, name="d")])
    assert (whole.silent, whole.unwatched) == ([(61, "c")], 2)


def test_what_is_open_is_resolved_as_silent() -> None:
    """At the moment, without a value, for no frame has one; a stall tells how long the gap was."""
    rules = settings(60, stalled_after_s=20)
    lines = [rules, watch(packet_loss_threshold=0.1), frame(1, 0.5), tick(500)]
    assert told(lines) == [("raised", 0.5, 1), ("raised", 20, 21), ("silent", None, 61), ("silent", 60, 61)]


def test_a_stall_begins_only_while_the_watch_is_on() -> None:
    """A wait for a frame ends with the watch."""
    assert told([settings(60, stalled_after_s=61), watch(), frame(1), tick(500)]) == []


def test_a_watch_lasts_for_the_windows_of_its_last_frame() -> None:
    """So that no window is left open, whatever the setting says."""
    whole = replayed([settings(5, length_s=20), watch(), frame(15), tick(100)])
    assert whole.silent == [(35, "c")]
    assert [window["end"] for window in whole.windows] == [20]


def test_a_conversation_that_none_lists_is_watched_again() -> None:
    """With `unwatched = "default"`, a frame after the silence begins another watch."""
    lines = [settings(60, unwatched="default"), frame(1), frame(100), frame(120), tick(200)]
    whole = replayed(lines)
    assert (whole.silent, whole.unwatched, whole.conversations) == ([(61, "c"), (180, "c")], 0, 2)


def test_many_conversations_return_in_one_block() -> None:
    """However many frames of a block are the first of their conversation after a silence, each ends one watch."""
    names = [f"c{number}" for number in range(1100)]
    lines = [settings(10, unwatched="default")]
    lines += [frame(at + number / 1000, name=name) for at in (1, 11.0005) for number, name in enumerate(names)]
    whole = replay_blocks([lines], 1)
    assert [name for _, name in whole.silent] == names
    assert (whole.unwatched, whole.conversations) == (0, 2 * len(names))


def test_without_a_setting_it_is_six_hours() -> None:
    """As the contract of the journal says, also of a recording without a settings record."""
    assert replayed([watch(), frame(1), tick(6 * HOUR + 0.999)]).silent == []
    assert replayed([watch(), frame(1), tick(6 * HOUR + 1)]).silent == [(6 * HOUR + 1, "c")]
