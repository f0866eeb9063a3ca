"""Define the commands on recordings and simulated calls: replay, inspect, backtest, simulate."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated, Literal

import typer

from connectors.errors import UsageError, VoicewatchError
from flows.cli.common import AsJson, Command, Kind, end_on_sigterm, read_for, stop_on_signals
from flows.cli.progress import progress_bar

__all__ = ["app"]

app = typer.Typer()

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE...", help="Recordings, directories of them, or - for standard input.", show_default=False
    ),
]
Input = Annotated[
    str | None,
    typer.Option(
        "--input",
        metavar="FIELD=PATH,...",
        help="Map JSON objects or CSV of another shape to frames: conversation, event, timestamp, received, latency, "
        "loss, jitter; PATH:UNIT for ms, s, iso, percent.",
    ),
]
ResultFormat = Annotated[
    Literal["jsonl", "parquet"], typer.Option("--format", metavar="jsonl|parquet", help="The format of the results.")
]


@app.command(cls=Command)
def replay(
    files: Files,
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the results go.", show_default=False)],
    config: Annotated[
        Path | None,
        # Not from VOICEWATCH_CONFIG: a replay equals the live run unless it is asked for other limits.
        typer.Option(metavar="CONFIG", help="Takes precedence over the recorded settings and limits."),
    ] = None,
    speed: Annotated[str, typer.Option(metavar="max|N", help="As fast as it goes, or N times the real pace.")] = "max",
    deliver: Annotated[bool, typer.Option("--deliver", help="Also send the callbacks.")] = False,
    processes: Annotated[
        int, typer.Option(min=1, max=64, metavar="N", help="Divide the conversations among N processes; same results.")
    ] = 1,
    shape: Input = None,
    file_format: ResultFormat = "jsonl",
    as_json: AsJson = False,
) -> None:
    """Replay recordings through the same flow, without a network, into DIR."""
    shutdown = stop_on_signals()
    from flows.commands.inputs import input_map_of
    from flows.commands.output import print_replay, print_replay_json
    from flows.commands.replay import replay as replay_files

    pace, input_map = _speed(speed), input_map_of(shape)
    settings = None
    if config is not None:
        from flows.settings.effects import REPLAY, REPLAY_WITH_DELIVERY

        read, command = (REPLAY_WITH_DELIVERY, "replay --deliver") if deliver else (REPLAY, "replay")
        settings = read_for(config, command, read)
    with progress_bar("Replaying") as progress:
        replayed = replay_files(
            files,
            out,
            settings=settings,
            environ=os.environ,
            speed=pace,
            deliver=deliver,
            processes=processes,
            stop=shutdown.requested,
            input_map=input_map,
            file_format=file_format,
            progress=progress,
        )
    (print_replay_json if as_json else print_replay)(replayed)
    if replayed.refusal is not None:
        raise VoicewatchError(replayed.refusal)
    if replayed.stopped_at is not None and shutdown.signal is not None:
        raise typer.Exit(128 + shutdown.signal)


@app.command(cls=Command)
def inspect(
    files: Files,
    *,
    shape: Input = None,
    gap_s: Annotated[
        float, typer.Option("--gap", metavar="SECONDS", min=0.001, help="The shortest silence that counts as a gap.")
    ] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Say what files are: lines by kind, time range, gaps, and the command that replays them."""
    from flows.commands.inputs import input_map_of
    from flows.commands.inspect import inspect as inspect_files
    from flows.commands.inspect import print_inspection, print_inspection_json

    found = inspect_files(files, shape=shape, input_map=input_map_of(shape), gap_s=gap_s)
    (print_inspection_json if as_json else print_inspection)(found)
    if not found.records:
        raise typer.Exit(1)


@app.command(cls=Command)
def backtest(
    files: Files,
    *,
    config: Annotated[
        list[Path] | None, typer.Option(metavar="CONFIG", help="A rule set; may be given several times.")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=FROM:TO:STEP", help="A rule set for each value of a key of the configuration."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: figures, incidents and differences.")] = False,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the comparison as an HTML page.")
    ] = None,
) -> None:
    """Show what other limits would have raised: decode recordings once, apply many rule sets, compare."""
    shutdown = stop_on_signals()
    from flows.commands.backtest import backtest as run_backtest
    from flows.commands.backtest import rule_sets
    from flows.commands.backtest_output import print_backtest, print_backtest_json, write_backtest_page
    from flows.settings.effects import REPLAY

    for path in config or []:
        read_for(path, "backtest", REPLAY)
    sets = rule_sets(config or [], sweep or [], os.environ)
    with progress_bar(f"Applying {len(sets)} rule sets") as progress:
        compared = run_backtest(files, sets, shutdown.requested, progress, counts_values=as_json)
    if page is not None:
        write_backtest_page(compared, page)
    if as_json:
        print_backtest_json(compared)
    else:
        print_backtest(compared)
    if not compared.is_whole:
        raise typer.Exit(128 + (shutdown.signal or signal.SIGINT))


@app.command(cls=Command)
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
    url: Annotated[
        str | None, typer.Option(help="Where callers (kind audiohook) or events (kind eventbridge) are sent.")
    ] = None,
) -> None:
    """Run the local Genesys: token, REST and event WebSocket; prints its base URL as one JSON line when ready."""
    end_on_sigterm()
    from flows.commands.simulate import Simulation
    from flows.commands.simulate import simulate as run_simulator

    simulation = Simulation(port, conversations, rate, seed, faults, serve, speed, url)
    options = [name for name in context.params if name != "kind"]
    run_simulator(kind, simulation, [name for name in options if _is_given(context, name)], os.environ)


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
