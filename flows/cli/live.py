"""Define the commands that run or prepare the live job: demo, check, bootstrap, run, cluster."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Annotated

import typer

from flows.cli.common import AsJson, Command, Config, Kind, read_instance, read_settings, stop_on_signals

__all__ = ["app"]

app = typer.Typer()

NoBootstrap = Annotated[bool, typer.Option("--no-bootstrap", help="Create no interceptors.")]


@app.command(cls=Command)
def demo(
    *,
    seconds: Annotated[float, typer.Option(min=1.0, max=3600.0, help="How long to run.")] = 15.0,
    kind: Kind = "voice-events",
    as_json: AsJson = False,
) -> None:
    """Run the whole job without any setup: simulator, live flow, callback receiver, then a summary."""
    shutdown = stop_on_signals()
    from flows.commands.demo import run_demo
    from flows.commands.output import print_demo, print_json

    print(f"Watching simulated calls for {seconds:g} seconds ...", file=sys.stderr)
    result = run_demo(seconds, shutdown, kind)
    (print_json if as_json else print_demo)(result)


@app.command(cls=Command)
def check(
    config: Config,
    *,
    online: Annotated[
        bool, typer.Option("--online", help="Also try the token and the load check, and look up the queues and users.")
    ] = False,
) -> None:
    """Check a configuration: every mistake in it at once, with its key."""
    from flows.settings.secrets import check_secrets
    from flows.settings.warnings import warnings_of

    settings = read_settings(config)
    check_secrets(settings, os.environ)
    feeds = f", {len(settings.feeds)} feed(s)" if settings.feeds else ""
    print(f"{config}: valid; {len(settings.interceptors)} interceptor(s){feeds}")
    for warning in warnings_of(settings, os.environ):
        print(f"warning: {warning}")
    if online:
        from flows.commands.check import check_online

        found = check_online(settings, os.environ)
        print(found.said)
        for problem in found.problems:
            print(f"problem: {problem}")
        if found.problems:
            raise typer.Exit(1)


@app.command(cls=Command)
def bootstrap(
    config: Config,
    *,
    retry_unknown: Annotated[
        bool, typer.Option("--retry-unknown", help="Also create those whose earlier create went unanswered.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Create the interceptors; running it again creates none twice.

    Of CONFIG it reads `[genesys]`, `[state]`, `[[interceptor]]`, `[defaults]` and what a journal records.
    """
    from flows.commands.bootstrap import run_bootstrap
    from flows.commands.output import print_bootstrap, print_json

    report = run_bootstrap(read_instance(config), os.environ, retry_unknown=retry_unknown)
    (print_json if as_json else print_bootstrap)(report)
    if report.failed:
        raise typer.Exit(1)


@app.command(cls=Command)
def run(config: Config, *, no_bootstrap: NoBootstrap = False) -> None:
    """Bootstrap, then watch live until a signal; go on where the last run stopped."""
    shutdown = stop_on_signals()
    from flows.cli.status_line import status_line
    from flows.commands.output import print_bootstrap, print_counts
    from flows.commands.run import run_live
    from flows.state import StateLayout

    settings = read_instance(config)
    on_bootstrap = None if no_bootstrap else partial(print_bootstrap, watch=settings.watch)
    with status_line(StateLayout(settings.state.dir).outbox) as totals:
        counts = run_live(settings, os.environ, shutdown, on_bootstrap=on_bootstrap, warns=True, totals=totals)
    print_counts(counts, totals.calls_not_watched, totals.interceptors_created)


@app.command(cls=Command)
def cluster(
    config: Config,
    *,
    processes: Annotated[int, typer.Option(min=1, max=64, help="How many Bytewax processes to start.")] = 2,
    no_bootstrap: NoBootstrap = False,
) -> None:
    """Like run, on a cluster of local Bytewax processes; all are started again when one dies."""
    shutdown = stop_on_signals()
    from flows.commands.cluster import run_cluster
    from flows.commands.output import print_bootstrap, print_counts

    settings = read_instance(config)
    on_bootstrap = None if no_bootstrap else partial(print_bootstrap, watch=settings.watch)
    print_counts(run_cluster(config, settings, os.environ, processes, shutdown, on_bootstrap=on_bootstrap))
