"""The entry of `python -m bytewax.run flows.voice_qa`: the live flow of VOICEWATCH_CONFIG.

`python -P -m flows.voice_qa` does the same with the same options; it also works in a directory that holds another
package called `flows` or `connectors`, which Bytewax' runner would import.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bytewax.dataflow import Dataflow

from connectors.errors import ConfigurationError, UsageError, VoicewatchError

if TYPE_CHECKING:
    from connectors.runtime.shutdown import Shutdown

__all__ = ["flow"]

SECRETS = ("GENESYS_CLIENT_SECRET", "VOICEWATCH_AUDIOHOOK_SECRETS", "VOICEWATCH_CALLBACK_SECRET")


def flow() -> Dataflow:
    """Return the live flow for `python -m bytewax.run flows.voice_qa`; VOICEWATCH_CONFIG names the configuration.

    Logs go to standard error, as JSON lines if VOICEWATCH_LOG_JSON is 1. SIGTERM, SIGINT and SIGHUP stop it with a
    final snapshot. An error that is explained ends the process with one line and its exit code.
    """
    try:
        return _flow(sys.argv[1:])
    except VoicewatchError as error:
        print(f"voicewatch: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _flow(arguments: Sequence[str]) -> Dataflow:
    from connectors.runtime.logs import LOG_JSON, configure_logs, run_id_of
    from connectors.runtime.shutdown import Shutdown, stop_with_stdin
    from flows.dataflow import CountsSink
    from flows.live import live_flow
    from flows.monitoring.monitor import instruments_of, process_number
    from flows.settings.instance import of_instance
    from flows.settings.loading import load_settings
    from flows.state import StateLayout

    configure_logs(as_json=os.environ.get(LOG_JSON) == "1", run_id=run_id_of(os.environ))
    path = os.environ.get("VOICEWATCH_CONFIG")
    if path is None:
        raise ConfigurationError("VOICEWATCH_CONFIG", ["is not set; it names the configuration file"])
    settings = of_instance(load_settings(Path(path), os.environ), socket.gethostname())
    shutdown = Shutdown(StateLayout(settings.state.dir).stop)
    shutdown.on_signals()
    stop_with_stdin(os.environ)
    process, port_offset = process_number(arguments, os.environ)
    _check_recovery(arguments, os.environ, process)
    _join_cluster(arguments, os.environ, shutdown, process)
    instruments = instruments_of(settings, os.environ, shutdown, process=process, port_offset=port_offset)
    dataflow = live_flow(settings, os.environ, shutdown, CountsSink(), instruments)
    instruments.start()
    return dataflow


def _join_cluster(arguments: Sequence[str], environ: Mapping[str, str], shutdown: Shutdown, process: int) -> None:
    """Notice dead peers, and pass stop requests on to the process that runs the source."""
    import argparse
    import hashlib

    from connectors.runtime.logs import get_logger
    from connectors.runtime.peers import PeerWatch, StopRelay, cluster_addresses, explain_lost_peers

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-a", "--addresses")
    addresses = cluster_addresses(parser.parse_known_args(arguments)[0].addresses, environ)
    if len(addresses) < 2:
        return
    explain_lost_peers()
    peers = PeerWatch(addresses, process)
    peers.start()
    shutdown.started = peers.connected
    # The secrets are the same in every process of a cluster, and are in no file.
    secrets = (environ.get(name, "") for name in SECRETS)
    relay = StopRelay(addresses[0], hashlib.sha256("\n".join(secrets).encode()).digest())
    if process == 0:
        try:
            relay.listen(shutdown.requested.set)
        except OSError as error:
            get_logger(__name__).warning("stop_requests_not_received", error=str(error))
    else:
        shutdown.relay = relay.send


def _check_recovery(arguments: Sequence[str], environ: Mapping[str, str], process: int) -> None:
    """Check the recovery directory that Bytewax' runner was given. Raises UsageError, UnusableStateError."""
    import argparse

    from flows.live import SNAPSHOT_EVERY, check_recovery

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-r", "--recovery-directory", default=environ.get("BYTEWAX_RECOVERY_DIRECTORY", ""))
    given = parser.parse_known_args(arguments)[0].recovery_directory
    if not given:
        raise UsageError(
            "no recovery directory: after a stop the run would go through the whole journal again; "
            f"give -r state/recovery -s {SNAPSHOT_EVERY.total_seconds():g} -b 0"
        )
    directory = Path(given)
    if process == 0 or any(directory.glob("part-*.sqlite3")):  # the other processes may have no part of the store
        check_recovery(directory, whole=False)


def main() -> None:
    """Call Bytewax' runner on this module, with the options of the command line."""
    import importlib
    import runpy

    importlib.import_module("flows.voice_qa")  # before the runner puts the current directory on the path
    sys.argv[1:1] = ["flows.voice_qa"]
    runpy.run_module("bytewax.run", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
