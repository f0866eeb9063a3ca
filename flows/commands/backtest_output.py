"""Print the result of `voicewatch backtest` as a table or JSON, or write it as a page."""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import orjson

from connectors.format.rule_names import TITLES
from connectors.state.files import state_errors
from flows.analytics.rule_sets import FLAP_S, Change, Incident
from flows.analytics.spread import Spread
from flows.commands.backtest import Backtest

__all__ = ["print_backtest", "print_backtest_json", "write_backtest_page"]

COLUMNS: Final = ("rule set", "incidents", "min in alert", "flaps", "conversations", "open", "sent", "new", "gone")
SHOWN: Final = 500
_STYLE: Final = """
:root { color-scheme: light dark; --line: light-dark(#d0d4da, #3a404a); --text: light-dark(#1c2128, #e4e8ee); }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: var(--text);
  background: light-dark(#fff, #14171c); }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.scroll { overflow-x: auto } .scroll:focus-visible { outline: 3px solid #1d4ed8 }
.note { color: light-dark(#55616e, #a3b1bd) }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap }
td.number, th.number { text-align: right }
.kind::before { display: inline-block; width: 1.2em; font-weight: bold }
.appears::before { content: "+" } .vanishes::before { content: "−" } .longer::before { content: "↑" }
.shorter::before { content: "↓" }
@media print { body { margin: 0; max-width: none } details > * { display: block } }
"""


def print_backtest(compared: Backtest) -> None:
    """Print a row for each rule set; the last two columns count the differences from the first one."""
    from flows.commands.tables import console_of_output, laid_out

    console = console_of_output()
    columns = (COLUMNS[0], *(f"#{name}" for name in COLUMNS[1:]))
    console.print(laid_out(columns, _rows(compared), console.width), soft_wrap=True)
    print(f"{compared.frames} frames until {_time(compared.end)}" + ("" if compared.is_whole else "; INTERRUPTED"))


def print_backtest_json(compared: Backtest) -> None:
    """Print all incidents and differences as one JSON object."""
    rule_sets = []
    for index, (name, figures) in enumerate(zip(compared.names, compared.figures(), strict=True)):
        rule_sets.append(
            {
                "name": name,
                "figures": figures._asdict(),
                "incidents": [_incident(one) for one in compared.incidents[index]],
                "differences": [_change(change) for change in compared.changes(index)] if index else [],
            }
        )
    value = {"frames": compared.frames, "end": compared.end, "whole": compared.is_whole, "ruleSets": rule_sets}
    value["spread"] = {"latency_ms": _spread(compared.latency), "packet_loss": _spread(compared.packet_loss)}
    print(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def write_backtest_page(compared: Backtest, path: Path) -> None:
    """Write the comparison as one HTML file that needs nothing else. Raises StateError."""
    digest = b64encode(sha256(_STYLE.encode()).digest()).decode()
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'sha256-{digest}'\">",
        f"<title>Backtest</title><style>{_STYLE}</style><main><h1>What other limits would have raised</h1>",
        f"<p>{compared.frames:,} frames until {_time(compared.end)}.",
        "" if compared.is_whole else " <strong>Interrupted: the figures are of a part of the recording.</strong>",
        _table(COLUMNS, _rows(compared), "Figures of each rule set"),
        f"<p class=note>A flap is an incident that is resolved within {FLAP_S:g} s.",
        " <em>Sent</em>: those whose alert has a callback URL and is held back neither by its group nor by the cap.",
        f" <em>New</em> and <em>gone</em>: those that appear and vanish against {html.escape(compared.names[0])}.</p>",
    ]
    for index, name in enumerate(compared.names[1:], 1):
        differences = compared.changes(index)
        parts.append(f"<h2>{html.escape(name)} against {html.escape(compared.names[0])}</h2>")
        if not differences:
            parts.append("<p>The same incidents.</p>")
            continue
        left_out = len(differences) - SHOWN
        parts.append(_changes_table(differences[:SHOWN], f"Differences of {name}"))
        if left_out > 0:
            parts.append(f"<p>{left_out:,} more differences; <code>--json</code> lists all.</p>")
    with state_errors(f"writing {path}"):
        path.write_text("".join([*parts, "</main>"]))


def _rows(compared: Backtest) -> list[tuple[str, ...]]:
    rows = []
    for index, (name, figures) in enumerate(zip(compared.names, compared.figures(), strict=True)):
        kinds = [change.kind for change in compared.changes(index)] if index else []
        new, gone = ("-", "-") if not index else (str(kinds.count("appears")), str(kinds.count("vanishes")))
        numbers = (figures.incidents, f"{figures.in_alert_min:.1f}", *figures[2:])
        rows.append((name, *map(str, numbers), new, gone))
    return rows


def _changes_table(differences: Sequence[Change], name: str) -> str:
    head = ("difference", "since (UTC)", "rule", "conversation or group", "before s", "after s")
    rows = [
        (
            change.kind,
            _time(change.incident.began_at),
            TITLES.get(change.incident.rule, change.incident.rule),
            change.incident.conversation_id or ", ".join(map(" ".join, change.incident.group)) or "-",
            _seconds(change.before_s),
            _seconds(change.after_s),
        )
        for change in differences
    ]
    return _table(head, rows, name, kinds=True)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], name: str, *, kinds: bool = False) -> str:
    def cell(tag: str, text: str, at: int, numeric: bool) -> str:  # noqa: FBT001 - two callers, below
        style = " class=number" if numeric else ""
        style += " scope=col" if tag == "th" else ""
        if kinds and at == 0 and tag == "td":
            style = f' class="kind {text}"'
        return f"<{tag}{style}>{html.escape(text)}</{tag}>"

    rows = [list(row) for row in rows]
    numeric = [all(_is_number(row[at]) for row in rows) for at in range(len(head))]
    lines = ["".join(cell("th", text, at, numeric[at]) for at, text in enumerate(head))]
    lines += ["".join(cell("td", text, at, numeric[at]) for at, text in enumerate(row)) for row in rows]
    table = "".join(f"<tr>{line}</tr>" for line in lines)
    label = html.escape(name, quote=True)
    return f'<div class=scroll tabindex=0 role=region aria-label="{label}"><table>{table}</table></div>'


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(".", "", 1).isdigit()


def _incident(incident: Incident) -> dict[str, Any]:
    return {
        "incidentId": incident.incident_id,
        "conversationId": incident.conversation_id,
        "rule": incident.rule,
        "began": incident.began_at,
        "ended": incident.ended_at,
        "value": incident.value,
        "group": dict(incident.group) or None,
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "kind": change.kind,
        **_incident(change.incident),
        "beforeSeconds": change.before_s,
        "afterSeconds": change.after_s,
    }


def _spread(spread: Spread) -> dict[str, Any]:
    return {"width": spread.width, "counts": spread.counts}


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"


def _time(at: float) -> str:
    if not -62_135_596_800 <= at < 253_402_300_800:  # outside the years 1 to 9999
        return "-"
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
