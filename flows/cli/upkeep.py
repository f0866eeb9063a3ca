"""Define the commands for operation: status, recovery init, probe."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.common import AsJson, Command, Group

__all__ = ["app", "recovery_app"]

app = typer.Typer()
recovery_app = typer.Typer(cls=Group, help="Bytewax' recovery store: create one.", no_args_is_help=True)


@recovery_app.command("init")
def recovery_init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory, such as state/recovery.")],
) -> None:
    """Create the recovery store of a cluster; do nothing if the directory already holds one."""
    from connectors.state.files import LOCK_NAME, StateLock
    from connectors.state.recovery import make_recovery_store

    with StateLock(directory.absolute().with_name(LOCK_NAME)):
        make_recovery_store(directory.resolve())


@app.command(cls=Command)
def status(
    state_dir: Annotated[Path, typer.Argument(metavar="[STATE_DIR]", help="The [state] dir of a run.")] = Path("state"),
    *,
    as_json: AsJson = False,
) -> None:
    """Show feeds, lag, outbox, open incidents and disk of a state directory, while a run uses it or after.

    Exit code 0 if it could be read, whatever it says; 1 if a file in it cannot be read; 2 if it is not one.
    """
    from flows.commands.status import read_status
    from flows.commands.status_output import print_status, print_status_json

    (print_status_json if as_json else print_status)(read_status(state_dir, time.time()))


@app.command(cls=Command)
def probe(
    path: Annotated[str, typer.Argument(metavar="PATH", help="/livez, /readyz or /metrics.")],
) -> None:
    """Ask the health checks at VOICEWATCH_METRICS__LISTEN or VOICEWATCH_WEB__LISTEN; exit 0 for the answer 200."""
    from connectors.runtime.probe import main

    raise typer.Exit(main([path], os.environ))
