"""What commands print."""

from __future__ import annotations

import pytest

from flows.commands.bootstrap import BootstrapReport
from flows.commands.output import print_bootstrap
from flows.settings.watch import WatchSettings

NOTHING = BootstrapReport(created=(), existing=(), failed=(), watched=())
ONE = BootstrapReport(created=("c1",), existing=(), failed=(), watched=("c1",))
ALL = "discover: interceptors are created for all calls, at most 1000 at a time, when they are found"

CHOSEN = (
    "discover: interceptors are created for calls with queue Support or Sales, edge e1, a share of 0.2 of them, "
    "at most 500 at a time, when they are found"
)


def test_a_bootstrap_says_which_calls_discovery_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """Instead of the counts, if the configuration names no conversation; and never if it lists all."""
    listed, everything = WatchSettings(), WatchSettings(mode="discover")
    chosen = WatchSettings.model_validate(
        {"mode": "discover", "sample": 0.2, "max": 500, "match": {"queue": ["Support", "Sales"], "edge": "e1"}}
    )
    for report, watch, printed in (
        (NOTHING, listed, ["0 created, 0 existing, 0 failed"]),
        (ONE, everything, ["created   c1", "1 created, 0 existing, 0 failed", ALL]),
        (NOTHING, everything, [ALL]),
        (
            NOTHING,
            chosen,
            [CHOSEN],
        ),
    ):
        print_bootstrap(report, watch)
        assert capsys.readouterr().out.splitlines() == printed
