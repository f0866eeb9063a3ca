"""Fixtures of the tests of callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.callbacks.delivery import Delivery
from connectors.callbacks.outbox import Outbox
from connectors.state.audit import AuditLog
from tests.support.callbacks import FAST
from tests.support.receiver import ScriptedReceiver


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    box = Outbox(tmp_path / "outbox.sqlite3")
    yield box
    box.close()


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[AuditLog]:
    log = AuditLog(tmp_path / "audit.jsonl")
    yield log
    log.close()


@pytest.fixture
def receiver() -> Iterator[ScriptedReceiver]:
    with ScriptedReceiver() as server:
        yield server


@pytest.fixture
def deliver(outbox: Outbox, audit: AuditLog) -> Iterator[Callable[..., Delivery]]:
    """Start a Delivery on the outbox; it is stopped at the end of the test."""
    running = []

    def start(policy: Any = FAST, **options: Any) -> Delivery:
        delivery = Delivery(outbox, audit=audit, policy=policy, **options)
        delivery.start()
        running.append(delivery)
        return delivery

    yield start
    for delivery in running:
        delivery.stop(0.0)
        delivery.check()
