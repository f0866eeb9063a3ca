"""Send a signed callback for each frame above 250 ms. Run: python -m bytewax.run examples.slow_frames_to_webhook."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from connectors.operators import Callback, CallbackSink, DeliveryPolicy, Frame, frames

URL = os.environ["WEBHOOK_URL"]


def callback(frame: Frame) -> tuple[str, Callback]:
    """Return the callback of a frame, under an id that is the same when the frame is read again."""
    id_ = f"{frame.conversation_id}:{frame.sent_at}"
    return "all", Callback(id_, frame.conversation_id, URL, json.dumps(asdict(frame)).encode())


flow = Dataflow("slow_frames")
received = frames(
    "frames",
    flow,
    state=os.environ.get("STATE", "slow-frames-state"),
    base_url=os.environ.get("GENESYS_URL", "https://api.mypurecloud.com"),
    client_id=os.environ["GENESYS_CLIENT_ID"],
    client_secret=os.environ["GENESYS_CLIENT_SECRET"],
)
slow = op.filter("slow", received.oks, lambda frame: frame.latency_ms > float(os.environ.get("LIMIT_MS", "250")))
sink = CallbackSink(
    Path(os.environ.get("OUTBOX", "slow-frames.sqlite3")),
    secrets=[os.environ["WEBHOOK_SECRET"]],
    policy=DeliveryPolicy(allow_private_addresses="ALLOW_PRIVATE" in os.environ),
)
op.output("webhook", op.map("callback", slow, callback), sink)
