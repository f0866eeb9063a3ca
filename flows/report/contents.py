"""Put together what a report shows, out of what was read."""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from connectors.state.files import state_errors
from flows.analytics.rule_sets import FLAP_S
from flows.report.coverage import Coverage, coverage_of, gaps_of_feeds
from flows.report.days import days_of
from flows.report.failures import failures_of
from flows.report.figures import MIN_RANKED, Ranked, Totals, bands_of, bars_of, ranked, step_of, totals, worst
from flows.report.gather import Gathered
from flows.report.incidents import LENGTHS, Incident, by_rule, minutes_in_alert
from flows.report.windows import Windows
from flows.state import StateLayout
from flows.web.history import shown_of
from flows.web.what_if import digest_of

__all__ = ["contents"]

WORST: Final = 8
SHOWN_VALUES: Final = 10
SHOWN_GAPS: Final = 40
SHOWN_INCIDENTS: Final = 12
MAX_POINTS: Final = 720
# In the order in which they are asked about; other labels follow by name.
LABELS: Final = ("queue", "edge", "provider", "trunk", "region", "division", "team", "agent", "direction", "media")
MAX_LABELS: Final = 8


def contents(gathered: Gathered, *, names_agents: bool, now: float) -> dict[str, Any]:
    """Return what the page of a report is made of. `now` is when it is made, in epoch seconds.

    Agents are numbered, worst first, unless `names_agents`. Raises StateError for files that cannot be read again.
    """
    period = gathered.period
    windows = _within(gathered.windows, period.start, period.end)
    sums = totals(windows)
    labels = _labels(windows)
    raised = [one for one in gathered.incidents if period.start <= one.raised < period.end]
    hidden = _Hidden(None if names_agents else _numbers(labels, raised))
    current = _side(gathered, sums, period.start, period.end)
    before = None
    if period.before is not None:
        earlier = _within(gathered.windows, *period.before)
        before = _side(gathered, totals(earlier), *period.before)
    return {
        "directory": str(gathered.directory.absolute()),
        "period": period,
        "made_at": now,
        "now": current,
        "before": before,
        "step_s": step_of(period.end - period.start),
        "bars": bars_of(windows, period.start, period.end),
        "days": days_of(
            windows,
            gathered.incidents,
            period.start,
            period.end,
            lambda begin, end: _coverage(gathered, begin, end).share,
        ),
        "gaps": _gaps(current["coverage"]),
        "clocks": [one for one in gathered.journal.clocks if period.start <= one[0] < period.end],
        "labels": [(name, hidden.rows(name, rows)) for name, rows in labels],
        "min_ranked": MIN_RANKED,
        "shown_values": SHOWN_VALUES,
        "bands": bands_of(windows),
        "lengths": [name for _, name in LENGTHS],
        "rules": by_rule(raised, period.end),
        "failures": failures_of(raised, hidden.labels),
        "groups": [replace(one, group=hidden.labels(one.group)) for one in raised if one.group][:SHOWN_INCIDENTS],
        "worst": [_conversation(gathered, windows, place, hidden) for place in worst(windows, WORST)],
        "limits": Counter((one.max_latency_ms, one.packet_loss_threshold) for one in gathered.limits.values()),
        "settings": _settings(gathered, hidden),
        "has_journal": bool(gathered.journal.files),
        "bad_lines": gathered.windows.bad_lines,
        "verdict": gathered.audit.verdict,
        "digests": _digests(gathered),
        "command": _command(gathered, names_agents=names_agents),
    }


class _Hidden:
    """Put numbers in the place of the names of agents; with None the names stay."""

    def __init__(self, numbers: Mapping[str, str] | None) -> None:
        self._numbers = numbers

    def of(self, name: str, value: str) -> str:
        return value if name != "agent" or self._numbers is None else self._numbers.get(value, "other")

    def rows(self, name: str, rows: Sequence[Ranked]) -> list[Ranked]:
        return [Ranked(self.of(name, row.value), row.rank, row.totals) for row in rows]

    def labels(self, labels: Mapping[str, str]) -> dict[str, str]:
        return {name: self.of(name, value) for name, value in labels.items()}

    def setting(self, key: str, value: str | None) -> str | None:
        return value if value is None else self.of(key.rpartition(".")[2], value)


def _numbers(labels: Sequence[tuple[str, Sequence[Ranked]]], incidents: Sequence[Incident]) -> dict[str, str]:
    """Return a number for each agent: first the ranked ones in order, then those that only incidents name."""
    ranked_agents = next(([row.value for row in rows] for name, rows in labels if name == "agent"), [])
    named = [labels for one in incidents for labels in (one.labels, one.group or {}) if "agent" in labels]
    others = Counter(labels["agent"] for labels in named)
    agents = dict.fromkeys([*ranked_agents, *(agent for agent, _ in others.most_common())])
    return {agent: f"no. {place}" for place, agent in enumerate(agents, 1)}


def _within(windows: Windows, start: float, end: float) -> Windows:
    return windows.at((windows.end >= start) & (windows.end < end))


def _side(gathered: Gathered, sums: Totals, start: float, end: float) -> dict[str, Any]:
    """Return the figures of one period, to be compared with those of the other."""
    incidents = gathered.incidents
    raised = [one for one in incidents if start <= one.raised < end]
    lasting = [one for one in raised if one.is_lasting]
    sent = [(action, outcome) for at, action, outcome in gathered.audit.callbacks if start <= at < end]
    actions = Counter(action for action, _ in sent)
    return {
        "totals": sums,
        "coverage": _coverage(gathered, start, end),
        "incidents": len(raised),
        "flaps": sum(one.resolved is not None and one.length_s(end) < FLAP_S for one in lasting),
        "open": sum(one.is_lasting and one.raised < end and (one.resolved or float("inf")) >= end for one in incidents),
        "in_alert_min": minutes_in_alert(incidents, start, end),
        "inhibited": sum(one.is_inhibited for one in raised),
        "delivered": actions["CALLBACK_DELIVERED"],
        "failed": actions["CALLBACK_FAILED"],
        "dead": actions["CALLBACK_DEAD"],
        "has_audit": bool(gathered.audit.times),
    }


def _coverage(gathered: Gathered, start: float, end: float) -> Coverage:
    journal, audit = gathered.journal, gathered.audit
    # The audit log is kept for longer than the journal, which says more.
    earlier = [one for one in audit.feeds if journal.begin is None or one.at < journal.begin]
    ends = gathered.windows.end
    others = [*audit.times[:1], *audit.times[-1:]]
    others += [float(gathered.windows.start.min()), float(ends.max())] if len(ends) else []
    feeds = gaps_of_feeds([*earlier, *journal.feeds], end)
    return coverage_of(start, end, journal, feeds, others)


def _gaps(coverage: Coverage) -> dict[str, Any]:
    """Return the gaps in the order of time: the longest ones, if there are very many."""
    rows = [("everything", one) for one in coverage.silent]
    silent = {(one.start, one.end) for one in coverage.silent}
    rows += [(feed.feed, gap) for feed in coverage.feeds for gap in feed.gaps if (gap.start, gap.end) not in silent]
    if len(coverage.feeds) == 1:  # its gaps are those of everything, and say why
        known = {(gap.start, gap.end): gap for gap in coverage.feeds[0].gaps}
        rows = [(name, known.get((gap.start, gap.end), gap)) for name, gap in rows]
    longest = sorted(rows, key=lambda row: row[1].start - row[1].end)[:SHOWN_GAPS]
    return {"rows": sorted(longest, key=lambda row: row[1].start), "left_out": len(rows) - len(longest)}


def _labels(windows: Windows) -> list[tuple[str, list[Ranked]]]:
    """Return the values of each label, worst first."""
    names = {name for labels in windows.label_sets for name in labels}
    ordered = sorted(names, key=lambda name: (LABELS.index(name) if name in LABELS else len(LABELS), name))
    rows = [(name, ranked(windows, [labels.get(name) for labels in windows.label_sets])) for name in ordered]
    return [(name, values) for name, values in rows if values][:MAX_LABELS]


def _conversation(gathered: Gathered, windows: Windows, place: int, hidden: _Hidden) -> dict[str, Any]:
    """Return one conversation: its figures, its incidents, and the points of its charts."""
    own = windows.at(np.flatnonzero(windows.conversation == place))
    id_ = windows.ids[place]
    start, end = float(own.start.min()), float(own.end.max())
    incidents = [
        one
        for one in gathered.incidents
        if one.conversation == id_ and one.raised < end + FLAP_S and (one.resolved or end) >= start
    ]
    limits = gathered.limits.get(id_)
    silent = list(_coverage(gathered, start, end).silent)
    return {
        "id": id_,
        "start": start,
        "end": end,
        "totals": totals(own),
        "highest_loss": _highest(own.loss_max),
        "labels": hidden.labels(windows.label_sets[int(own.labelled[-1])]),
        "limits": limits,
        "model": windows.models[int(own.model[-1])] if own.model[-1] >= 0 else None,
        "incidents": incidents[:SHOWN_INCIDENTS],
        "left_out": max(len(incidents) - SHOWN_INCIDENTS, 0),
        "gaps": silent,
        "points": _points(own, start, end, incidents, silent),
    }


def _points(
    own: Windows, start: float, end: float, incidents: Sequence[Incident], silent: Sequence[Any]
) -> dict[str, Any]:
    """Return the points of a conversation's charts; the worst of neighbours where there are very many windows."""
    width = -(-len(own) // MAX_POINTS)
    edges = np.arange(0, len(own), width)

    def worst_of(values: Any, digits: int) -> list[float | None]:
        with np.errstate(invalid="ignore"):
            found = np.fmax.reduceat(values, edges)
        return [None if value != value else round(value, digits) for value in found.tolist()]

    spans = [(one.raised, end if one.resolved is None else one.resolved) for one in incidents if one.is_lasting]
    lows = worst_of(-own.mos, 3)
    return {
        "x": [round(at, 3) for at in own.end[edges].tolist()],
        "step": float(np.median(own.end[1:] - own.end[:-1])) * width if len(own) > 1 else 5.0,
        "p50": worst_of(own.p50_ms, 1),
        "p95": worst_of(own.p95_ms, 1),
        "loss": worst_of(own.loss_max * 100, 3),
        "mos": [None if low is None else -low for low in lows],
        "spans": [[max(a, start), min(b, end)] for a, b in spans if b > start and a < end],
        "gaps": [[gap.start, gap.end] for gap in silent],
        "from": start,
        "to": end,
    }


def _highest(values: Any) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) else None


def _settings(gathered: Gathered, hidden: _Hidden) -> dict[str, Any]:
    """Return the settings in force at the end of the period, and when they changed within it."""
    period = gathered.period
    known = [(at, dict(_flat(settings))) for at, settings in gathered.journal.settings if at < period.end]
    changes = []
    for (_, old), (at, new) in itertools.pairwise(known):
        if at >= period.start:
            keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
            changes.append((at, [(key, *(hidden.setting(key, one.get(key)) for one in (old, new))) for key in keys]))
    rows = [(key, hidden.setting(key, value)) for key, value in sorted(known[-1][1].items())] if known else []
    return {"rows": rows, "changes": changes}


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Return keys and values of nested tables; of addresses only the origin, for the rest may hold a secret."""
    if isinstance(value, dict) and value:
        return [one for key, inner in value.items() for one in _flat(inner, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [one for place, inner in enumerate(value, 1) for one in _flat(inner, f"{name}[{place}]")]
    if isinstance(value, bool):
        return [(name, "true" if value else "false")]
    if isinstance(value, str):
        return [(name, shown_of(value))]
    return [(name, f"{value:g}" if isinstance(value, float) else str(value))]


def _command(gathered: Gathered, *, names_agents: bool) -> str:
    """Return the command that writes the same report again."""
    own = StateLayout(gathered.directory).journal.absolute()
    given = [path.absolute() for path in gathered.journal.files if path.absolute().parent != own]
    words = ["voicewatch", "report", str(gathered.directory.absolute())]
    words += [word for path in given for word in ("--journal", str(path))]
    period = gathered.period
    words += ["--from", _iso(period.start)] if period.before is not None else []
    words += ["--to", _iso(period.end), *(["--agents"] if names_agents else []), "--out", "report.html"]
    return shlex.join(words)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def _digests(gathered: Gathered) -> list[tuple[str, int, str]]:
    """Return name, size and SHA-256 of the files of results, and of the journal as a whole."""
    found = []
    journal = gathered.journal.files
    with state_errors("reading the files again"):
        for path in [one for one in gathered.files if one not in journal]:
            size = path.stat().st_size
            found.append((path.name, size, digest_of([path], [size])))
        if journal:
            sizes = [path.stat().st_size for path in journal]
            name = journal[0].name if len(journal) == 1 else f"{journal[0].name} to {journal[-1].name}"
            found.append((f"journal, {name}", sum(sizes), digest_of(journal, sizes)))
    return found
