"""Show the figures of the live page in a terminal, during a run and after it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from connectors.errors import StateError, UsageError
from flows.commands.tables import laid_out, printable
from flows.state import StateLayout
from flows.web import queries
from flows.web.heat import heat_map
from flows.web.history import receivers
from flows.web.reader import StateReader
from flows.web.words import duration, milliseconds, mos, percent, rule_name, rule_value, utc

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["open_reader", "show_live", "show_once", "snapshot"]

EVERY_S: Final = 1.0
SHOWN: Final = 8
# The first of these labels that there is; agents are named only by request.
PREFERRED: Final = ("queue", "edge", "provider", "region", "division", "team")


def open_reader(directory: Path) -> StateReader:
    """Return a reader of a state directory, or of a replay's results. Raises UsageError for another directory."""
    state = StateLayout(directory)
    if not any(path.exists() for path in (state.journal, state.windows, state.alerts)):
        raise UsageError(f"{directory}: is neither a state directory nor the results of a replay")
    return StateReader(directory, keep_s=max(length for length, _ in queries.SPANS.values()))


def show_once(reader: StateReader, directory: Path, console: Console, *, span: str, by: str | None, now: float) -> None:
    """Print what the files say. Raises StateError."""
    try:
        reader.read_once()
    except OSError as error:
        raise StateError(f"{directory}: cannot be read: {error}") from error
    for part in snapshot(reader, directory, console.width, SHOWN, span=span, by=by, now=now):
        console.print(part, soft_wrap=True)


def show_live(
    reader: StateReader,
    directory: Path,
    console: Console,
    stop: threading.Event,
    *,
    span: str,
    by: str | None,
    now: Any,
) -> None:
    """Show the figures until `stop`, again each second; `now` is called for the time in epoch seconds."""
    from rich.console import Group
    from rich.live import Live

    reader.start()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while not stop.is_set():
            # Three headings and their tables share what the head leaves.
            shown = max((console.height - 10) // 3, 1) if console.width >= 72 else max((console.height - 14) // 11, 1)
            parts = snapshot(reader, directory, console.width, shown, span=span, by=by, now=now())
            live.update(Group(*parts), refresh=True)
            stop.wait(EVERY_S)


def snapshot(
    reader: StateReader, directory: Path, width: int, shown: int, *, span: str, by: str | None, now: float
) -> list[RenderableType]:
    """Return the figures for a terminal of a width: at most `shown` rows in each table."""
    from rich.text import Text

    try:
        rows = receivers(StateLayout(directory).outbox)
        waiting = f"{sum(row['pending'] for row in rows)} callbacks waiting, {sum(row['dead'] for row in rows)} dead"
    except sqlite3.Error as error:
        waiting = f"the outbox cannot be read: {error}"
    with reader.model.lock:
        model = reader.model
        period = queries.span_of(model, {"range": span})
        figures = queries.figures(model, period)
        worst, total = queries.conversations(model, period, {}, 0)
        incidents, count = queries.incidents(model, period, {}, 0)
        feeds = queries.feeds(model, period, [])["feeds"]
        names = queries.dimensions(model)
        name = next((one for one in ((by,) if by else PREFERRED) if one in names), None)
        groups = [] if name is None else heat_map(model, period, name, "breach", 0).rows
    age = None if figures["journal_at"] is None else max(now - figures["journal_at"], 0.0)
    at = utc(figures["now"]) if figures["now"] else "nothing yet"
    head = [
        f"voicewatch {printable(str(directory))}",
        f"{at} UTC, last {span}",
        "no journal" if age is None else f"last record {duration(age)} ago",
    ]
    summary = [
        f"{figures['live']} live of {figures['conversations']} heard",
        f"{percent(figures['share'])} of windows in breach",
        f"lowest MOS {mos(figures['mos'])}",
        f"{figures['open']} open incidents",
        waiting,
        *(f"{printable(feed['name'])} {feed['state']} ({len(feed['gaps'])} gaps)" for feed in feeds),
    ]
    parts: list[RenderableType] = [Text(line, style="bold") for line in _filled(head, width)]
    parts += [Text(line) for line in _filled(summary, width)]
    if not reader.caught_up.is_set():
        parts.append(Text("reading the files ...", style="dim"))
    parts += _section(
        f"Incidents ({count})", _INCIDENTS, [_incident(row, figures["now"]) for row in incidents], shown, width
    )
    parts += _section(f"Worst conversations ({total})", _WORST, [_conversation(row) for row in worst], shown, width)
    if groups:
        columns = (str(name), *_WORST[1:])
        parts += _section(f"By {name} ({len(groups)})", columns, [_group(row) for row in groups], shown, width)
    return parts


_INCIDENTS: Final = ("conversation or group", "state", "rule", "#for", "#peak?", "#limit?", "since?")
_WORST: Final = ("conversation", "#breach", "#p95", "#loss", "#MOS", "#windows?")


def _section(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], shown: int, width: int
) -> list[RenderableType]:
    from rich.text import Text

    head = [Text(""), Text(printable(title), style="bold underline")]
    return [*head, laid_out(columns, rows[:shown], width) if rows else Text("none", style="dim")]


def _incident(row: dict[str, Any], now: float) -> tuple[str, ...]:
    if row["conversation"] is not None:
        of = row["conversation"]
    else:
        of = ", ".join(f"{name} {value}" for name, value in (row["grouped"] or {}).items()) or "-"
    state = "event" if not row["lasting"] else "OPEN" if row["resolved"] is None else "resolved"
    end = now if row["resolved"] is None else row["resolved"]
    length = duration(end - row["raised"]) if row["lasting"] else "-"
    peak, limit = (rule_value(row[key], row["rule"]) for key in ("peak", "threshold"))
    return of, state, rule_name(row["rule"]), length, peak, limit, utc(row["raised"], "%H:%M:%S")


def _conversation(row: dict[str, Any]) -> tuple[str, ...]:
    share = percent(row["breaching"] / row["windows"]) if row["windows"] else "-"
    return row["id"], share, milliseconds(row["p95"]), percent(row["loss"]), mos(row["mos"]), str(row["windows"])


def _group(row: Any) -> tuple[str, ...]:
    share = percent(row.breaching / row.windows) if row.windows else "-"
    return row.value, share, milliseconds(row.p95), percent(row.loss), mos(row.mos), str(row.windows)


def _filled(texts: Sequence[str], width: int) -> list[str]:
    """Return lines of texts, several on one where they fit.

    >>> _filled(["one", "two", "three"], 10)
    ['one | two', 'three']
    """
    lines: list[str] = []
    for text in texts:
        if lines and len(lines[-1]) + len(text) + 3 <= width:
            lines[-1] += f" | {text}"
        else:
            lines.append(text)
    return lines
