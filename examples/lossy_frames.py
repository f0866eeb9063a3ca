"""Print each voice event that lost more than 2 % of its packets. Run: python -m bytewax.run examples.lossy_frames."""

import os
import sys

import bytewax.operators as op
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow

from connectors.operators import Frame, frames

flow = Dataflow("lossy_frames")
received = frames(
    "frames",
    flow,
    state=os.environ.get("STATE", "lossy-frames-state"),
    base_url=os.environ.get("GENESYS_URL", "https://api.mypurecloud.com"),
    client_id=os.environ["GENESYS_CLIENT_ID"],
    client_secret=os.environ["GENESYS_CLIENT_SECRET"],
)


def is_lossy(frame: Frame) -> bool:
    """Return whether the frame lost more than one packet in fifty."""
    return frame.packet_loss is not None and frame.packet_loss > 0.02


lossy = op.filter("lossy", received.oks, is_lossy)
lines = op.map("lines", lossy, lambda frame: f"{frame.conversation_id} lost {frame.packet_loss:.1%}")
op.output("print", lines, StdOutSink())
op.inspect("rejected", received.errs, lambda step, message: print(step, message.reason, file=sys.stderr))
