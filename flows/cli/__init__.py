"""Parse the command line and set exit codes. Each command imports its work from `flows.commands` when it is called."""

from __future__ import annotations

import gc
import os
import sys
from typing import Annotated, Final

import typer
from typer.main import get_command_name
from typer.models import CommandInfo

from connectors.errors import VoicewatchError
from flows.cli import audit, data, init, live, notify, outbox, recordings, upkeep
from flows.cli.common import Group, configure_logging
from flows.cli.streams import explained_output

__all__ = ["app", "main", "program"]

_COMMANDS: Final = (init.app, live.app, recordings.app, data.app, upkeep.app)
_GROUPS: Final = {"outbox": outbox.app, "notify": notify.app, "audit": audit.app, "recovery": upkeep.recovery_app}


def main() -> None:
    """Run the `voicewatch` command: exit 0 for success, 1 for a failure while running, 2 for bad usage."""
    gc.set_threshold(50_000, 20, 20)  # imported objects stay: collecting them again and again takes 0.1 s
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # nothing multiplies matrices: to start threads takes 40 ms
    try:
        with explained_output():
            program(sys.argv[1] if len(sys.argv) > 1 else None)()
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


def _global(
    *,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON lines to standard error.")] = False,
    version: Annotated[bool, VERSION] = False,  # noqa: ARG001 - its callback prints
) -> None:
    configure_logging(as_json=log_json)


def program(name: str | None = None) -> typer.Typer:
    """Return the program with the one command or group of this name, or with all of them if there is no such.

    Typer inspects the parameters of every command that a program has: 60 ms for all of them.
    """
    made = typer.Typer(
        cls=Group,
        name="voicewatch",
        help="Watch the voice quality of live Genesys Cloud calls, and send callbacks when a limit is crossed.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain text: importing Rich takes half of the time of --help
    )
    made.callback()(_global)
    commands = {_name_of(command): command for part in _COMMANDS for command in part.registered_commands}
    is_known = name in commands or name in _GROUPS
    made.registered_commands += [command for each, command in commands.items() if not is_known or each == name]
    for group, part in _GROUPS.items():
        if not is_known or group == name:
            made.add_typer(part, name=group)
    return made


def _name_of(command: CommandInfo) -> str:
    assert command.callback is not None
    return command.name or get_command_name(command.callback.__name__)


app = program()
