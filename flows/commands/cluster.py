"""Start a cluster of local Bytewax processes by Bytewax' own runner, and supervise it."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from connectors.errors import UsageError, VoicewatchError
from connectors.retry import backoff_s
from connectors.runtime.logs import get_logger
from connectors.runtime.shutdown import STOP_WITH_STDIN, Interrupted, Shutdown
from connectors.state.recovery import latest_states
from flows.analytics.merge import Counts
from flows.commands.run import OnBootstrap, ensure_interceptors, preflight, print_warnings
from flows.dataflow import COUNTS_STEP
from flows.live import SNAPSHOT_EVERY
from flows.settings.models import Settings
from flows.state import StateLayout
from flows.web.listening import bind

__all__ = ["run_cluster"]

POLL_S: Final = 0.1
STOP_S: Final = 10.0
HEALTHY_S: Final = 60.0
MAX_FAILURES: Final = 5


def run_cluster(
    config: Path,
    settings: Settings,
    environ: Mapping[str, str],
    processes: int,
    shutdown: Shutdown,
    *,
    on_bootstrap: OnBootstrap | None,
) -> Counts:
    """Bootstrap, unless `on_bootstrap` is None, then run `processes` Bytewax processes until a shutdown.

    Return what the last snapshot counted.

    When one dies, all are ended and started again, from the last snapshot, after a while that grows. Raises
    VoicewatchError when they die too often in a row, UsageError where starting again does not help.
    """
    # Here and not only in each process, which would all report the same error.
    _try_addresses(settings, processes)
    preflight(settings, environ)
    print_warnings(settings, environ)
    try:
        with shutdown.interruptible():
            ensure_interceptors(settings, environ, on_bootstrap, shutdown.shielded)
    except Interrupted:
        return _counted(settings)
    log = get_logger(__name__)
    stop = shutdown.requested
    failures = 0
    while not stop.is_set():
        began = time.monotonic()
        code = _run_once(_commands(settings, processes), {**environ, "VOICEWATCH_CONFIG": str(config)}, stop)
        if stop.is_set() and code:
            log.warning("cluster_stopped_without_last_snapshot", exit_code=code)
        if stop.is_set() or code == 0:
            return _counted(settings)
        if code == UsageError.exit_code:
            raise UsageError("a process of the cluster ended for a reason that a restart does not change; see above")
        failures = 1 if time.monotonic() - began >= HEALTHY_S else failures + 1
        log.error("cluster_process_died", exit_code=code, failures=failures)
        if failures == MAX_FAILURES:
            raise VoicewatchError(f"a process of the cluster died {failures} times in a row; the log says why")
        stop.wait(backoff_s(failures, random.random(), base_s=1.0, cap_s=30.0))  # noqa: S311 - no secret
    return _counted(settings)


def _try_addresses(settings: Settings, processes: int) -> None:
    """Raise UsageError if an address that a process is to listen on cannot be used."""
    if settings.web.address is not None:
        bind(*settings.web.address, key="web.listen").close()
    for process in range(processes):
        if (address := settings.metrics.address(process)) is not None:
            bind(*address, key="metrics.listen").close()


def _counted(settings: Settings) -> Counts:
    """Return the counts of the last snapshot, after the processes have ended."""
    states = [state for _, state in latest_states(StateLayout(settings.state.dir).recovery, COUNTS_STEP)]
    return Counts(*states[0]) if states else Counts()


def _commands(settings: Settings, processes: int) -> list[list[str]]:
    addresses = ";".join(f"127.0.0.1:{port}" for port in _free_ports(processes))
    recovery = StateLayout(settings.state.dir).recovery
    common = ["-r", str(recovery), "-s", str(int(SNAPSHOT_EVERY.total_seconds())), "-b", "0"]
    return [
        [sys.executable, "-P", "-m", "flows.voice_qa", "-i", str(number), "-a", addresses, *common]
        for number in range(processes)
    ]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _run_once(commands: Sequence[list[str]], environ: Mapping[str, str], stop: threading.Event) -> int:
    """Run until all have ended or one has failed, and relay a stop; return the first exit code that is not 0, or 0."""
    # In sessions of their own: a Ctrl-C in the terminal is for this process, which passes it on. What Bytewax prints
    # on standard output is not a result. Standard input ends with this process, however it ends, and stops them.
    children = [
        subprocess.Popen(  # noqa: S603 - our own
            command,
            env={**environ, STOP_WITH_STDIN: "1"},
            stdin=subprocess.PIPE,
            stdout=sys.stderr,
            start_new_session=True,
        )
        for command in commands
    ]
    stopped_at: float | None = None
    try:
        while True:
            codes = [child.poll() for child in children]
            failed = next((code for code in codes if code), 0)
            if failed or all(code == 0 for code in codes):
                return failed
            if stop.wait(POLL_S) and stopped_at is None:
                stopped_at = time.monotonic()
                for child in children:
                    child.send_signal(signal.SIGTERM)
            if stopped_at is not None:
                time.sleep(POLL_S)
                if time.monotonic() - stopped_at > STOP_S:
                    return 1
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()
            assert child.stdin is not None
            child.stdin.close()
