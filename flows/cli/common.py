"""Provide what commands share: their class, common arguments, logs, settings and signals."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

if TYPE_CHECKING:
    from connectors.runtime.shutdown import Shutdown
    from flows.settings.models import Settings

__all__ = [
    "CONFIG_VARIABLE",
    "KINDS",
    "AsJson",
    "Command",
    "Config",
    "Group",
    "Kind",
    "configure_logging",
    "end_on_sigterm",
    "kind_option",
    "read_for",
    "read_instance",
    "read_settings",
    "read_state_dir",
    "stop_on_signals",
]

CONFIG_VARIABLE = "VOICEWATCH_CONFIG"

KINDS: Final = ("voice-events", "notifications", "audiohook", "eventbridge")


def kind_option(kinds: tuple[str, ...]) -> Any:
    """Return the option for the kind of a feed, one of these."""
    *others, last = kinds
    return typer.Option(
        metavar="KIND", help=f"The kind of feed: {', '.join(others)} or {last}.", autocompletion=lambda: list(kinds)
    )


Kind = Annotated[str, kind_option(KINDS)]
Config = Annotated[
    Path,
    typer.Argument(metavar="CONFIG", envvar=CONFIG_VARIABLE, help="The configuration file (TOML).", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Command(TyperCommand):
    """Add `--log-json` to a command, and take CONFIG from VOICEWATCH_CONFIG where other arguments follow it."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.params.append(_log_json_option())

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; put the file of VOICEWATCH_CONFIG before those that do not begin with a file."""
        names = [parameter.name for parameter in self.params if isinstance(parameter, TyperArgument)]
        configured = os.environ.get(CONFIG_VARIABLE)
        if configured and names[:1] == ["config"] and len(names) > 1:
            first = next((arg for arg in args if not arg.startswith("-")), "")
            if not (first.endswith(".toml") or Path(first).is_file()):
                args = [configured, *args]
        return super().parse_args(ctx, args)


class Group(TyperGroup):
    """List each command with its whole summary; Typer cuts it at the end of the line."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands and their summaries."""
        rows = [
            (name, command.get_short_help_str(len(command.help or "")))
            for name in self.list_commands(ctx)
            if (command := self.get_command(ctx, name)) is not None and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _log_json_option() -> TyperOption:
    return TyperOption(
        param_decls=["--log-json"],
        is_flag=True,
        default=False,
        is_eager=True,
        expose_value=False,
        callback=lambda _context, _parameter, given: configure_logging(as_json=True) if given else None,
        help="Log JSON lines to standard error.",
    )


def configure_logging(*, as_json: bool) -> None:
    """Send logs to standard error, as JSON lines or readable text; structlog is imported with the first event."""
    from connectors.runtime.logs import LOG_JSON, configure_logs, run_id_of

    configure_logs(as_json=as_json, run_id=run_id_of(os.environ) if as_json else None)
    if as_json:
        os.environ[LOG_JSON] = "1"  # for the processes of a cluster


def read_settings(path: Path) -> Settings:
    """Return the settings of a file and the environment. Raises ConfigurationError."""
    from flows.settings.loading import load_settings

    return load_settings(path, os.environ)


def read_state_dir(path: Path) -> Path:
    """Return the state directory of a configuration. Raises ConfigurationError, for other keys only if it must."""
    from flows.settings.toml_file import state_dir

    return state_dir(path, os.environ) or read_settings(path).state.dir


def read_for(path: Path, command: str, read: Collection[str], environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings of a file for a command; name on standard error the keys that are not in `read`.

    Raises ConfigurationError.
    """
    from flows.settings.effects import unread_keys
    from flows.settings.loading import load_settings

    settings = load_settings(path, environ)
    if unread := unread_keys(settings, read):
        print(f"note: {path}: without effect on {command}: {', '.join(unread)}", file=sys.stderr)
    return settings


def read_instance(path: Path) -> Settings:
    """Return the settings of this instance of a partitioned deployment. Raises ConfigurationError."""
    import socket

    from flows.settings.instance import of_instance

    return of_instance(read_settings(path), socket.gethostname())


def end_on_sigterm() -> None:
    """Let SIGTERM end the program with exit 0 until its work sets a handler of its own. Call it before imports."""
    import signal

    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))


def stop_on_signals() -> Shutdown:
    """Return a stop request that signals make from now on. Call it before the imports of a long command."""
    from connectors.runtime.shutdown import Shutdown

    shutdown = Shutdown()
    shutdown.on_signals()
    return shutdown
