"""Write the mean latency of each conversation when it ends. Run: python -m bytewax.run examples.mean_latency."""

import os
from pathlib import Path

import bytewax.operators as op
from bytewax.connectors.files import FileSink
from bytewax.dataflow import Dataflow

from connectors.operators import Frame, RejectedMessage, VoiceEventsSource

Sums = tuple[int, float]

source = VoiceEventsSource(
    os.environ.get("STATE", "mean-latency-state"),
    base_url=os.environ.get("GENESYS_URL", "https://api.mypurecloud.com"),
    client_id=os.environ["GENESYS_CLIENT_ID"],
    client_secret=os.environ["GENESYS_CLIENT_SECRET"],
)


def by_conversation(item: Frame | RejectedMessage) -> tuple[str, Frame] | None:
    """Return a frame under its conversation; leave out what is not a frame."""
    return (item.conversation_id, item) if isinstance(item, Frame) else None


def mean(sums: Sums | None, frame: Frame) -> tuple[Sums | None, str | None]:
    """Add a frame; at the end of the conversation, forget the sums and return a line."""
    count, total_ms = sums or (0, 0.0)
    if frame.ended:
        return None, f"{frame.conversation_id},{count},{total_ms / count:.1f}" if count else None
    return (count + 1, total_ms + frame.latency_ms), None


flow = Dataflow("mean_latency")
keyed = op.filter_map("key", op.input("events", flow, source), by_conversation)
lines = op.filter_map_value("ended", op.stateful_map("mean", keyed, mean), lambda line: line)
op.output("file", lines, FileSink(Path(os.environ.get("OUT", "mean-latency.csv"))))
