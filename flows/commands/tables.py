"""Lay out rows for any width: as a table if it fits, else with fewer columns, else one record a block.

A value is never cut or folded, because an id in two pieces can be neither found nor copied.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

__all__ = ["console_of_output", "laid_out", "printable"]

# Wide enough that nothing is folded outside a terminal.
PLAIN_WIDTH = 10_000
GAP = 2


def console_of_output() -> Console:
    """Return a console for standard output; outside a terminal its lines have no limit."""
    from rich.console import Console

    # No markup and no emoji: what is in brackets or colons may be part of a path or an id.
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)


def printable(text: str) -> str:
    r"""Return a text without what a terminal would obey: an id is whatever the wire says.

    >>> printable("call\x1b[2J 7")
    'call�[2J 7'
    """
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def laid_out(columns: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> RenderableType:
    """Return rows for a terminal of a width.

    A column whose name begins with `#` is aligned to the right; one whose name ends with `?` is left out where there is
    no space for it, the last one first. The first column begins each block.
    """
    from rich.console import Group

    cells = [[printable(cell) for cell in row] for row in rows]
    kept = list(range(len(columns)))
    droppable = [place for place in kept if columns[place].endswith("?")]
    while _width_of(columns, cells, kept) > width and droppable:
        kept.remove(droppable.pop())
    if _width_of(columns, cells, kept) <= width:
        return _table(columns, cells, kept)
    names = [_name(column) for column in columns]
    return Group(*(line for row in cells for line in _block(names, row, width)))


def _name(column: str) -> str:
    return column.removeprefix("#").removesuffix("?")


def _width_of(columns: Sequence[str], rows: Sequence[Sequence[str]], kept: Sequence[int]) -> int:
    from rich.cells import cell_len

    widths = [max([len(_name(columns[at])), *(cell_len(row[at]) for row in rows)]) for at in kept]
    return sum(widths) + GAP * (len(widths) - 1)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], kept: Sequence[int]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for at in kept:
        justify: Literal["left", "right"] = "right" if columns[at].startswith("#") else "left"
        table.add_column(_name(columns[at]), justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(row[at]) for at in kept))
    return table


def _block(names: Sequence[str], row: Sequence[str], width: int) -> Iterable[Text]:
    """Yield the lines of one record: its first value, then names and values, several on a line where they fit."""
    from rich.text import Text

    line = Text(row[0], style="bold", no_wrap=True, overflow="ignore")
    indent = " " * GAP
    yield line
    line = Text(indent, no_wrap=True, overflow="ignore")
    for name, value in zip(names[1:], row[1:], strict=True):
        pair = Text.assemble((f"{name} ", "dim"), value, no_wrap=True, overflow="ignore")
        if line.plain.strip() and line.cell_len + GAP + pair.cell_len > width:
            yield line
            line = Text(indent, no_wrap=True, overflow="ignore")
        if GAP + pair.cell_len > width:  # the name and its value on lines of their own
            yield Text(f"{indent}{name}", style="dim")
            yield Text(value, no_wrap=True, overflow="ignore")
            continue
        if line.plain.strip():
            line.append(indent)
        line.append_text(pair)
    if line.plain.strip():
        yield line
