"""A flow with a callback sink loses no callback, however it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSource, run_main

from connectors.callbacks.outbox import Outbox
from connectors.callbacks.sink import CallbackSink
from connectors.state.audit import AuditLog, read, verify
from tests.support.callbacks import DEADLINE_S, FAST, callback, eventually


def test_an_aborted_and_resumed_flow_delivers_each_callback(tmp_path, receiver):
    """With recovery on, callbacks that the flow emits twice are sent once."""
    recovery = tmp_path / "recovery"
    recovery.mkdir()
    init_db_dir(recovery, 1)
    audit = AuditLog(tmp_path / "audit.jsonl")

    def run(items):
        flow = Dataflow("callbacks")
        numbers = op.input("in", flow, TestingSource(items, batch_size=4))
        calls = op.map("call", numbers, lambda n: ("k", [callback(n, receiver.url, f"c{n % 3}")]))
        op.output("out", calls, CallbackSink(tmp_path / "outbox" / "o.sqlite3", audit=audit, policy=FAST))
        run_main(flow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(recovery))

    items = [*range(10), TestingSource.ABORT(), *range(10, 30)]
    run(items)
    run(items)
    ids = [r.id for r in receiver.wait_for(30, DEADLINE_S)]
    assert sorted(ids) == sorted(f"id-{n}" for n in range(30))
    audit.close()


def test_kill_minus_nine_loses_nothing(tmp_path, receiver):
    """A flow with all three sinks is killed again and again: file exact, audit once, every callback delivered."""
    recovery, state = tmp_path / "recovery", tmp_path / "state"
    recovery.mkdir()
    init_db_dir(recovery, 1)
    total = 600
    program = Path(__file__).parents[2] / "support" / "sinks_flow.py"
    command = [sys.executable, str(program), str(recovery), str(state), receiver.url, str(total)]
    windows = state / "windows.jsonl"
    for lines in (100, 250, 400):
        child = subprocess.Popen(command, stderr=subprocess.PIPE)
        eventually(lambda: windows.exists() and windows.read_bytes().count(b"\n") > lines, 40.0)  # noqa: B023
        child.send_signal(signal.SIGKILL)
        child.communicate()
    done = subprocess.run(command, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert [json.loads(line)["n"] for line in windows.read_bytes().splitlines()] == list(range(total))
    assert verify(state / "audit.jsonl").ok
    raised = [r["id"] for r in read(state / "audit.jsonl") if r["action"] == "ALERT_RAISED"]
    assert raised == [f"id-{n}" for n in range(total)]
    outbox = Outbox(state / "outbox" / "outbox.sqlite3")
    assert outbox.counts() == {"pending": 0, "delivered": total, "dead": 0}
    outbox.close()
    first: defaultdict[int, list[int]] = defaultdict(list)
    for got in receiver.received:
        number = int(got.id.removeprefix("id-"))
        if number not in first[number % 7]:
            first[number % 7].append(number)
    assert sorted(n for numbers in first.values() for n in numbers) == list(range(total))
    assert all(numbers == sorted(numbers) for numbers in first.values())


def test_what_an_earlier_run_left_is_delivered_without_a_new_callback(tmp_path, receiver):
    """An empty item is enough to build the sink, which then delivers what is still in the outbox."""
    path = tmp_path / "outbox" / "o.sqlite3"
    outbox = Outbox(path)
    outbox.insert([callback(1, receiver.url, "c1")], time.time())
    outbox.close()
    audit = AuditLog(tmp_path / "audit.jsonl")
    flow = Dataflow("leftovers")
    op.output("out", op.input("in", flow, TestingSource([("k", [])])), CallbackSink(path, audit=audit, policy=FAST))
    run_main(flow)
    assert [r.id for r in receiver.received] == ["id-1"]
    audit.close()
