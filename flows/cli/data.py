"""Define the commands that show or hand out results: report, top, export, merge, schema."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from connectors.errors import UsageError
from flows.cli.common import AsJson, Command, read_for, stop_on_signals
from flows.cli.progress import progress_bar

if TYPE_CHECKING:
    from flows.settings.models import Settings

__all__ = ["app"]

app = typer.Typer()


@app.command(cls=Command)
def export(
    source: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A state directory, or the results of a replay.", show_default=False),
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.", show_default=False)],
    begin: Annotated[str, typer.Option("--from", metavar="TIME", help="The first moment; ISO 8601, UTC.")] = "-inf",
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="The moment at which the span ends.")] = "inf",
    file_format: Annotated[
        Literal["jsonl", "parquet"], typer.Option("--format", metavar="jsonl|parquet", help="The format.")
    ] = "jsonl",
) -> None:
    """Write windows, groups and alerts of a span of time as JSON Lines or Parquet."""
    from flows.commands.export import export as export_files
    from flows.commands.export import parse_time

    span = parse_time(begin, "--from"), parse_time(end, "--to")
    counts = export_files(source, out, begin=span[0], end=span[1], file_format=file_format)
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()) + f" written to {out}")


@app.command(cls=Command)
def merge(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR...",
            help="The state directories of all instances; with --follow also addresses of their live pages.",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.", show_default=False)],
    config: Annotated[
        Path | None, typer.Option(metavar="CONFIG", help="Judge the incidents of groups by its [groups].")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Add up groups and send their incidents while the instances run.")
    ] = False,
    leave_out_after: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=1.0, help="With --follow: go on without an instance silent for so long."),
    ] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Merge the results of instances that divide the conversations ([shard]); add up their groups."""
    if follow:
        _follow(sources, out, config, leave_out_after, as_json=as_json)
        return
    from flows.commands.merge import merge as merge_results
    from flows.commands.output import print_json
    from flows.settings.effects import MERGE

    merged = merge_results(list(map(Path, sources)), out, None if config is None else _read(config, "merge", MERGE))
    if as_json:
        print_json(merged)
        return
    print(", ".join(f"{count} {kind}" for kind, count in merged.counts.items()) + f" written to {out}")
    for index in merged.missing:
        print(f"no group has a part of instance {index}")


def _follow(sources: list[str], out: Path, config: Path | None, leave_out_after_s: float, *, as_json: bool) -> None:
    if config is None:
        raise UsageError("--follow needs --config: its [groups] say what an incident is, and where it is sent")
    shutdown = stop_on_signals()
    from flows.commands.merge_follow import follow
    from flows.commands.output import print_json
    from flows.settings.effects import FOLLOW

    settings = _read(config, "merge --follow", FOLLOW)
    print(f"Following {len(sources)} instances until a signal ...", file=sys.stderr)
    counts = follow(sources, out, settings, os.environ, shutdown, leave_out_after_s=leave_out_after_s)
    if as_json:
        print_json(counts)
    else:
        print(f"{counts.windows} windows of groups, {counts.raised} incidents raised, {counts.resolved} resolved")


def _read(config: Path, command: str, read: Collection[str]) -> Settings:
    """Return the settings that all instances share, also if they say of none which instance it is."""
    # [shard] is in it for the instances, and a number from here is not in the file: neither is worth a note.
    return read_for(config, command, {*read, "shard"}, {"VOICEWATCH_SHARD_INDEX": "0", **os.environ})


@app.command(cls=Command)
def report(
    source: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="A state directory, or the results of a replay.")
    ] = Path("state"),
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")] = Path("report.html"),
    begin: Annotated[
        str, typer.Option("--from", metavar="TIME", help="The first moment; ISO 8601, UTC. Also compares with before.")
    ] = "-inf",
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="The moment at which the period ends.")] = "inf",
    journal: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="The recordings that a replay was of; may be given several times."),
    ] = None,
    agents: Annotated[bool, typer.Option("--agents", help="Name agents; otherwise they are numbered.")] = False,
) -> None:
    """Write one HTML file about a period: coverage, totals, worst groups and conversations, incidents, settings."""
    from flows.commands.export import parse_time
    from flows.commands.report import report as write_report

    span = parse_time(begin, "--from"), parse_time(end, "--to")
    with progress_bar("Reading") as progress:
        reported = write_report(
            source,
            out,
            journal=journal or [],
            begin=span[0],
            end=span[1],
            names_agents=agents,
            now=time.time(),
            progress=progress,
        )
    covered = "coverage unknown" if reported.covered is None else f"{reported.covered * 100:.1f} % of the time covered"
    print(
        f"{out}: {reported.conversations} conversations, {reported.windows} windows, {reported.incidents} incidents, "
        f"{covered}; {reported.size / 1024:.0f} KiB"
    )


@app.command(cls=Command)
def top(
    source: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="A state directory, or the results of a replay.")
    ] = Path("state"),
    *,
    span: Annotated[
        Literal["15m", "1h", "6h", "24h"], typer.Option("--range", metavar="15m|1h|6h|24h", help="How far back.")
    ] = "1h",
    by: Annotated[str | None, typer.Option(metavar="LABEL", help="The label to group by, such as edge.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Print once, also on a terminal.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the live page's figures in the terminal: while a run goes on, until Ctrl-C; else once."""
    shutdown = stop_on_signals()
    from flows.commands.tables import console_of_output
    from flows.commands.top import open_reader, read_all, read_figures, show_live, show_once

    console, reader = console_of_output(), open_reader(source)
    if as_json:
        from flows.commands.output import print_json

        read_all(reader, source)
        print_json(read_figures(reader, source, span=span, by=by, now=time.time()))
    elif console.is_terminal and not once:
        show_live(reader, source, console, shutdown.requested, span=span, by=by, now=time.time)
    else:
        show_once(reader, source, console, span=span, by=by, now=time.time())
    reader.stop()


@app.command(cls=Command)
def schema(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="config, window, group, alert, record, audit or rejected.",
            show_default=False,
            autocompletion=lambda: ["config", "window", "group", "alert", "record", "audit", "rejected"],
        ),
    ],
) -> None:
    """Print the JSON Schema of the configuration or of a kind of line."""
    import orjson

    from flows.data.schemas import NAMES, json_schema

    if name not in NAMES:
        raise UsageError(f"there is no schema {name}; the names are {', '.join(NAMES)}")
    print(orjson.dumps(json_schema(name), option=orjson.OPT_INDENT_2).decode())
