"""A flow that writes a line for each hour, to be killed: RECOVERY STATE TOTAL."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig
from bytewax.testing import TestingSource, run_main

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from connectors.state.daily import DailyLinesSink


def main(recovery: Path, state: Path, total: int) -> None:
    flow = Dataflow("daily")
    numbers = op.input("in", flow, TestingSource(range(total), batch_size=7))
    lines = op.map("line", numbers, lambda n: ("k", b'{"n":%d,"end":%d}\n' % (n, n * 3600)))
    op.output("windows", lines, DailyLinesSink(state / "windows.jsonl", "end", keep_days=3650 * 20))
    run_main(flow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(recovery))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
