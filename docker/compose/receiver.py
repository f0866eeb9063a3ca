"""The receiver of callbacks for docker/compose.yaml: takes every callback, and prints a line for each."""

from __future__ import annotations

import json
import threading

from connectors.callbacks.receiver import CallbackReceiver, Received


def show(received: Received) -> None:
    """Print what the alert says."""
    alert = json.loads(received.body)
    print(*(alert.get(key) for key in ("alertType", "state", "conversationId", "metricValue")), flush=True)


if __name__ == "__main__":
    with CallbackReceiver(9090, host="0.0.0.0", on_received=show):  # noqa: S104 - of a container
        threading.Event().wait()
