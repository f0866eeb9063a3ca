"""A flow with all our sinks, to be killed: RECOVERY STATE URL TOTAL."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig
from bytewax.testing import TestingSource, run_main

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from connectors.callbacks.outbox import Callback
from connectors.callbacks.policy import DeliveryPolicy
from connectors.callbacks.sink import CallbackSink
from connectors.state.audit import AuditEntry, AuditLog
from connectors.state.audit_sink import AuditSink
from connectors.state.sinks import JsonLinesSink


def main(recovery: Path, state: Path, url: str, total: int) -> None:
    flow = Dataflow("sinks")
    numbers = op.input("in", flow, TestingSource(range(total), batch_size=5))
    audit = AuditLog(state / "audit.jsonl")
    policy = DeliveryPolicy(allow_private_addresses=True, retry_waits_s=(0.05, 0.2, 0.8))
    outbox = CallbackSink(state / "outbox" / "outbox.sqlite3", audit=audit, policy=policy, drain_s=30.0)
    calls = op.map("call", numbers, lambda n: ("k", [Callback(f"id-{n}", f"c{n % 7}", url, b"{}")]))
    entries = op.map(
        "entry", numbers, lambda n: ("k", AuditEntry("ALERT_RAISED", f"c{n}", "raised", {"id": f"id-{n}"}))
    )
    lines = op.map("line", numbers, lambda n: ("k", b'{"n":%d}\n' % n))
    op.output("callbacks", calls, outbox)
    op.output("audit", entries, AuditSink(state / "audit.jsonl"))
    op.output("windows", lines, JsonLinesSink(state / "windows.jsonl"))
    run_main(flow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(recovery))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
