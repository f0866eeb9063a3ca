"""Processes of a cluster on hosts of their own, which are network namespaces here: only root can make them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.runtime.peers import LOST, PeerWatch, StopRelay, cluster_addresses
from connectors.runtime.platform import open_files
from tests.support.callbacks import eventually
from tests.support.cli import environ

HOSTS = ("10.213.7.1", "10.213.7.2")
NAMES = ("vwtest0", "vwtest1")
ADDRESSES = ";".join(f"{host}:2101" for host in HOSTS)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


def can_make_hosts() -> bool:
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    try:
        ip("netns", "add", "vwprobe")
        ip("netns", "del", "vwprobe")
    except subprocess.CalledProcessError:
        return False
    return True


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Two hosts with a cable between them."""
    if not can_make_hosts():
        pytest.skip("needs root and network namespaces")
    try:
        for name in NAMES:
            ip("netns", "add", name)
        ip("link", "add", NAMES[0], "netns", NAMES[0], "type", "veth", "peer", "name", NAMES[1], "netns", NAMES[1])
        for name, host in zip(NAMES, HOSTS, strict=True):
            ip("-n", name, "addr", "add", f"{host}/24", "dev", name)
            ip("-n", name, "link", "set", name, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield NAMES
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False, timeout=30)


def start(
    directory: Path, number: int, addresses: str = ADDRESSES, *, on_hosts: bool = True
) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a process of the cluster on its host, with a state directory and recovery files of its own."""
    own = directory / f"host-{number}"
    own.mkdir()
    config = own / "voicewatch.toml"
    config.write_text(
        '[[feed]]\nkind = "audiohook"\n[audiohook]\nlisten = "127.0.0.1:0"\napi_keys = ["key"]\n'
        '[defaults]\nqa_callback_url = "https://qa.example.com/alerts"\n'
    )
    variables = environ(
        {
            "VOICEWATCH_CONFIG": str(config),
            "VOICEWATCH_AUDIOHOOK_SECRETS": f"key={b64encode(b'secret' * 6).decode()}",
        }
    )
    recovery = own / "state/recovery"
    if number == 0:
        subprocess.run(
            [sys.executable, "-m", "flows", "recovery", "init", str(recovery)], env=variables, check=True, timeout=60
        )
    else:
        recovery.mkdir(parents=True)
    options = ["-i", str(number), "-a", addresses, "-r", str(recovery), "-s", "1", "-b", "0"]
    log = own / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                *(["ip", "netns", "exec", NAMES[number]] if on_hosts else []),
                sys.executable,
                "-P",
                "-m",
                "flows.voice_qa",
                *options,
            ],
            env=variables,
            cwd=own,
            stdout=file,
            stderr=file,
        )
    return process, log


@pytest.fixture
def cluster(hosts: tuple[str, str], tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two connected processes, each on its host."""
    started = [start(tmp_path, number) for number in range(2)]
    try:
        for _, log in started:
            eventually(lambda: "cluster_connected" in log.read_text(), 60)  # noqa: B023 - called at once
        eventually((tmp_path / "host-0/state/journal").exists, 60)
        yield [process for process, _ in started]
    finally:
        for process, log in started:
            process.kill()
            process.wait(30)
            sys.stderr.write(log.read_text())


def codes_after(processes: list[subprocess.Popen[bytes]], within_s: float) -> list[int]:
    end = time.monotonic() + within_s
    return [process.wait(max(end - time.monotonic(), 0.01)) for process in processes]


def test_a_host_that_dies_silently_is_noticed(cluster: list[subprocess.Popen[bytes]]) -> None:
    """When the cable is cut, both processes end with an error within 15 s, so that supervisors start them again."""
    ip("-n", NAMES[1], "link", "set", NAMES[1], "down")
    assert all(code not in (0, None) for code in codes_after(cluster, 15))


def test_a_lost_process_ends_the_other_with_one_line(tmp_path: Path) -> None:
    """When one of two processes is killed, the other ends with exit 1 and a line that says why, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        addresses = ";".join(f"127.0.0.1:{free.getsockname()[1]}" for free in (one, two))
    started = [start(tmp_path, number, addresses, on_hosts=False) for number in range(2)]
    try:
        for _, log in started:
            eventually(lambda: "cluster_connected" in log.read_text(), 60)  # noqa: B023 - called at once
        eventually((tmp_path / "host-0/state/journal").exists, 60)
        started[0][0].kill()
        assert started[1][0].wait(60) == 1
        text = started[1][1].read_text()
        assert LOST in text
        assert "Traceback" not in text
    finally:
        for process, _ in started:
            process.kill()
            process.wait(30)


def test_a_stop_of_any_process_stops_all(cluster: list[subprocess.Popen[bytes]]) -> None:
    """SIGTERM to the process without the source ends both with exit 0, without a file that both see."""
    cluster[1].send_signal(signal.SIGTERM)
    assert codes_after(cluster, 15) == [0, 0]


def test_a_process_that_waits_for_its_peers_stops_at_once(hosts: tuple[str, str], tmp_path: Path) -> None:
    """Nothing has begun, so that there is nothing to wait for."""
    process, log = start(tmp_path, 0)
    try:
        eventually(lambda: f":{2101:04X} " in Path(f"/proc/{process.pid}/net/udp").read_text(), 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(3) == 0, log.read_text()
    finally:
        process.kill()
        process.wait(30)


def test_only_a_signed_and_fresh_request_stops() -> None:
    """Requests with another key, of another time, or that are something else are ignored."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    stopped = threading.Event()
    relay = StopRelay(address, b"key")
    relay.listen(stopped.set)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        wrong = [StopRelay(address, b"other")._request(f"{time.time():.0f}"), relay._request("1767225600")]
        for data in (b"", b"\xff" * 100, b"voicewatch stop now x", b"voicewatch stop 1 x y", *wrong):
            sender.sendto(data, address)
        assert not stopped.wait(0.5)
        sender.sendto(relay._request(f"{time.time():.0f}"), address)
        assert stopped.wait(10)


def test_addresses_are_read_as_by_the_runner(tmp_path: Path) -> None:
    """From the option, the variable, or the file of host names, a line each."""
    expected = [("h0", 1), ("h1", 2)]
    (tmp_path / "hosts").write_text("h0:1\nh1:2\n")
    assert cluster_addresses("h0:1;h1:2", {}) == expected
    assert cluster_addresses(None, {"BYTEWAX_ADDRESSES": "h0:1;h1:2"}) == expected
    assert cluster_addresses(None, {"BYTEWAX_HOSTFILE_PATH": str(tmp_path / "hosts")}) == expected
    assert cluster_addresses(None, {}) == []


def test_a_connection_is_known_when_it_is_asked_for() -> None:
    """A stop between two scans finds a new connection, so the process ends in order with its peer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        own = server.getsockname()
        peers = PeerWatch([own, ("127.0.0.1", 1)], 0)
        assert not peers.connected()
        with socket.create_connection(own) as theirs, server.accept()[0] as ours:
            assert peers.connected()
            assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert theirs.getpeername() == own


def test_looking_for_peers_leaves_no_descriptor_open() -> None:
    """While a peer is away, the other descriptors of the process are not copied: they are not used up."""
    read, write = os.pipe()
    peers = PeerWatch([("127.0.0.1", 1), ("127.0.0.1", 2)], 0)
    with os.fdopen(read), os.fdopen(write, "w"):
        before = len(open_files())
        for _ in range(5):
            assert not peers.connected()
        assert len(open_files()) == before
