"""The command line: parsing, progress, exit codes. What a command does is elsewhere, and imported when it is called."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from connectors.errors import UsageError, VoicewatchError

if TYPE_CHECKING:
    from connectors.runtime.shutdown import Shutdown
    from flows.settings.models import Settings

app = typer.Typer(
    name="voicewatch",
    help="Watches live Genesys Cloud voice conversations for latency and packet loss, and tells your quality platform.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
outbox_app = typer.Typer(help="Pending and dead callbacks: look at them, send them again.", no_args_is_help=True)
recovery_app = typer.Typer(help="Bytewax' recovery store: create one.", no_args_is_help=True)
audit_app = typer.Typer(help="The audit log: read it, check its chain.", no_args_is_help=True)
app.add_typer(outbox_app, name="outbox")
app.add_typer(recovery_app, name="recovery")
app.add_typer(audit_app, name="audit")


def main() -> None:
    """The `voicewatch` command: exit code 0 for success, 1 for a failure while running, 2 for bad usage."""
    gc.set_threshold(50_000, 20, 20)  # what a command imports stays: looking through it again and again takes 0.1 s
    try:
        app()
    except Exception as error:
        told = _told(error)
        if told is None:
            raise
        print(f"voicewatch: {told}", file=sys.stderr)
        sys.exit(told.exit_code)
    finally:
        gc.freeze()  # nor is it looked through, several times, on the way out: 50 ms


def _told(error: BaseException | None) -> VoicewatchError | None:
    """The explained error behind an exception; Bytewax wraps those of its workers."""
    while error is not None and not isinstance(error, VoicewatchError):
        error = error.__cause__ or error.__context__
    return error


LogJson = Annotated[bool, typer.Option("--log-json", help="Log JSON lines to standard error.")]
Kind = Annotated[str, typer.Option(metavar="KIND", help="The kind of feed: voice-events, notifications or audiohook.")]
Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration file (TOML).", show_default=False)]


@app.callback()
def _global(*, log_json: LogJson = False) -> None:
    _logs(as_json=log_json)


@app.command()
def demo(
    *,
    seconds: Annotated[float, typer.Option(min=1.0, max=3600.0, help="How long to run.")] = 15.0,
    kind: Kind = "voice-events",
    log_json: LogJson = False,
) -> None:
    """The whole job with nothing to set up: simulator, live flow, callback receiver, then a summary."""
    if log_json:
        _logs(as_json=True)
    from flows.commands.demo import run_demo
    from flows.commands.output import print_demo

    shutdown = _shutdown_on_signals()
    print(f"Watching simulated calls for {seconds:g} seconds ...", file=sys.stderr)
    print_demo(run_demo(seconds, shutdown, kind))


@app.command()
def check(
    config: Config,
    *,
    online: Annotated[bool, typer.Option("--online", help="Also try the token and the load check.")] = False,
    log_json: LogJson = False,
) -> None:
    """Check a configuration: every mistake in it at once, with its key."""
    if log_json:
        _logs(as_json=True)
    from flows.commands.check import check_online
    from flows.feeds import tls_of
    from flows.live import secrets_of
    from flows.settings.warnings import warnings_of

    settings = _settings(config)
    secrets_of(os.environ)
    tls_of(settings)
    feeds = f", {len(settings.feeds)} feed(s)" if settings.feeds else ""
    print(f"{config}: valid; {len(settings.interceptors)} interceptor(s){feeds}")
    for warning in warnings_of(settings, os.environ):
        print(f"warning: {warning}")
    if online:
        print(check_online(settings, os.environ))


@app.command()
def bootstrap(
    config: Config,
    *,
    retry_unknown: Annotated[
        bool, typer.Option("--retry-unknown", help="Also create those whose earlier create went unanswered.")
    ] = False,
    log_json: LogJson = False,
) -> None:
    """Create the interceptors; running it again creates none twice."""
    if log_json:
        _logs(as_json=True)
    from flows.commands.bootstrap import run_bootstrap
    from flows.commands.output import print_bootstrap

    report = run_bootstrap(_settings(config), os.environ, retry_unknown=retry_unknown)
    print_bootstrap(report)
    if report.failed:
        raise typer.Exit(1)


@app.command()
def run(
    config: Config,
    *,
    no_bootstrap: Annotated[bool, typer.Option("--no-bootstrap", help="Create no interceptors.")] = False,
    log_json: LogJson = False,
) -> None:
    """Bootstrap, then watch live until a signal; go on where the last run stopped."""
    if log_json:
        _logs(as_json=True)
    from flows.commands.output import print_bootstrap, print_tally
    from flows.commands.run import run_live

    settings = _settings(config)
    shutdown = _shutdown_on_signals()
    print_tally(run_live(settings, os.environ, shutdown, on_bootstrap=None if no_bootstrap else print_bootstrap))


@app.command()
def cluster(
    config: Config,
    *,
    processes: Annotated[int, typer.Option(min=1, max=64, help="How many Bytewax processes to start.")] = 2,
    no_bootstrap: Annotated[bool, typer.Option("--no-bootstrap", help="Create no interceptors.")] = False,
    log_json: LogJson = False,
) -> None:
    """Like run, on a cluster of local Bytewax processes; all are started again when one dies."""
    if log_json:
        _logs(as_json=True)
    from flows.commands.cluster import run_cluster
    from flows.commands.output import print_bootstrap

    settings = _settings(config)
    shutdown = _shutdown_on_signals()
    on_bootstrap = None if no_bootstrap else print_bootstrap
    run_cluster(config, settings, os.environ, processes, shutdown, on_bootstrap=on_bootstrap)


@app.command()
def replay(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Journal segments or files of frames.", show_default=False)
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the results go.", show_default=False)],
    config: Annotated[
        Path | None, typer.Option(metavar="CONFIG", help="Goes before the settings and limits recorded.")
    ] = None,
    speed: Annotated[str, typer.Option(metavar="max|N", help="As fast as it goes, or N times the real pace.")] = "max",
    deliver: Annotated[bool, typer.Option("--deliver", help="Also send the callbacks.")] = False,
    log_json: LogJson = False,
) -> None:
    """Replay recordings through the same flow, without a network, into DIR."""
    if log_json:
        _logs(as_json=True)
    from flows.commands.output import print_replay
    from flows.commands.replay import replay as replay_files

    pace = _speed(speed)
    settings = None if config is None else _settings(config)
    shutdown = _shutdown_on_signals()
    replayed = replay_files(
        files, out, settings=settings, environ=os.environ, speed=pace, deliver=deliver, stop=shutdown.requested
    )
    print_replay(replayed)


@app.command()
def simulate(
    context: typer.Context,
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 0,
    conversations: Annotated[int, typer.Option(min=1, max=100_000, help="How many calls at a time.")] = 5,
    rate: Annotated[float, typer.Option(min=0.01, max=10_000.0, help="Frames a second, for each call.")] = 10.0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same calls.")] = 1,
    faults: Annotated[Path | None, typer.Option(metavar="FILE", help="Scripted faults (TOML).")] = None,
    serve: Annotated[Path | None, typer.Option(metavar="RECORDING", help="Play a recording instead.")] = None,
    speed: Annotated[float, typer.Option(min=0.01, max=1000.0, help="The pace of --serve.")] = 1.0,
    kind: Kind = "voice-events",
    url: Annotated[str | None, typer.Option(help="The address that the callers of kind audiohook dial.")] = None,
    log_json: LogJson = False,
) -> None:
    """The local Genesys: token, REST and event WebSocket; prints its base URL as one JSON line when ready."""
    if log_json:
        _logs(as_json=True)
    from flows.commands.simulate import Simulation
    from flows.commands.simulate import simulate as run_simulator

    simulation = Simulation(port, conversations, rate, seed, faults, serve, speed, url)
    options = [name for name in context.params if name not in ("kind", "log_json")]
    run_simulator(kind, simulation, [name for name in options if _is_given(context, name)], os.environ)


@outbox_app.command("list")
def outbox_list(config: Config) -> None:
    """Pending and dead callbacks, oldest first."""
    from flows.commands.outbox import open_outbox
    from flows.commands.output import print_outbox

    with open_outbox(_settings(config)) as outbox:
        print_outbox(outbox.entries(), outbox.counts())


@outbox_app.command("show")
def outbox_show(config: Config, alert_id: Annotated[str, typer.Argument(metavar="ALERT_ID")]) -> None:
    """One callback with all that is known of it, as JSON."""
    from flows.commands.outbox import open_outbox
    from flows.commands.output import print_entry

    with open_outbox(_settings(config)) as outbox:
        entry = outbox.show(alert_id)
    if entry is None:
        raise UsageError(f"there is no callback {alert_id}; `voicewatch outbox list {config}` shows those there are")
    print_entry(entry)


@outbox_app.command("retry")
def outbox_retry(
    config: Config,
    alert_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ALERT_ID]...", help="All dead ones if none is named.")
    ] = None,
    *,
    log_json: LogJson = False,
) -> None:
    """Send dead callbacks again: now, or by the run that is using the outbox."""
    if log_json:
        _logs(as_json=True)
    from flows.commands.outbox import retry_outbox

    print(retry_outbox(_settings(config), os.environ, alert_ids or None))


@recovery_app.command("init")
def recovery_init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory, such as state/recovery.")],
) -> None:
    """Create the recovery store of a cluster; do nothing if the directory already holds one."""
    from connectors.state.files import LOCK_NAME, StateLock
    from connectors.state.recovery import make_recovery_store

    with StateLock(directory.absolute().with_name(LOCK_NAME)):
        make_recovery_store(directory.resolve())


@app.command(add_help_option=True)
def probe(
    path: Annotated[str, typer.Argument(metavar="PATH", help="/livez, /readyz or /metrics.")],
) -> None:
    """Ask the metrics server of this machine (VOICEWATCH_METRICS__LISTEN); exit 0 if it answers 200."""
    from connectors.runtime.probe import main

    raise typer.Exit(main([path], os.environ))


@audit_app.command("show")
def audit_show(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The log, such as state/audit.jsonl.")],
) -> None:
    """The log's lines, for people; the file itself is JSON Lines."""
    from flows.commands.output import print_audit

    print_audit(path)


@audit_app.command("verify")
def audit_verify(path: Annotated[Path, typer.Argument(metavar="PATH")]) -> None:
    """Check that no line was changed, removed or inserted."""
    from connectors.state.audit import verify

    verdict = verify(path)
    for note in verdict.notes:
        print(f"note: {note}")
    for fault in verdict.faults:
        print(f"fault: {fault.text}")
    if not verdict.ok:
        print(f"{path}: NOT intact: {len(verdict.faults)} fault(s) in {verdict.lines} lines")
        raise typer.Exit(1)
    print(f"{path}: intact, {verdict.lines} lines")


def _logs(*, as_json: bool) -> None:
    from connectors.runtime.logs import LOG_JSON, configure_logs, run_id_of

    configure_logs(as_json=as_json, run_id=run_id_of(os.environ) if as_json else None)
    if as_json:
        os.environ[LOG_JSON] = "1"  # for the processes of a cluster


def _settings(path: Path) -> Settings:
    from flows.settings.loading import load_settings

    return load_settings(path, os.environ)


def _shutdown_on_signals() -> Shutdown:
    from connectors.runtime.shutdown import Shutdown

    shutdown = Shutdown()
    shutdown.on_signals()
    return shutdown


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise UsageError(f"--speed {text}: is neither max nor a number above 0")
    return speed
