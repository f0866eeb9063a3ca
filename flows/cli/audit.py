"""Define `voicewatch audit`: show, verify."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.common import AsJson, Command, Group

__all__ = ["app"]

app = typer.Typer(cls=Group, help="The audit log: read it, check its chain.", no_args_is_help=True)


@app.command("show", cls=Command)
def audit_show(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The log, such as state/audit.jsonl.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON Lines.")] = False,
) -> None:
    """Show the log's lines as readable text; the file itself is JSON Lines."""
    from flows.commands.output import print_audit

    print_audit(path, as_json=as_json)


@app.command("verify", cls=Command)
def audit_verify(path: Annotated[Path, typer.Argument(metavar="PATH")], *, as_json: AsJson = False) -> None:
    """Check that no line was changed, removed or inserted."""
    from connectors.state.audit import read_log, verify

    next(read_log(path), None)  # refuses a file that is not an audit log in one line
    verdict = verify(path)
    if as_json:
        from flows.commands.output import print_json

        print_json({"path": path, "intact": verdict.ok, **asdict(verdict)})
        raise typer.Exit(0 if verdict.ok else 1)
    for note in verdict.notes:
        print(f"note: {note}")
    for fault in verdict.faults:
        print(f"fault: {fault.text}")
    if not verdict.ok:
        print(f"{path}: NOT intact: {len(verdict.faults)} fault(s) in {verdict.lines} lines")
        raise typer.Exit(1)
    print(f"{path}: intact, {verdict.lines} lines")
