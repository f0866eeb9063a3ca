"""Print what commands did, on standard output: tables by Rich, and plain text, which needs no import of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from connectors.callbacks.outbox import Entry, State
    from flows.analytics.merge import Counts
    from flows.commands.bootstrap import BootstrapReport
    from flows.commands.demo import DemoResult
    from flows.commands.replay import Replayed
    from flows.settings.watch import WatchSettings

__all__ = [
    "age_text",
    "print_audit",
    "print_bootstrap",
    "print_counts",
    "print_demo",
    "print_entry",
    "print_json",
    "print_outbox",
    "print_outbox_json",
    "print_replay",
    "print_replay_json",
    "time_text",
]

MAX_TIME = 253_402_300_800.0  # the year 10000


def print_counts(
    counts: Counts, calls_not_watched: Mapping[str, int] = MappingProxyType({}), interceptors_created: int = 0
) -> None:
    """Print the counts of a live run, and of the calls found: interceptors created, and those not watched by reason."""
    print(
        f"{counts.frames} frames of {counts.conversations} watched conversation(s); {counts.windows} windows; "
        f"{counts.raised} alerts raised, {counts.resolved} resolved; {counts.unwatched} frames unwatched, "
        f"{counts.invalid + counts.rejected} invalid"
        + (f", {counts.ignored} ignored" if counts.ignored else "")
        + (f"; {counts.silent} no longer watched, without frames" if counts.silent else "")
        + (f"; {_late_text(counts)}" if counts.late else "")
    )

    if interceptors_created:
        print(f"interceptors created for calls found: {interceptors_created}")
    if calls_not_watched:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(calls_not_watched.items()))
        print(f"calls found and not watched: {reasons}")


def _late_text(counts: Counts) -> str:
    lag_ms = counts.late_us / 1e3
    return f"{counts.late} late event(s), older than the newest of their session; their lag is {lag_ms:.3f} ms together"


def print_bootstrap(report: BootstrapReport, watch: WatchSettings | None = None) -> None:
    """Print what became of each interceptor, and, in the mode `discover` of `watch`, which calls get theirs later."""
    for conversation_id in report.created:
        print(f"created   {conversation_id}")
    for conversation_id in report.existing:
        print(f"existing  {conversation_id}")
    for failure in report.failed:
        print(f"FAILED    {failure.conversation_id}: {failure.reason}")
    is_discovering = watch is not None and watch.mode == "discover"
    if report.created or report.existing or report.failed or not is_discovering:
        print(f"{len(report.created)} created, {len(report.existing)} existing, {len(report.failed)} failed")
    if watch is not None and is_discovering:
        print(f"discover: interceptors are created for {_calls_text(watch)}, when they are found")


def _calls_text(watch: WatchSettings) -> str:
    """Say which calls discovery takes."""
    chosen = [f"{name} {' or '.join(values)}" for name, values in watch.match.items()]
    calls = f"calls with {', '.join(chosen)}" if chosen else "all calls"
    share = f", a share of {watch.sample:g} of them" if watch.sample < 1 else ""
    return f"{calls}{share}, at most {watch.max} at a time"


def print_replay(replayed: Replayed) -> None:
    """Print the summary of a replay."""
    counts = replayed.counts
    rate = counts.frames / replayed.elapsed_s if replayed.elapsed_s else 0.0
    rows = [
        ("frames", f"{counts.frames}"),
        ("  unwatched", f"{counts.unwatched}"),
        *([("ignored messages", f"{counts.ignored}")] if counts.ignored else []),
        ("invalid messages", f"{counts.invalid}"),
        ("rejected lines", f"{counts.rejected}"),
        ("torn last lines", f"{counts.torn}"),
        ("conversations watched", f"{counts.conversations}"),
        *([("  no longer, without frames", f"{counts.silent}")] if counts.silent else []),
        ("windows", f"{counts.windows}"),
        ("alerts raised", f"{counts.raised}"),
        ("alerts resolved", f"{counts.resolved}"),
    ]
    name_width, value_width = (max(map(len, column)) for column in zip(*rows, strict=True))
    for name, value in rows:
        print(f"{name:<{name_width}}  {value:>{value_width}}")
    if replayed.stopped_at is not None:
        from flows.commands.replay import place_text

        print(f"interrupted at {place_text(replayed.stopped_at)}: the results are partial")
    print(f"{replayed.elapsed_s:.2f} s, {rate:,.0f} frames/s; results in {replayed.out}")
    if replayed.outbox is not None:
        print("callbacks: " + ", ".join(f"{count} {state}" for state, count in replayed.outbox.items()))
        if replayed.outbox["pending"] or replayed.outbox["dead"]:
            variable = f"VOICEWATCH_STATE__DIR={replayed.out}"
            print(f"why: `{variable} voicewatch outbox list CONFIG`")
            print(f"send them again: `{variable} voicewatch outbox retry CONFIG`")
    if counts.late:
        print(f"no latency taken from {_late_text(counts)}")
    if counts.no_latency:
        print(
            f"no latency known for {counts.no_latency} frames: their lines do not tell when they arrived or were sent"
        )
    if counts.frames and counts.unwatched == counts.frames:
        print(
            "No frame was of a watched conversation: the recording holds no watch records for them. "
            'Give a --config with [alerts] unwatched = "default" to watch every conversation.'
        )


def print_replay_json(replayed: Replayed) -> None:
    """Print the summary of a replay as JSON."""
    rate = replayed.counts.frames / replayed.elapsed_s if replayed.elapsed_s else 0.0
    print_json({**{name: getattr(replayed, name) for name in replayed.__dataclass_fields__}, "frames_per_s": rate})


def print_demo(result: DemoResult) -> None:
    """Print the summary of a demo: a row for each conversation."""
    from flows.commands.tables import console_of_output, laid_out

    columns = (
        "conversation",
        "queue",
        "edge",
        "#frames?",
        "#p95 ms",
        "#loss %",
        "#raised",
        "#inhibited?",
        "#delivered?",
    )
    rows = [
        (
            row.conversation_id,
            row.labels.get("queue", "-"),
            row.labels.get("edge", "-"),
            f"{row.frames}",
            "-" if row.worst_p95_ms is None else f"{row.worst_p95_ms:.0f}",
            "-" if row.worst_loss is None else f"{row.worst_loss * 100:.1f}",
            f"{row.raised}",
            f"{row.inhibited}",
            f"{row.delivered}",
        )
        for row in result.conversations
    ]
    console = console_of_output()
    console.print(laid_out(columns, rows, console.width), soft_wrap=True)
    console.print()
    for alert in result.groups:
        group = ", ".join(f"{name} {value}" for name, value in alert["group"].items())
        bad = f"{alert['breaching']} of {alert['conversations']} conversations"
        console.print(f"{group}: GROUP_DEGRADED {alert['state']}, {bad} with bad frames")
    if result.raised:
        console.print("raised: " + ", ".join(f"{number} {rule}" for rule, number in result.raised.items()))
    print_counts(result.counts)
    console.print(
        f"{result.delivered} callbacks delivered and verified by the receiver, "
        f"{result.pending} pending; audit log intact: {result.audit_lines} lines"
    )


def print_outbox(entries: Sequence[Entry], counts: Mapping[State, int], now: float) -> None:
    """Print pending and dead callbacks, and the age of the oldest pending one; of URLs only the origin."""
    from connectors.callbacks.policy import safe_origin
    from flows.commands.tables import console_of_output, laid_out

    console = console_of_output()
    if entries:
        columns = ("alert", "conversation", "state", "#attempts", "next attempt", "last error", "receiver")
        rows = []
        for entry in entries:
            due = "-" if entry.state != "pending" else time_text(entry.due_at) if entry.due_at else "at once"
            error = entry.last_error or "-"
            error = f"{error} | {entry.answer}" if entry.answer else error
            attempts, receiver = f"{entry.attempts}", safe_origin(entry.url)
            rows.append((entry.id, entry.conversation_id, entry.state, attempts, due, error, receiver))
        console.print(laid_out(columns, rows, console.width), soft_wrap=True)
    oldest_s = _oldest_s(entries, now)
    oldest = "" if oldest_s is None else f" (the oldest for {age_text(oldest_s)})"
    parts = [f"{count} {state}" + (oldest if state == "pending" else "") for state, count in counts.items()]
    console.print(", ".join(parts), soft_wrap=True)


def age_text(seconds: float) -> str:
    """Return an age in words: seconds, minutes, hours and minutes, or days."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if days >= 2:
        return f"{days:.0f} days"
    return f"{hours:.0f} h {minutes % 60:.0f} min" if hours else f"{minutes:.0f} min" if minutes else f"{seconds:.0f} s"


def print_entry(entry: Entry) -> None:
    """Print a callback as JSON, its body as an object; of its URL only the origin."""
    print_json(_entry(entry))


def print_outbox_json(entries: Sequence[Entry], counts: Mapping[State, int], now: float) -> None:
    """Print pending and dead callbacks as JSON, with the counts of all states and the age of the oldest pending one."""
    print_json(
        {"callbacks": [_entry(entry) for entry in entries], "counts": counts, "oldest_s": _oldest_s(entries, now)}
    )


def _entry(entry: Entry) -> dict[str, Any]:
    from connectors.callbacks.policy import safe_origin

    body = None if entry.body is None else orjson.loads(entry.body)
    return {**asdict(entry), "url": safe_origin(entry.url), "body": body}


def _oldest_s(entries: Sequence[Entry], now: float) -> float | None:
    return max((now - entry.created_at for entry in entries if entry.state == "pending"), default=None)


def print_json(value: Any) -> None:
    """Print a value as indented JSON: dataclasses and named tuples as objects, paths as texts."""
    print(orjson.dumps(value, default=_plain, option=orjson.OPT_INDENT_2).decode())


def _plain(value: Any) -> Any:
    return value._asdict() if hasattr(value, "_asdict") else str(value)


def print_audit(path: Path, *, as_json: bool = False) -> None:
    """Print an audit log as text, or its records as JSON Lines. Raise UsageError for a file that is not one."""
    from connectors.state.audit import read_log

    if as_json:
        for record in read_log(path):
            print(orjson.dumps(record).decode())
        return
    from rich.text import Text

    from flows.commands.tables import console_of_output, printable

    console = console_of_output()
    for record in read_log(path):
        details = {k: v for k, v in record.items() if k not in ("time", "action", "conversation", "outcome", "prev")}
        time, action = time_text(record.get("time")), str(record.get("action", "-"))
        conversation = "-" if record.get("conversation") is None else record["conversation"]
        line = f"{time}  {action:<22} {conversation}  {record.get('outcome', '')}"
        if details:
            line += "  " + " ".join(f"{key}={value}" for key, value in details.items())
        console.print(Text(printable(line)), soft_wrap=True)


def time_text(at: Any) -> str:
    """Return a time of epoch seconds in UTC; what is not one as it is."""
    if not isinstance(at, int | float) or not 0 <= at < MAX_TIME:
        return f"{at!r:<24}"  # of a line that was tampered with
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
