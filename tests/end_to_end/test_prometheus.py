"""A real Prometheus scrapes a run: every panel of the dashboard has data, and the rules of `docker/prometheus` fire."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from connectors.genesys.simulator.voice_events import running_simulator
from tests.flows.monitoring.test_monitor import free_ports
from tests.support.callbacks import eventually
from tests.support.demo import running_demo
from tests.support.live import Live
from tests.support.receiver import Reply, ScriptedReceiver

DOCKER = Path(__file__).parents[2] / "docker"
PANELS = json.loads((DOCKER / "grafana/dashboards/voicewatch.json").read_text())["panels"]
PROMETHEUS = shutil.which("prometheus")
WAIT_S = 120.0
pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        PROMETHEUS is None,
        reason="there is no Prometheus; `apt-get install prometheus` (or `.ci/run`) installs it",
    ),
]


class Prometheus:
    """A server that scrapes one target every half second, with our rules; only their waiting times are shorter."""

    def __init__(self, directory: Path, target: str) -> None:
        rules = yaml.safe_load((DOCKER / "prometheus/rules.yml").read_text())
        for rule in rules["groups"][0]["rules"]:
            if "for" in rule:
                rule["for"] = "1s"
        (directory / "rules.yml").write_text(yaml.safe_dump(rules))
        ours = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())
        ours["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
        ours["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
        (directory / "prometheus.yml").write_text(yaml.safe_dump(ours))
        self.port = free_ports(1)
        self._log = (directory / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                str(PROMETHEUS),
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def get(self, path: str, **query: str) -> Any:
        """Return the data of an answer, None if there is no answer yet."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it starts
                return None
            raise
        except OSError:
            return None

    def values(self, expression: str) -> list[float]:
        """Return the values of an expression now."""
        data = self.get("query", query=expression)
        return [] if data is None else [float(one["value"][1]) for one in data["result"]]

    def firing(self) -> set[str]:
        """Return the names of the rules that fire."""
        data = self.get("alerts")
        return {one["labels"]["alertname"] for one in (data or {"alerts": []})["alerts"] if one["state"] == "firing"}

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()


@contextlib.contextmanager
def scraping(directory: Path, target: str) -> Iterator[Prometheus]:
    directory.mkdir()
    server = Prometheus(directory, target)
    try:
        eventually(lambda: server.values("up") == [1.0], WAIT_S)
        yield server
    finally:
        server.stop()


def test_every_panel_of_the_dashboard_has_data(tmp_path: Path) -> None:
    """Each query of each panel gives a series for a demo, scraped at its live page, and no rule is broken.

    Only the queries about topics of Kafka have none there.
    """
    expressions = [target["expr"].replace("$instance", ".+") for panel in PANELS for target in panel.get("targets", ())]
    expressions = [one for one in expressions if "voicewatch_kafka" not in one]  # a demo writes no topics
    with running_demo(tmp_path, WAIT_S) as page, scraping(tmp_path / "prometheus", urlsplit(page).netloc) as prometheus:
        missing = set(expressions)

        def found() -> bool:
            missing.difference_update([one for one in missing if prometheus.values(one)])
            return not missing

        with contextlib.suppress(AssertionError):  # what is missing says more
            eventually(found, WAIT_S)
        assert missing == set()
        groups = prometheus.get("rules")["groups"]
        assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
        assert "VoicewatchDown" not in prometheus.firing()


def test_the_rules_fire_in_a_scripted_fault(tmp_path: Path) -> None:
    """A receiver that is gone, a feed that is lost and a run that is killed: each has its alert, a healthy run none."""
    port = free_ports(1)
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(ScriptedReceiver())
        genesys = contextlib.ExitStack()
        stack.push(genesys)
        simulator = genesys.enter_context(running_simulator(conversations=5, rate=20.0))
        live = Live(tmp_path, simulator.base_url, receiver.url)
        live.bootstrap()
        target = f"127.0.0.1:{port}"
        process = stack.enter_context(live.running("run", VOICEWATCH_METRICS__LISTEN=target))
        prometheus = stack.enter_context(scraping(tmp_path / "prometheus", target))
        delivered = 'voicewatch_delivery_attempts_total{outcome="delivered"} > 2'
        eventually(lambda: bool(prometheus.values(delivered)), WAIT_S)
        # At the start it may lag for a moment; and the disk is that of the machine.
        eventually(lambda: prometheus.firing() <= {"VoicewatchDiskFilling"}, WAIT_S)
        receiver.script("/alerts", itertools.repeat(Reply(status=410)))
        eventually(lambda: {"VoicewatchDeadCallbacks", "VoicewatchReceiverFailing"} <= prometheus.firing(), WAIT_S)
        assert "VoicewatchFeedDown" not in prometheus.firing()
        genesys.close()
        eventually(lambda: "VoicewatchFeedDown" in prometheus.firing(), WAIT_S)
        assert "VoicewatchDown" not in prometheus.firing()
        process.process.kill()
        eventually(lambda: "VoicewatchDown" in prometheus.firing(), WAIT_S)
