"""Query the read model for the views: small results, paged and summed up here and not in the browser."""

from __future__ import annotations

import sqlite3
from typing import Any, Final, NamedTuple

import orjson

from flows.web.model import EVERYTHING, MINUTE_S, Model

__all__ = [
    "LIVE_S",
    "LONG_SPANS",
    "PAGE",
    "PREFERRED",
    "SPANS",
    "Gap",
    "Span",
    "conversation",
    "conversations",
    "dimensions",
    "ended_at",
    "figures",
    "filters_of",
    "gaps_of",
    "groups",
    "held_by",
    "incidents",
    "labels",
    "live_at",
    "rules",
    "span_of",
    "usual_dimension",
]

PAGE: Final = 50
LIVE_S: Final = 30.0
SHOWN_CHILDREN: Final = 20
# The labels that are shown first, where there are any of them.
PREFERRED: Final = ("queue", "edge", "provider", "region", "division", "team")
# Spans that a view can look at, with the length of a column of the heat map.
SPANS: Final = {"15m": (900, 60), "1h": (3600, 60), "6h": (21_600, 300), "24h": (86_400, 900)}
# Those that a page offers where it keeps the time, and the what-if view where the journal does.
LONG_SPANS: Final = {"3d": (259_200, 3600), "7d": (604_800, 7200)}


class Span(NamedTuple):
    """Hold a range of time, epoch seconds; `name` is its key in SPANS, or `custom`."""

    name: str
    start: float
    end: float
    step: int


class Gap(NamedTuple):
    """Hold a time that a feed was not connected; `end` is None while it lasts."""

    feed: str
    start: float
    end: float | None
    reason: str


def now_of(model: Model) -> float:
    """Return the newest time in the files, in epoch seconds."""
    return max(model.newest, model.journal_at or 0.0)


def span_of(model: Model, query: dict[str, str], *, longest_s: float = 1e9, usual: str = "1h") -> Span:
    """Return the range that a query string asks for: `from` and `to` in epoch seconds, or the last `range` or `usual`.

    Of a range that is longer than `longest_s` the newest part is returned.
    """
    now = now_of(model)
    try:
        start, end = float(query["from"]), float(query.get("to", now))
    except (KeyError, ValueError):
        start = end = 0.0
    if end - start > longest_s:
        end = min(end, now)
        start = max(start, end - longest_s)
    if 0.0 <= start < end <= start + 1e9 and end < 1e11:
        steps = (step for step in (60, 300, 900, 3600, 7200) if (end - start) / step <= 96)
        return Span("custom", start, end, next(steps, MINUTE_S * 24 * 60))
    known = SPANS | LONG_SPANS
    name = query.get("range", usual)
    name = name if name in known else usual
    length, step = known[name]
    end = float(-(-now // step) * step) if now else float(length)
    return Span(name, end - length, end, step)


def figures(model: Model, span: Span) -> dict[str, Any]:
    """Return the figures that stand on top of every view."""
    db, now = model.db, now_of(model)
    live = live_at(model, now)
    (known, received) = db.execute("SELECT COUNT(*), COUNT(first) FROM conversations").fetchone()
    windows, breaching, mos = db.execute(
        "SELECT IFNULL(SUM(windows), 0), IFNULL(SUM(breaching), 0), MIN(mos) FROM cells"
        " WHERE name = ? AND minute >= ? AND minute < ?",
        (EVERYTHING, span.start, span.end),
    ).fetchone()
    (incidents,) = db.execute("SELECT COUNT(*) FROM incidents WHERE resolved IS NULL AND lasting").fetchone()
    shape = db.execute(
        "SELECT minute / :step * :step AS start, 1.0 * SUM(breaching) / SUM(windows) FROM cells"
        " WHERE name = :name AND minute >= :start AND minute < :end GROUP BY start ORDER BY start",
        {"name": EVERYTHING, "start": span.start, "end": span.end, "step": span.step},
    )
    share = breaching / windows if windows else None
    return {
        "shape": [[start, round(value, 4)] for start, value in shape],
        "live": live,
        "conversations": received,
        "watched": known,
        "windows": windows,
        "breaching": breaching,
        "share": share,
        "mos": mos,
        "open": incidents,
        "now": now,
        "journal_at": model.journal_at,
    }


def live_at(model: Model, at: float) -> int:
    """Return how many conversations were received in the last half minute before a time, or after it."""
    (live,) = model.db.execute("SELECT COUNT(*) FROM conversations WHERE last >= ?", (at - LIVE_S,)).fetchone()
    return int(live)


def ended_at(model: Model) -> float | None:
    """Return the time at which the last feed ended, in epoch seconds; None while one is up, or none is known."""
    (feeds,) = model.db.execute("SELECT COUNT(DISTINCT name) FROM feeds").fetchone()
    down = [gap.start for gap in gaps_of(model) if gap.end is None]
    return max(down) if down and len(down) == feeds else None


def dimensions(model: Model) -> list[str]:
    """Return the names by which the heat map can be cut: labels, then feed, conversation and all together."""
    names = [row[0] for row in model.db.execute("SELECT DISTINCT name FROM cells ORDER BY name")]
    own = [name for name in names if name not in (EVERYTHING, "feed")]
    return [*own, *(["feed"] if "feed" in names else []), "conversation", EVERYTHING]


def usual_dimension(model: Model, names: list[str]) -> str:
    """Return by what the fleet is shown at first: a name of `groups.by`, else a usual one; agents only by request."""
    first = (*(model.settings.get("groups", {}).get("by") or ()), *PREFERRED)
    return next((name for name in first if name in names), next(name for name in names if name != "agent"))


def labels(model: Model) -> list[str]:
    """Return the names of the labels that conversations have."""
    return [name for name in dimensions(model) if name not in ("feed", "conversation", EVERYTHING)]


def gaps_of(model: Model, since: float = 0.0) -> list[Gap]:
    """Return the times that feeds were not connected and that are not over before `since`."""
    gaps: list[Gap] = []
    down: dict[str, tuple[float, str]] = {}
    for row in model.db.execute("SELECT name, at, state, reason FROM feeds ORDER BY seq"):
        if row["state"] == "down":
            down.setdefault(row["name"], (row["at"], row["reason"]))
        elif row["name"] in down:
            start, reason = down.pop(row["name"])
            gaps.append(Gap(row["name"], start, row["at"], reason))
    gaps += [Gap(name, start, None, reason) for name, (start, reason) in down.items()]
    return [gap for gap in gaps if gap.end is None or gap.end >= since]


ORDERS: Final = {
    "breach": "1.0 * breaching / MAX(windows, 1) DESC, p95 DESC",
    "latency": "p95 DESC",
    "loss": "loss DESC",
    "mos": "mos IS NULL, mos",
    "last": "last DESC",
    "windows": "windows DESC",
}


def conversations(model: Model, span: Span, query: dict[str, str], page: int) -> tuple[list[dict[str, Any]], int]:
    """Return a page of the conversations that were received in a span, and how many there are.

    The query may name labels and values, `text` that ids begin with, and an `order`.
    """
    where, values = ["first < ?", "last > ?"], [span.end, span.start]
    filters: list[Any] = []
    for name, value in filters_of(query).items():
        if name == "feed":
            where.append("feed = ?")
            filters.append(value)
        else:
            where.append("n IN (SELECT n FROM labels WHERE name = ? AND value = ?)")
            filters += [name, value]
    if text := query.get("text"):
        where.append("instr(id, ?)")
        filters.append(text)
    if query.get("only") == "breach":
        where.append("breaching > 0")
    order = ORDERS.get(query.get("order", "breach"), ORDERS["breach"])
    condition = " AND ".join(where)
    arguments = [*values, *filters]
    (total,) = model.db.execute(f"SELECT COUNT(*) FROM conversations WHERE {condition}", arguments).fetchone()  # noqa: S608 - texts of ours
    rows = model.db.execute(
        f"SELECT * FROM conversations WHERE {condition} ORDER BY {order}, id LIMIT ? OFFSET ?",  # noqa: S608
        [*arguments, PAGE, page * PAGE],
    )
    return [_plain(row) for row in rows], total


def filters_of(query: dict[str, str]) -> dict[str, str]:
    """Return the labels, and the feed, that a query string asks for: its keys that begin with `l.`."""
    return {key[2:]: value for key, value in query.items() if key.startswith("l.")}


_INCIDENTS: Final = (
    "SELECT *, (SELECT COUNT(*) FROM incidents AS c WHERE c.parent = incidents.id) AS held FROM incidents"
)
# The value of a label that an incident has, or that the group has which it is of.
_LABEL_OF_INCIDENT: Final = (
    "IFNULL((SELECT value FROM json_each(labels) WHERE key = ?), (SELECT value FROM json_each(grouped) WHERE key = ?))"
)


def incidents(model: Model, span: Span, query: dict[str, str], page: int) -> tuple[list[dict[str, Any]], int]:
    """Return a page of the incidents that are open or overlap a span, open ones first, and how many there are.

    Incidents that were not sent because of another one are counted in its `held` and listed by `under=ID`. With a
    filter of theirs they stand for themselves. With `group` (a label, or `rule`) they are in the order of its values,
    those of most open incidents first; each has the value as `group`, with its numbers `group_count` and `group_open`.
    """
    where = ["(resolved IS NULL AND lasting OR raised < ? AND IFNULL(resolved, raised) >= ?)"]
    values: list[Any] = [span.end, span.start]
    if parent := query.get("under"):
        where.append("parent = ?")
        values.append(parent)
    elif not query.keys() & {"rule", "conversation"} and not filters_of(query):
        where.append("(parent IS NULL OR parent NOT IN (SELECT id FROM incidents))")
    if rule := query.get("rule"):
        where.append("rule = ?")
        values.append(rule)
    if (state := query.get("state")) in ("open", "resolved"):
        where.append("resolved IS NULL AND lasting" if state == "open" else "(resolved IS NOT NULL OR NOT lasting)")
    if id_ := query.get("conversation"):
        where.append("conversation = ?")
        values.append(id_)
    for name, value in filters_of(query).items():
        if name == "feed":
            where.append("conversation IN (SELECT id FROM conversations WHERE feed = ?)")
            values.append(value)
        else:
            where.append("EXISTS (SELECT 1 FROM json_each(labels) AS l WHERE l.key = ? AND l.value = ?)")
            values += [name, value]
    condition = " AND ".join(where)
    (total,) = model.db.execute(f"SELECT COUNT(*) FROM incidents WHERE {condition}", values).fetchone()  # noqa: S608
    if by := query.get("group"):
        return _by_group(model, by, condition, values, page), total
    order = "resolved IS NOT NULL OR NOT lasting, raised DESC, id LIMIT ? OFFSET ?"
    rows = model.db.execute(f"{_INCIDENTS} WHERE {condition} ORDER BY {order}", [*values, PAGE, page * PAGE])
    return [_incident(model, row) for row in rows], total


def _by_group(model: Model, by: str, condition: str, values: list[Any], page: int) -> list[dict[str, Any]]:
    value, names = ("rule", []) if by == "rule" else (_LABEL_OF_INCIDENT, [by, by])
    places = model.db.execute(
        "SELECT id, value, COUNT(*) OVER w AS number, SUM(is_open) OVER w AS open FROM"  # noqa: S608 - texts of ours
        f" (SELECT id, raised, {value} AS value, resolved IS NULL AND lasting AS is_open FROM incidents"
        f" WHERE {condition}) WINDOW w AS (PARTITION BY value)"
        " ORDER BY value IS NULL, open = 0, number DESC, value, is_open DESC, raised DESC, id LIMIT ? OFFSET ?",
        [*names, *values, PAGE, page * PAGE],
    ).fetchall()
    found = []
    for id_, group, number, open_ in places:
        row = model.db.execute(f"{_INCIDENTS} WHERE id = ?", (id_,)).fetchone()
        found.append(_incident(model, row) | {"group": group, "group_count": number, "group_open": open_})
    return found


def held_by(model: Model, parent: str) -> list[dict[str, Any]]:
    """Return the newest incidents that were not sent because of another one."""
    rows = model.db.execute(
        "SELECT * FROM incidents WHERE parent = ? ORDER BY raised DESC, id LIMIT ?", (parent, SHOWN_CHILDREN)
    )
    return [_plain(row) for row in rows]


def groups(model: Model) -> list[dict[str, Any]]:
    """Return the newest window of each group, the worst share first, with its open incident."""
    open_ = {
        row["grouped"]: row["id"]
        for row in model.db.execute(
            "SELECT id, grouped FROM incidents WHERE grouped IS NOT NULL AND resolved IS NULL AND lasting"
        )
    }
    rows = [dict(row) for row in model.db.execute("SELECT * FROM groups WHERE until >= ?", (model.newest - LIVE_S,))]
    for row in rows:
        row["share"] = row["breaching"] / row["conversations"] if row["conversations"] else None
        row["incident"] = open_.get(orjson.dumps({row["name"]: row["value"]}).decode())
    return sorted(rows, key=lambda row: (row["incident"] is None, -(row["share"] or 0.0), row["name"], row["value"]))


def rules(model: Model) -> list[tuple[str, int]]:
    """Return the rules that incidents are of, with their numbers."""
    return [tuple(row) for row in model.db.execute("SELECT rule, COUNT(*) FROM incidents GROUP BY rule ORDER BY rule")]


def delivery_of(model: Model, incident: str) -> list[dict[str, Any]]:
    """Return the attempts to deliver the alerts of an incident, in their order."""
    rows = model.db.execute(
        "SELECT a.alert, a.at, a.action, a.outcome, a.endpoint, a.attempt, alerts.state, alerts.at AS alert_at"
        " FROM attempts AS a JOIN alerts ON alerts.id = a.alert WHERE alerts.incident = ? ORDER BY a.seq",
        (incident,),
    )
    return [dict(row) for row in rows]


def conversation(model: Model, id_: str) -> dict[str, Any] | None:
    """Return what is known of a conversation, with its incidents; None if it is not known."""
    row = model.db.execute("SELECT * FROM conversations WHERE id = ?", (id_,)).fetchone()
    if row is None:
        return None
    own = model.db.execute("SELECT * FROM incidents WHERE conversation = ? ORDER BY raised, id", (id_,))
    return _plain(row) | {"incidents": [_incident(model, incident) for incident in own]}


def _incident(model: Model, row: sqlite3.Row) -> dict[str, Any]:
    tracked = model.tracked(row["id"])
    course = {} if tracked is None else {"peak": tracked.peak}
    return (
        _plain(row)
        | course
        | {
            "delivery": delivery_of(model, row["id"]),
            "points": [] if tracked is None else tracked.points,
        }
    )


def _plain(row: sqlite3.Row) -> dict[str, Any]:
    plain = dict(row)
    for name in ("labels", "grouped"):
        if isinstance(plain.get(name), str):
            plain[name] = orjson.loads(plain[name])
    return plain
