"""Commands that give results to people and programs: report, export, schema."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from connectors.errors import UsageError
from flows.cli.common import Command

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

    reported = write_report(
        source,
        out,
        journal=journal or [],
        begin=parse_time(begin, "--from"),
        end=parse_time(end, "--to"),
        names_agents=agents,
        now=time.time(),
        progress=lambda _: None,
    )
    heard = "coverage unknown" if reported.heard is None else f"{reported.heard * 100:.1f} % of the time heard"
    print(
        f"{out}: {reported.conversations} conversations, {reported.windows} windows, {reported.incidents} incidents, "
        f"{heard}; {reported.size / 1024:.0f} KiB"
    )


@app.command(cls=Command)
def schema(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="config, window, group, alert, record or audit.", show_default=False)
    ],
) -> None:
    """Print the JSON Schema of the configuration or of a kind of line."""
    import orjson

    from flows.data.schemas import NAMES, json_schema

    if name not in NAMES:
        raise UsageError(f"there is no schema {name}; the names are {', '.join(NAMES)}")
    print(orjson.dumps(json_schema(name), option=orjson.OPT_INDENT_2).decode())
