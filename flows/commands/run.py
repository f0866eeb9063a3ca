"""The commands that talk to Genesys: bootstrap, live run, online check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext

from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig
from bytewax.run import cli_main

from connectors.errors import VoicewatchError
from connectors.genesys.auth import TokenProvider, credentials_from_environment
from connectors.genesys.feeds.audiohook.listener import listen
from connectors.genesys.interceptors import GenesysPlatform
from connectors.runtime.logs import get_logger
from connectors.runtime.shutdown import Shutdown
from connectors.runtime.tracing import configure_tracing
from connectors.state.audit import AuditLog
from connectors.state.files import StateLock, check_writable
from connectors.state.interceptors import InterceptorRegistry
from flows.analytics.merge import Tally
from flows.commands.bootstrap import BootstrapReport, bootstrap
from flows.dataflow import TallySink
from flows.live import SNAPSHOT_EVERY, endpoints_of, live_flow, open_journal, recovery_of
from flows.monitoring.monitor import Monitor
from flows.settings.models import Settings
from flows.state import StateLayout

__all__ = ["check_online", "prepare", "run_bootstrap", "run_live"]


def run_bootstrap(settings: Settings, environ: Mapping[str, str], *, retry_unknown: bool = False) -> BootstrapReport:
    """Create what is missing at Genesys, and journal the watches. Raises StateError before anything is created."""
    configure_tracing(environ)
    state = StateLayout(settings.state.dir)
    check_writable(state.dir)
    with StateLock(state.lock):
        endpoints = endpoints_of(settings)
        tokens = TokenProvider(endpoints, credentials_from_environment(environ))
        journal = open_journal(settings)
        try:
            return bootstrap(
                settings,
                GenesysPlatform(endpoints, tokens),
                InterceptorRegistry(state.interceptors),
                journal,
                AuditLog(state.audit),
                retry_unknown=retry_unknown,
            )
        finally:
            journal.close()


def run_live(
    settings: Settings,
    environ: Mapping[str, str],
    shutdown: Shutdown,
    *,
    on_bootstrap: Callable[[BootstrapReport], None] | None,
) -> Tally:
    """Bootstrap, unless `on_bootstrap` is None or no feed hears of interceptors, and run the live flow until a
    shutdown; what it counted.

    Raises VoicewatchError if there are interceptors to be had and none exists.
    """
    flow_totals = TallySink()
    monitor = Monitor.of_run(settings, environ, shutdown)
    flow, recovery = prepare(settings, environ, shutdown, on_bootstrap=on_bootstrap, tally=flow_totals, monitor=monitor)
    with nullcontext() if monitor is None else monitor.running():
        cli_main(flow, epoch_interval=SNAPSHOT_EVERY, recovery_config=recovery)  # type: ignore[no-untyped-call]
    return flow_totals.total


def prepare(
    settings: Settings,
    environ: Mapping[str, str],
    shutdown: Shutdown,
    *,
    on_bootstrap: Callable[[BootstrapReport], None] | None,
    tally: TallySink | None = None,
    monitor: Monitor | None = None,
) -> tuple[Dataflow, RecoveryConfig]:
    """All that can be found wrong before a run, and the bootstrap, unless `on_bootstrap` is None or no feed hears of
    interceptors; what is to be run.

    The state directory and the environment are looked at before anything is created at Genesys. Raises
    VoicewatchError.
    """
    check_writable(settings.state.dir)
    configure_tracing(environ)
    flow = live_flow(settings, environ, shutdown, tally, monitor)
    with StateLock(StateLayout(settings.state.dir).lock):
        recovery = recovery_of(settings)
    if any(feed.kind == "audiohook" for feed in settings.feeds):
        # The feed listens only when the flow is built, where Bytewax answers an error with a panic before it is told.
        listen(*settings.audiohook.address).close()
    if on_bootstrap is not None and settings.uses_interceptors:
        _require_interceptors(settings, environ, on_bootstrap)
    return flow, recovery


def _require_interceptors(
    settings: Settings, environ: Mapping[str, str], on_bootstrap: Callable[[BootstrapReport], None]
) -> None:
    """Bootstrap before a run: it goes on with the interceptors that exist. Raises VoicewatchError if none does."""
    report = run_bootstrap(settings, environ)
    on_bootstrap(report)
    if report.failed and not (report.created or report.existing):
        raise VoicewatchError("no interceptor exists, so there is nothing to watch; the reasons are above")
    if report.failed:
        get_logger(__name__).warning("going_on_without_some", missing=len(report.failed), watching=len(report.watched))


def check_online(settings: Settings, environ: Mapping[str, str]) -> str:
    """Try the token, and the load check if interceptors are used; a line that says how it went. Raises GenesysError."""
    if all(feed.kind == "audiohook" for feed in settings.feeds) and settings.feeds:
        return "online: nothing to try, Genesys connects to the AudioHook feed"
    endpoints = endpoints_of(settings)
    tokens = TokenProvider(endpoints, credentials_from_environment(environ))
    if not settings.uses_interceptors:
        tokens.token()
        return "online: token received"
    active = GenesysPlatform(endpoints, tokens).check_load(settings.genesys.max_concurrent)
    allowed = settings.genesys.max_concurrent
    return f"online: token received, {active} active voice conversation(s), {allowed} allowed"
