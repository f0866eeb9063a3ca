"""Define `voicewatch notify`: test, listen."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from flows.cli.common import AsJson, Command, Config, Group, read_settings, stop_on_signals

__all__ = ["app"]

app = typer.Typer(
    cls=Group, help="Targets of alerts besides the callback: try them, receive callbacks.", no_args_is_help=True
)


@app.command("test", cls=Command)
def notify_test(
    config: Config,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="All targets if none is named.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Send a test alert, raised and resolved, to [[notify]] targets and show the answers.

    Of CONFIG it reads `[[notify]]`, `[delivery]`, `[web] public_url` and the severities of `[alerts]`.
    """
    from flows.commands.notify import try_targets

    results = try_targets(read_settings(config), os.environ, name)
    if as_json:
        from flows.commands.output import print_json

        collected = list(results)
        print_json(collected)
        raise typer.Exit(0 if all(tried.accepted for tried in collected) else 1)
    failed = False
    for tried in results:
        verdict = "accepted" if tried.accepted else "FAILED"
        answer = f" | {tried.answer}" if tried.answer else ""
        print(f"{verdict:<8}  {tried.target}  {tried.state}  {tried.reason}{answer}", flush=True)
        failed |= not tried.accepted
    if failed:
        raise typer.Exit(1)


@app.command("listen", cls=Command)
def notify_listen(
    *, port: Annotated[int, typer.Option(min=0, max=65535, help="The port on 127.0.0.1; 0 takes any free one.")] = 9000
) -> None:
    """Receive callbacks, check their signatures (VOICEWATCH_CALLBACK_SECRET) and print each as a JSON line."""
    shutdown = stop_on_signals()
    from flows.commands.notify import listen_for_callbacks

    listen_for_callbacks(port, os.environ, shutdown)
