"""Parse the command line and set exit codes. Each command imports its work from `flows.commands` when it is called."""

from __future__ import annotations

import gc
import sys
from typing import Annotated

import typer

from connectors.errors import VoicewatchError
from flows.cli import audit, data, init, live, notify, outbox, recordings, upkeep
from flows.cli.common import Group, configure_logging
from flows.cli.streams import explained_output

__all__ = ["app", "main"]

app = typer.Typer(
    cls=Group,
    name="voicewatch",
    help="Watch the voice quality of live Genesys Cloud calls, and send callbacks when a limit is crossed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: importing Rich takes half of the time of --help
)
app.add_typer(init.app)
app.add_typer(live.app)
app.add_typer(recordings.app)
app.add_typer(data.app)
app.add_typer(outbox.app, name="outbox")
app.add_typer(notify.app, name="notify")
app.add_typer(audit.app, name="audit")
app.add_typer(upkeep.recovery_app, name="recovery")
app.add_typer(upkeep.app)


def main() -> None:
    """Run the `voicewatch` command: exit 0 for success, 1 for a failure while running, 2 for bad usage."""
    gc.set_threshold(50_000, 20, 20)  # imported objects stay: collecting them again and again takes 0.1 s
    try:
        with explained_output():
            app()
    except Exception as error:
        explained = _explained(error)
        if explained is None:
            raise
        print(f"voicewatch: {explained}", file=sys.stderr)
        sys.exit(explained.exit_code)
    finally:
        gc.freeze()  # nor are they collected, several times, at exit: 50 ms


def _explained(error: BaseException | None) -> VoicewatchError | None:
    """Return the explained error behind an exception; Bytewax wraps those of its workers."""
    while error is not None and not isinstance(error, VoicewatchError):
        error = error.__cause__ or error.__context__
    return error


def _print_version(*, given: bool) -> None:
    if given:
        from importlib.metadata import version

        print(f"voicewatch {version('voicewatch')}")
        raise typer.Exit


VERSION = typer.Option(
    "--version",
    is_eager=True,
    callback=lambda given: _print_version(given=given),
    help="Print the version, and exit.",
)


@app.callback()
def _global(
    *,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON lines to standard error.")] = False,
    version: Annotated[bool, VERSION] = False,  # noqa: ARG001 - its callback prints
) -> None:
    configure_logging(as_json=log_json)
