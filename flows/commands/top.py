"""Show the figures of the live page in a terminal, during a run and after it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from connectors.errors import StateError, UsageError
from flows.commands.tables import laid_out, printable
from flows.state import StateLayout
from flows.web import cards, queries
from flows.web.heat import heat_map
from flows.web.history import receivers
from flows.web.reader import StateReader
from flows.web.words import duration, milliseconds, mos, percent, rule_name, rule_value, utc

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["open_reader", "read_all", "read_figures", "show_live", "show_once"]

EVERY_S: Final = 1.0
SHOWN: Final = 8


def open_reader(directory: Path) -> StateReader:
    """Return a reader of a state directory, or of a replay's results. Raises UsageError for another directory."""
    state = StateLayout(directory)
    if not any(path.exists() for path in (state.journal, state.windows, state.alerts)):
        raise UsageError(f"{directory}: is neither a state directory nor the results of a replay")
    return StateReader(directory, keep_s=max(length for length, _ in queries.SPANS.values()))


def read_figures(reader: StateReader, directory: Path, *, span: str, by: str | None, now: float) -> dict[str, Any]:
    """Return the figures of a span that ends with the newest record, and rows of each table, worst first.

    `by` names a label; without it the first of the usual labels is taken. Raises UsageError for a label that no
    conversation has, once everything was read.
    """
    failure = None
    try:
        waiting = receivers(StateLayout(directory).outbox)
    except sqlite3.Error as error:
        waiting, failure = [], str(error)
    with reader.model.lock:
        model = reader.model
        period = queries.span_of(model, {"range": span})
        figures = queries.figures(model, period)
        worst, total = queries.conversations(model, period, {}, 0)
        incidents, count = queries.incidents(model, period, {}, 0)
        names = queries.dimensions(model)
        if by is not None and by not in names and reader.caught_up.is_set():
            raise UsageError(f"--by {by}: no conversation has this label; there are {', '.join(names)}")
        name = next((one for one in ((by,) if by else queries.PREFERRED) if one in names), None)
        groups = [] if name is None else heat_map(model, period, name, "breach", 0).rows
        feeds = cards.feeds(model, period, [])["feeds"]
        ended_at = queries.ended_at(model)
        live_then = queries.live_at(model, figures["now"] if ended_at is None else ended_at)
    return {
        "span": span,
        **figures,
        "lag_s": None if figures["journal_at"] is None else max(now - figures["journal_at"], 0.0),
        "ended_at": ended_at,
        "live_then": live_then,
        "pending": sum(row["pending"] for row in waiting),
        "dead": sum(row["dead"] for row in waiting),
        "outbox_failure": failure,
        "feeds": [{"name": one["name"], "state": one["state"], "gaps": len(one["gaps"])} for one in feeds],
        "incidents": {"count": count, "rows": incidents},
        "worst": {"count": total, "rows": worst},
        "by": name,
        "groups": [
            {
                "value": row.value,
                **{key: getattr(row, key) for key in ("windows", "breaching", "minutes", "p95", "loss", "mos")},
            }
            for row in groups
        ],
    }


def read_all(reader: StateReader, directory: Path) -> None:
    """Read everything that the files hold now. Raises StateError."""
    try:
        reader.read_once()
    except OSError as error:
        raise StateError(f"{directory}: cannot be read: {error}") from error


def show_once(reader: StateReader, directory: Path, console: Console, *, span: str, by: str | None, now: float) -> None:
    """Print what the files say. Raises StateError, and UsageError for an unknown label."""
    read_all(reader, directory)
    figures = read_figures(reader, directory, span=span, by=by, now=now)
    for part in snapshot(figures, directory, console.width, SHOWN):
        console.print(part, soft_wrap=True)


def show_live(
    reader: StateReader,
    directory: Path,
    console: Console,
    stop: threading.Event,
    *,
    span: str,
    by: str | None,
    now: Callable[[], float],
) -> None:
    """Show the figures until `stop`, again each second; `now` is called for the time in epoch seconds."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    reader.start()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while not stop.is_set():
            # Three headings and their tables share what the head leaves.
            shown = max((console.height - 10) // 3, 1) if console.width >= 72 else max((console.height - 14) // 11, 1)
            figures = read_figures(reader, directory, span=span, by=by, now=now())
            parts = snapshot(figures, directory, console.width, shown)
            if reader.failure:
                parts.append(Text(f"the files cannot be read: {printable(reader.failure)}", style="bold red"))
            elif not reader.caught_up.is_set():
                parts.append(Text("reading the files ...", style="dim"))
            live.update(Group(*parts), refresh=True)
            stop.wait(EVERY_S)


def snapshot(figures: Mapping[str, Any], directory: Path, width: int, shown: int) -> list[RenderableType]:
    """Return the figures for a terminal of a width: at most `shown` rows in each table."""
    from rich.text import Text

    at = utc(figures["now"]) if figures["now"] else "nothing yet"
    lag_s, failure = figures["lag_s"], figures["outbox_failure"]
    head = [
        f"voicewatch {printable(str(directory))}",
        f"{at} UTC, last {figures['span']}",
        "no journal" if lag_s is None else f"last record {duration(lag_s)} ago",
    ]
    waiting = f"{_number(figures['pending'], 'callback')} waiting, {figures['dead']} dead"
    summary = [
        _live(figures),
        f"{percent(figures['share'])} of windows in breach",
        f"lowest MOS {mos(figures['mos'])}",
        _number(figures["open"], "open incident"),
        waiting if failure is None else f"the outbox cannot be read: {failure}",
        *(f"{printable(feed['name'])} {feed['state']} ({_number(feed['gaps'], 'gap')})" for feed in figures["feeds"]),
    ]
    parts: list[RenderableType] = [Text(line, style="bold") for line in _filled(head, width)]
    parts += [Text(line) for line in _filled(summary, width)]
    incidents, worst = figures["incidents"], figures["worst"]
    rows = [_incident(row, figures["now"]) for row in incidents["rows"]]
    parts += _section(f"Incidents ({incidents['count']})", _INCIDENTS, rows, shown, width)
    rows = [_sums(row["id"], row) for row in worst["rows"]]
    parts += _section(f"Worst conversations ({worst['count']})", _WORST, rows, shown, width)
    if figures["groups"]:
        rows = [_sums(row["value"], row) for row in figures["groups"]]
        title = f"By {figures['by']} ({len(figures['groups'])})"
        parts += _section(title, (figures["by"], *_WORST[1:]), rows, shown, width)
    return parts


def _live(figures: Mapping[str, Any]) -> str:
    """Return how many conversations are live, or were when all feeds ended or at the last record.

    >>> figures = {"live": 0, "live_then": 8, "conversations": 19, "feeds": [1], "ended_at": 1.0, "lag_s": 90.0}
    >>> _live(figures)
    '8 when the feed ended, of 19 received'
    >>> _live(figures | {"ended_at": None}), _live(figures | {"ended_at": None, "live": 8, "lag_s": 0.5})
    ('8 at the last record, of 19 received', '8 live of 19 received')
    """
    of = f"of {figures['conversations']} received"
    if figures["ended_at"] is not None:
        return f"{figures['live_then']} when the feed{'s' * (len(figures['feeds']) > 1)} ended, {of}"
    if figures["lag_s"] is None or figures["lag_s"] > queries.LIVE_S:
        return f"{figures['live_then']} at the last record, {of}"
    return f"{figures['live']} live {of}"


def _number(count: int, name: str) -> str:
    return f"{count} {name}{'s' * (count != 1)}"


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


def _sums(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    share = percent(row["breaching"] / row["windows"]) if row["windows"] else "-"
    return name, share, milliseconds(row["p95"]), percent(row["loss"]), mos(row["mos"]), str(row["windows"])


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
