"""The worked examples of docs/semantics.md, computed: each rule of single events, in the order of the page."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from connectors.genesys.feeds.audiohook.levels import MU_LAW, Levels, Silence
from connectors.genesys.simulator.media import genesys_mos
from flows.analytics.precedence import Overrides
from tests.support.recordings import replay_blocks

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/semantics.md").read_text(encoding="utf-8")
CASES = ROOT / "tests/data/cases"
RATE_HZ = 8000


def section(title: str) -> str:
    """Return the text of a section of the page, on one line."""
    return " ".join(PAGE.split(f"#### {title}\n")[1].split("\n## ")[0].split("\n#### ")[0].split())


def alerts_of(lines: list[bytes], **rules: float) -> list[bytes]:
    settings = {"alerts": {"unwatched": "default", **rules}}
    return [alert.body for alert in replay_blocks([lines], 3, Overrides(settings)).alerts]


def test_a_failed_call() -> None:
    """The recorded failure and the metric behind it raise one alert, which ends as the page shows."""
    [found] = alerts_of((CASES / "12-ice.jsonl").read_bytes().splitlines())
    body = found.decode()
    assert body[body.index('"labels":{"agent"') : -1] in section("`CALL_FAILED`")


def test_the_mos_of_genesys() -> None:
    """R and MOS of the example, the best value, and what 3.5 is on the scale of G.107."""
    text = section("`LOW_MOS` of Genesys")
    assert genesys_mos(40.0, 0.02) == (4.74, 87.2)
    assert "`R = 93.2 − 1 − 5 = 87.2`, and a MOS of 4.74" in text
    assert genesys_mos(0.0, 0.0)[0] == 4.9
    assert "the best value, 4.9" in text
    assert f"3.5 is {3.5 * 4.5 / 5:.2f} on" in text


def test_the_loss_of_a_leg() -> None:
    """120 of 3,390 packets, with the default limit."""
    stats = {"receivedPackets": 3390, "discardedPackets": 120}
    leg = {"conversationId": "c", "participantId": "p", "sessionId": "s", "mediaEndpointStats": stats}
    [found] = alerts_of([json.dumps({"received_at": 1.0, "frame": leg}).encode()])
    alert = json.loads(found)
    assert (alert["alertType"], alert["legId"], alert["threshold"]) == ("PACKET_LOSS_DETECTED", "p", 0.02)
    text = section("Loss and latency of a leg")
    assert f"are {alert['metricValue']:.4f}, above the default limit of {alert['threshold']}" in text


def encoded(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the µ-law byte nearest to each sample."""
    nearest: NDArray[np.intp] = np.abs(MU_LAW[None, :] - samples[:, None]).argmin(axis=1)
    return nearest.astype(np.uint8)


def test_the_levels_of_a_tone_and_of_comfort_noise() -> None:
    """The formula by hand for the tone, the feed's own code for both, and the seconds until the alert."""
    second = np.arange(RATE_HZ)
    tone = encoded(32_124 * np.sin(2 * np.pi * 400 * second / RATE_HZ))
    noise = encoded(np.array([-24, -16, -8, 0, 8, 16, 24])[second % 7])
    dbfs = [10 * math.log10(float((MU_LAW[one].astype(float) ** 2).mean()) / 2**30) for one in (tone, noise)]
    text = section("`ONE_WAY_AUDIO` and `DEAD_AIR`")
    assert f"a peak of 32,124 has {dbfs[0]:.2f} dBFS" in text
    assert f"has about {dbfs[1]:.0f} dBFS" in text
    levels = Levels(["external", "internal"], Silence(-60.0, 5.0))
    stream = np.stack([tone, noise], axis=1).tobytes()
    found = [(number, change) for number in range(1, 8) for change in levels.audio(stream)]
    [(after_s, change)] = found
    assert (after_s, change.rule, change.channel) == (5, "ONE_WAY_AUDIO", "internal")
    assert change.dbfs == pytest.approx(dbfs[1], abs=0.01)


def test_the_mismatches_of_a_trunk() -> None:
    """The counts of the example raise and resolve at the numbers that it names."""
    counts = [5, 6, 9, 5, 4]
    topic = "v2.telephony.providers.edges.trunks.t.metrics"
    bodies = [{"trunk": {"id": "t"}, "qos": {"mismatchCount": count}} for count in counts]
    records = [
        {"received_at": 1.0 + at, "frame": {"topicName": topic, "eventBody": one}} for at, one in enumerate(bodies)
    ]
    found = [
        json.loads(one) for one in alerts_of([json.dumps(one).encode() for one in records], trunk_mismatch_above=5)
    ]
    assert [(one["state"], one["metricValue"]) for one in found] == [("raised", 6.0), ("resolved", 4.0)]
    assert "counts of 5, 6, 9, 5 and 4 raise an alert at 6 and resolve it at 4" in section("`PLATFORM_EVENT`")
