"""A replay to be started by `python -m bytewax.run`: RECORDING into OUT, both from the environment."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from bytewax.dataflow import Dataflow

from connectors.journal.recording import Recording
from connectors.journal.source import RecordingSource
from connectors.state.sinks import JsonLinesSink
from flows.commands.replay import keep_freed_memory
from flows.dataflow import Outputs, build


def flow() -> Dataflow:
    """The flow, over all segments in a directory."""
    keep_freed_memory()
    out = Path(os.environ["OUT"])
    recording = Recording(sorted(Path(os.environ["RECORDING"]).iterdir()))
    source = RecordingSource(recording, stop=threading.Event())
    return build(source, Outputs(*(JsonLinesSink(out / f"{name}.jsonl") for name in ("windows", "alerts", "rejected"))))
