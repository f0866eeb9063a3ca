"""A run that is watched: metrics and health over HTTP, one port for each process, and what systemd hears."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.callbacks.receiver import CallbackReceiver
from connectors.genesys.simulator.voice_events import running_simulator
from flows.live import recovery_of
from flows.monitoring.monitor import process_number
from flows.settings.loading import load_settings, parse_settings
from tests.support.callbacks import eventually
from tests.support.cli import started
from tests.support.live import Live

pytestmark = pytest.mark.timeout(300)
DEADLINE_S = 60.0
MANY = {"conversations": 5, "rate": 20.0}


def free_ports(count: int) -> int:
    """The first of some ports in a row that were free a moment ago."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
            try:
                for number in range(1, count):
                    socket.create_server(("127.0.0.1", port + number)).close()
            except OSError:
                continue
            return int(port)


def ask(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


def value(port: int, sample: str) -> float:
    """The value of a sample, 0 if it is not there."""
    for line in ask(port, "/metrics")[1].splitlines():
        name, _, number = line.rpartition(" ")
        if name == sample:
            return float(number)
    return 0.0


def listen(systemd: socket.socket, heard: list[str]) -> None:
    with contextlib.suppress(OSError):
        while message := systemd.recv(100):
            heard.append(message.decode())


def until(happened: Callable[[], bool]) -> None:
    eventually(happened, DEADLINE_S)


def test_a_run_tells_what_it_does(tmp_path: Path) -> None:
    """It becomes ready, counts what goes through it, is alive to the end, and tells systemd all of that."""
    port = free_ports(1)
    with (
        running_simulator(**MANY) as simulator,
        CallbackReceiver() as receiver,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
    ):
        systemd.bind(str(tmp_path / "notify"))
        heard: list[str] = []
        systemd.settimeout(DEADLINE_S)
        threading.Thread(target=listen, args=(systemd, heard), daemon=True).start()
        live = Live(tmp_path, simulator.base_url, receiver.url)
        live.bootstrap()
        told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with live.running("run", VOICEWATCH_METRICS__LISTEN=f"127.0.0.1:{port}", **told) as process:
            until(lambda: ask(port, "/readyz")[0] == 200)
            until(lambda: value(port, 'voicewatch_delivery_attempts_total{outcome="delivered"}') >= 2)
            assert ask(port, "/livez")[0] == 200
            assert value(port, 'voicewatch_frames_total{outcome="watched"}') > 0
            assert value(port, 'voicewatch_feed_messages_total{feed="voice-events",outcome="frame"}') > 0
            assert value(port, 'voicewatch_feed_up{feed="voice-events"}') == 1
            assert value(port, "voicewatch_watched_conversations") == 5
            assert value(port, "voicewatch_frame_latency_seconds_count") > 0
            assert value(port, "voicewatch_decode_seconds_count") > 0
            assert value(port, "voicewatch_shard_seconds_count") > 0
            until(lambda: value(port, "voicewatch_windows_total") > 0)
            assert value(port, 'voicewatch_receivers{state="closed"}') == 1
            assert 0 < value(port, "voicewatch_token_age_seconds") < DEADLINE_S
            simulator.drop_connections(1011)
            until(lambda: value(port, 'voicewatch_feed_losses_total{feed="voice-events"}') == 1)
            until(lambda: value(port, 'voicewatch_feed_connections_total{feed="voice-events"}') == 2)
            assert process.stop() == 0, process.log
    assert heard.count("READY=1") == 1
    assert heard.count("WATCHDOG=1") > 3
    live.assert_equals_its_replay()


def test_each_process_of_a_cluster_has_its_port(tmp_path: Path) -> None:
    """The first is ready when its feed is up, the second when it is there; frames add up, logs have one run id."""
    port = free_ports(2)
    with running_simulator(**MANY) as simulator, CallbackReceiver() as receiver:
        live = Live(tmp_path, simulator.base_url, receiver.url)
        live.bootstrap()
        with live.running("cluster", "--log-json", VOICEWATCH_METRICS__LISTEN=f"127.0.0.1:{port}") as process:
            until(lambda: ask(port, "/readyz")[0] == 200 and ask(port + 1, "/readyz")[0] == 200)
            assert "source" not in json.loads(ask(port + 1, "/readyz")[1])["checks"]
            assert value(port + 1, 'voicewatch_info{process="1",version="0.1.0"}') == 1
            until(lambda: sum(value(p, "voicewatch_frame_latency_seconds_count") for p in (port, port + 1)) > 50)
            watched = sum(value(p, "voicewatch_watched_conversations") for p in (port, port + 1))
            assert watched == 5
            assert process.stop() == 0, process.log
    logged = [json.loads(line) for line in process.log.splitlines() if line.startswith("{")]
    assert {line["event"] for line in logged} >= {"feed_changed", "stopping"}
    assert len({line["run_id"] for line in logged}) == 1


def test_processes_on_machines_of_their_own(tmp_path: Path) -> None:
    """What the manifests for Kubernetes do: a state directory for each process, all recovery files on the first."""
    port, first, second = free_ports(1), free_ports(1), free_ports(1)
    with running_simulator(**MANY) as simulator, CallbackReceiver() as receiver:
        live = Live(tmp_path, simulator.base_url, receiver.url)
        live.bootstrap()
        recovery_of(load_settings(live.config, {}))
        elsewhere = tmp_path / "elsewhere"
        (elsewhere / "recovery").mkdir(parents=True)
        runner = [sys.executable, "-m", "bytewax.run", "flows.voice_qa", "-s", "1", "-b", "0"]
        runner += ["-a", f"127.0.0.1:{first};127.0.0.1:{second}"]
        own = {"VOICEWATCH_METRICS__LISTEN": f"127.0.0.1:{port}"}
        config = {"VOICEWATCH_CONFIG": str(live.config)}
        with (
            started(tmp_path, [*runner, "-i", "0", "-r", str(live.state.recovery)], **own, **config) as leader,
            started(
                tmp_path,
                [*runner, "-i", "1", "-r", str(elsewhere / "recovery")],
                **config,
                VOICEWATCH_STATE__DIR=str(elsewhere),
            ) as follower,
        ):
            until(lambda: leader.process.poll() is not None or ask(port, "/readyz")[0] == 200)
            live.process = leader
            live.wait_for_frames(50)
            assert leader.stop() == 0, leader.log
            assert follower.wait() == 0, follower.log
    live.assert_equals_its_replay()
    assert {path.name for path in elsewhere.iterdir()} == {"recovery"}


def test_one_pod_alone(tmp_path: Path) -> None:
    """The base manifests: all settings of the runner come from the environment, and the port is the shared one."""
    port, workers = free_ports(1), free_ports(1)
    with running_simulator(**MANY) as simulator, CallbackReceiver() as receiver:
        live = Live(tmp_path, simulator.base_url, receiver.url)
        live.bootstrap()
        recovery_of(load_settings(live.config, {}))
        told = {
            "VOICEWATCH_CONFIG": str(live.config),
            "VOICEWATCH_METRICS__LISTEN": f"127.0.0.1:{port}",
            "BYTEWAX_POD_NAME": "voicewatch-0",
            "BYTEWAX_STATEFULSET_NAME": "voicewatch",
            "BYTEWAX_ADDRESSES": f"127.0.0.1:{workers}",
            "BYTEWAX_RECOVERY_DIRECTORY": str(live.state.recovery),
            "BYTEWAX_SNAPSHOT_INTERVAL": "1",
            "BYTEWAX_RECOVERY_BACKUP_INTERVAL": "0",
        }
        with started(tmp_path, [sys.executable, "-m", "bytewax.run", "flows.voice_qa"], **told) as pod:
            until(lambda: pod.process.poll() is not None or ask(port, "/readyz")[0] == 200)
            live.process = pod
            live.wait_for_frames(20)
            assert pod.stop() == 0, pod.log
    live.assert_equals_its_replay()


def test_a_port_that_is_taken_ends_the_run_at_once(tmp_path: Path) -> None:
    """An empty watch list is reported at the start, not weeks later."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        running_simulator(**MANY) as simulator,
        CallbackReceiver() as receiver,
    ):
        live = Live(tmp_path, simulator.base_url, receiver.url)
        live.bootstrap()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with live.running("run", VOICEWATCH_METRICS__LISTEN=address) as process:
            assert process.wait() == 2
    assert process.log.splitlines()[-1].startswith(f"voicewatch: metrics.listen: {address} cannot be listened on")


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        ([], {}, (0, 0)),
        (["flows.voice_qa", "-i", "1", "-a", "h:1;h:2"], {}, (1, 1)),
        (["flows.voice_qa", "--process-id=2"], {}, (2, 2)),
        (["flows.voice_qa"], {"BYTEWAX_PROCESS_ID": "3"}, (3, 3)),
        ([], {"BYTEWAX_POD_NAME": "voicewatch-2", "BYTEWAX_STATEFULSET_NAME": "voicewatch"}, (2, 0)),
        ([], {"BYTEWAX_POD_NAME": "elsewhere-x", "BYTEWAX_STATEFULSET_NAME": "voicewatch"}, (0, 0)),
    ],
)
def test_the_number_of_a_process(arguments: list[str], environ: dict[str, str], expected: tuple[int, int]) -> None:
    """As in the arguments of Bytewax' runner; only processes that may share a machine add it to the port."""
    assert process_number(arguments, environ) == expected


def test_the_address_of_a_process() -> None:
    """The number is added to the port, but not to 0, which takes any; nothing is served without an address."""
    assert parse_settings({}, "x").metrics.address(1) is None
    assert parse_settings({"metrics": {"listen": "127.0.0.1:9464"}}, "x").metrics.address(2) == ("127.0.0.1", 9466)
    assert parse_settings({"metrics": {"listen": "[::1]:0"}}, "x").metrics.address(2) == ("::1", 0)
