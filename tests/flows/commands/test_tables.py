"""Rows at any width: a value is never cut nor folded."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from flows.commands.tables import laid_out
from tests.support.state_dirs import StateDir
from tests.support.terminal import on_terminal

COLUMNS = ("alert", "conversation", "#attempts", "last error?")
ID = "3d9c3021-28c7-4473-ae64-73c8f544aef2"


def shown(rows: list[tuple[str, ...]], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    console.print(laid_out(COLUMNS, rows, width), soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_wide_terminal_has_every_column() -> None:
    """One line for the names, one for each row; numbers are aligned to the right."""
    lines = shown([(ID, "call-1", "12", "503"), (ID, "call-2", "3", "-")], 120)
    assert [line.split() for line in lines] == [
        ["alert", "conversation", "attempts", "last", "error"],
        [ID, "call-1", "12", "503"],
        [ID, "call-2", "3", "-"],
    ]
    assert lines[1].index("12") + 1 == lines[2].index("3 ")


def test_a_narrower_terminal_leaves_a_column_out() -> None:
    """Only a column that may be left out is."""
    lines = shown([(ID, "call-1", "12", "x" * 60)], 80)
    assert [line.split() for line in lines] == [["alert", "conversation", "attempts"], [ID, "call-1", "12"]]


def test_a_narrow_terminal_has_one_record_a_block() -> None:
    """A name and its value that do not fit on one line get two."""
    assert shown([(ID, ID, "12", "refused")], 40) == [
        ID,
        "  conversation",
        ID,
        "  attempts 12  last error refused",
    ]


@given(
    st.lists(st.tuples(*[st.text(st.characters(categories=["L", "N", "P"]), max_size=50)] * 4), max_size=4),
    st.integers(20, 200),
)
def test_no_value_is_broken(rows: list[tuple[str, ...]], width: int) -> None:
    """Each value of a column that must not be left out stands whole on one line, at any width."""
    lines = shown(rows, width)
    for row in rows:
        for cell in row[:3]:
            assert any(cell in line for line in lines)


def test_what_a_terminal_would_obey_is_replaced() -> None:
    """An id with an escape sequence or an override of direction cannot clear the screen or turn it around."""
    (_, line) = shown([("\x1b[2Jcall\u202e", "b\n", "1", "")], 80)
    assert line.split()[:2] == ["\ufffd[2Jcall\ufffd", "b\ufffd"]


@pytest.mark.parametrize("columns", [80, 40])
def test_the_outbox_never_breaks_an_id(tmp_path: Path, columns: int) -> None:
    """On a real terminal of 80 and of 40 columns each alert's id stands on one line."""
    state = StateDir(tmp_path / "state")
    state.outbox(pending=1, dead=2, delivered=0)
    config = tmp_path / "c.toml"
    config.write_text(f'[state]\ndir = "{state.dir}"\n')
    with on_terminal("outbox", "list", config, columns=columns) as terminal:
        assert terminal.ended() == 0
    for name in ("c0", "c1", "c2", "conv0", "https://qa.example.com"):
        assert any(name in line for line in terminal.shown.splitlines())
    assert "1 pending" in terminal.shown
    assert "2 dead" in terminal.shown
