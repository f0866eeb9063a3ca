"""Commands that give data to other programs: export, schema."""

from __future__ import annotations

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
