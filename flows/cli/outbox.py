"""Define `voicewatch outbox`: list, show, retry."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from connectors.errors import UsageError
from flows.cli.common import AsJson, Command, Config, Group, read_settings, read_state_dir

__all__ = ["app"]

app = typer.Typer(cls=Group, help="Pending and dead callbacks: look at them, send them again.", no_args_is_help=True)


@app.command("list", cls=Command)
def outbox_list(config: Config, *, as_json: AsJson = False) -> None:
    """List pending and dead callbacks, oldest first. Of CONFIG it reads `[state] dir`."""
    from flows.commands.outbox import open_outbox
    from flows.commands.output import print_outbox, print_outbox_json

    with open_outbox(read_state_dir(config)) as outbox:
        show = print_outbox_json if as_json else print_outbox
        show(outbox.entries(), outbox.counts(), time.time())


@app.command("show", cls=Command)
def outbox_show(config: Config, alert_id: Annotated[str, typer.Argument(metavar="ALERT_ID")]) -> None:
    """Print a callback with all that is known of it, as JSON. Of CONFIG it reads `[state] dir`."""
    from flows.commands.outbox import open_outbox
    from flows.commands.output import print_entry

    with open_outbox(read_state_dir(config)) as outbox:
        entry = outbox.show(alert_id)
    if entry is None:
        raise UsageError(f"there is no callback {alert_id}; `voicewatch outbox list {config}` shows those there are")
    print_entry(entry)


@app.command("retry", cls=Command)
def outbox_retry(
    config: Config,
    alert_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ALERT_ID]...", help="All dead ones if none is named.")
    ] = None,
) -> None:
    """Send dead callbacks again: now, or by the run that is using the outbox.

    Of CONFIG it reads `[state] dir`, `[delivery]` and `[[notify]]`.
    """
    from flows.commands.outbox import retry_outbox

    print(retry_outbox(read_settings(config), os.environ, alert_ids or None))
