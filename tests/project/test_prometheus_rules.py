"""Each rule of `docker/prometheus` fires in the fault that it is for, and in no other; none fires in a healthy run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

RULES = Path(__file__).parents[2] / "docker/prometheus/rules.yml"
NAMES = [rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
PROMTOOL = shutil.which("promtool")
pytestmark = pytest.mark.skipif(
    PROMTOOL is None, reason="there is no promtool; `apt-get install prometheus` (or `.ci/run`) installs it"
)
# An hour of a run in which all is well, a sample each 15 s.
HEALTHY = {
    'up{job="voicewatch"}': "1x240",
    "voicewatch_source_idle_seconds": "0.1x240",
    'voicewatch_feed_up{feed="calls"}': "1x240",
    'voicewatch_feed_losses_total{feed="calls"}': "2x240",
    'voicewatch_feed_messages_total{feed="calls",outcome="frame"}': "0+150x240",
    'voicewatch_feed_messages_total{feed="calls",outcome="invalid"}': "3x240",
    "voicewatch_rejected_lines_total": "1x240",
    "voicewatch_journal_lag_seconds": "0x240",
    "voicewatch_outbox_age_seconds": "1x240",
    'voicewatch_outbox_callbacks{state="pending"}': "3x240",
    'voicewatch_outbox_callbacks{state="dead"}': "0x240",
    'voicewatch_receivers{state="closed"}': "2x240",
    'voicewatch_receivers{state="open"}': "0x240",
    'voicewatch_receivers{state="gone"}': "0x240",
    "voicewatch_disk_free_bytes": "80000000000-1000x240",
    'voicewatch_frame_latency_seconds_bucket{le="0.0"}': "0x240",
    "voicewatch_frame_latency_seconds_count": "0+150x240",
    'voicewatch_kafka_lines_left_out_total{results="windows"}': "0x240",
    'process_start_time_seconds{job="voicewatch"}': "1700000000x240",
}
# What is different in the fault of each rule.
FAULTS = {
    "VoicewatchDown": {'up{job="voicewatch"}': "1x100 0x140"},
    "VoicewatchStalled": {"voicewatch_source_idle_seconds": "0.1x200 0+15x40"},
    "VoicewatchFeedDown": {'voicewatch_feed_up{feed="calls"}': "1x200 0x40"},
    "VoicewatchFeedFlapping": {'voicewatch_feed_losses_total{feed="calls"}': "2x200 3+1x40"},
    "VoicewatchSilent": {'voicewatch_feed_messages_total{feed="calls",outcome="frame"}': "0+150x100 15000x140"},
    "VoicewatchInvalidMessages": {'voicewatch_feed_messages_total{feed="calls",outcome="invalid"}': "3x220 5+2x20"},
    "VoicewatchRejectedLines": {"voicewatch_rejected_lines_total": "1x230 2x10"},
    "VoicewatchLagging": {"voicewatch_journal_lag_seconds": "0x200 15+5x40"},
    "VoicewatchOutboxGrowing": {"voicewatch_outbox_age_seconds": "1x150 1+15x90"},
    "VoicewatchDeadCallbacks": {'voicewatch_outbox_callbacks{state="dead"}': "0x230 2x10"},
    "VoicewatchKafkaLinesLeftOut": {'voicewatch_kafka_lines_left_out_total{results="windows"}': "0x230 9x10"},
    "VoicewatchReceiverFailing": {'voicewatch_receivers{state="gone"}': "0x180 1x60"},
    "VoicewatchDiskFilling": {"voicewatch_disk_free_bytes": "80000000000-40000000x240"},
    "VoicewatchClockSkew": {'voicewatch_frame_latency_seconds_bucket{le="0.0"}': "0x100 0+50x140"},
    "VoicewatchRestarting": {
        'process_start_time_seconds{job="voicewatch"}': "1700000000x200 1700003000x9 1700003150x9 1700003300x9 "
        "1700003450x10"
    },
}


def expectation(changes: dict[str, str], firing: set[str]) -> dict[str, Any]:
    """Return a test of promtool: these rules fire after an hour, and no others."""
    series = HEALTHY | changes
    samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(firing)]
    return {
        "interval": "15s",
        "input_series": [
            {"series": name.replace("{", '{instance="a",') if "{" in name else f'{name}{{instance="a"}}', "values": one}
            for name, one in series.items()
        ],
        "promql_expr_test": [
            {
                "expr": 'max by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "60m",
                "exp_samples": samples,
            }
        ],
    }


@pytest.mark.parametrize("name", [*NAMES, "none"])
def test_a_rule_fires_in_its_fault(tmp_path: Path, name: str) -> None:
    """It alone, after an hour whose end is faulty."""
    tests = [expectation(FAULTS.get(name, {}), {name} & FAULTS.keys())]
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": tests}))
    done = subprocess.run([str(PROMTOOL), "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_a_fault() -> None:
    """A new rule comes with one."""
    assert set(FAULTS) == set(NAMES)
