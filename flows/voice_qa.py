"""The entry of `python -m bytewax.run flows.voice_qa`: the live flow of VOICEWATCH_CONFIG."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bytewax.dataflow import Dataflow

__all__ = ["flow"]


def flow() -> Dataflow:
    """The live flow for `python -m bytewax.run flows.voice_qa`; VOICEWATCH_CONFIG names the configuration.

    Logs go to standard error, as JSON lines if VOICEWATCH_LOG_JSON is 1. Raises ConfigurationError. SIGTERM and
    SIGINT stop it with a last snapshot.
    """
    from connectors.errors import ConfigurationError
    from connectors.runtime.logs import LOG_JSON, configure_logs, run_id_of
    from connectors.runtime.shutdown import Shutdown
    from flows.live import live_flow
    from flows.monitoring.monitor import instruments_of, process_number
    from flows.settings.loading import load_settings
    from flows.state import StateLayout

    configure_logs(as_json=os.environ.get(LOG_JSON) == "1", run_id=run_id_of(os.environ))
    path = os.environ.get("VOICEWATCH_CONFIG")
    if path is None:
        raise ConfigurationError("VOICEWATCH_CONFIG", ["is not set; it names the configuration file"])
    settings = load_settings(Path(path), os.environ)
    shutdown = Shutdown(StateLayout(settings.state.dir).stop)
    shutdown.on_signals()
    process, port_offset = process_number(sys.argv[1:], os.environ)
    instruments = instruments_of(settings, os.environ, shutdown, process=process, port_offset=port_offset)
    dataflow = live_flow(settings, os.environ, shutdown, instruments=instruments)
    instruments.start()
    return dataflow
