"""Run both deployments over three hosts, and what happens to hosts: `make cluster-hosts`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from connectors.format.owners import Share
from tests.hosts.deployment import Member, check_followed, check_outputs, python_on
from tests.hosts.network import Network, network

HOSTS = ("vw0", "vw1", "vw2")
GENESYS = "vwgenesys"
GROUPS = "vwgroups"
TOKEN = "a-long-secret-of-the-test"
NO_RESULTS = shutil.ignore_patterns("recovery", "outbox", "journal")
PARTITION_S = 20.0
BAD_S = 20.0
CONVERSATIONS = 12
SIMULATOR = (
    "from connectors.genesys.simulator.voice_events import SimulatorOptions, serve_forever\n"
    f"serve_forever(SimulatorOptions(host='0.0.0.0', port=8080, conversations={CONVERSATIONS}, rate=10.0))"
)
RECEIVER = (
    "import sys, threading\n"
    "from connectors.callbacks.receiver import CallbackReceiver\n"
    "write = lambda one: (sys.stdout.write(one.id + '\\n'), sys.stdout.flush())\n"
    "with CallbackReceiver(9090, host='0.0.0.0', on_received=write):\n"
    "    threading.Event().wait()"
)


def tables(hosts: Network, directory: Path) -> dict[str, Any]:
    """Return a configuration whose limits are so low that alerts come all the time."""
    genesys = hosts.addresses[GENESYS]
    return {
        "genesys": {"base_url": f"http://{genesys}:8080"},
        "windows": {"length_s": 2, "slide_s": 1},
        "alerts": {"clear_after_s": 0.3, "unwatched": "default"},
        "delivery": {"allow_private_addresses": True, "timeout_s": 20},
        "state": {"dir": str(directory / "state")},
        "defaults": {
            "qa_callback_url": f"http://{genesys}:9090/alerts",
            "labels": {"queue": "support"},
            "max_latency_ms": 60,
            "packet_loss_threshold": 0.004,
        },
    }


def with_groups(hosts: Network, directory: Path) -> dict[str, Any]:
    """Return the same configuration with groups by queue, whose incidents come and go."""
    url = f"http://{hosts.addresses[GENESYS]}:9090/groups"
    rules = {"min_conversations": 2, "raise_ratio": 0.5, "clear_ratio": 0.4, "clear_after_s": 2}
    return {**tables(hosts, directory), "groups": {"by": ["queue"], **rules, "qa_callback_url": url}}


@contextmanager
def genesys(directory: Path) -> Iterator[Path]:
    """Run the simulator and the receiver on their host; provide the file of the ids received."""
    received = directory / "received"
    started = [
        python_on(GENESYS, ["-c", SIMULATOR], directory / "simulator", {}),
        python_on(GENESYS, ["-c", RECEIVER], received, {}),
    ]
    try:
        yield received
    finally:
        for process in started:
            process.kill()
            process.wait()


class Trouble:
    """Does to hosts what happens to hosts, and keeps how long each deployment needed.

    `outputs` are the members that record and write; the others of a Bytewax cluster only calculate. `copies` is where
    the results of the outputs are copied before one of them loses its disk.
    """

    def __init__(self, hosts: Network, members: list[Member], outputs: list[Member], copies: Path) -> None:
        self.rows: list[tuple[str, str]] = []
        self._hosts = hosts
        self._members = members
        self._outputs = outputs
        self._copies = copies

    def all(self) -> None:
        """Do everything, one after the other."""
        for member in self._members:
            self._recovered(f"`kill -9` of {member.host}", member.kill())
        self._recovered("SIGTERM to vw0, which is started again", self._members[0].restart())
        self._partition(self._members[1].host)
        self._bad_network()
        for member in self._outputs:
            shutil.copytree(
                member.state.dir,
                self._copies / member.host,
                ignore=shutil.ignore_patterns("recovery", "outbox", "journal"),
            )
        self._recovered(f"{self._members[2].host} back with an empty disk", self._members[2].wipe())

    def _recovered(self, what: str, since: float) -> None:
        """Wait until every member that writes has a window of frames that arrived after `since`."""
        for member in self._outputs:
            member.until_window(since)
        self._row(what, f"{time.time() - since:.1f} s")

    def _partition(self, host: str) -> None:
        self._hosts.unplug(host)
        time.sleep(PARTITION_S)
        self._hosts.plug(host)
        self._recovered(f"{host} without network for {PARTITION_S:g} s, from its return", time.time())

    def _bad_network(self) -> None:
        by = {self._hosts.make_bad(member.host, delay_ms=50, loss_percent=1) for member in self._members}
        time.sleep(BAD_S)
        starts = sum(member.starts for member in self._members)
        for member in self._outputs:
            member.until_window(time.time())
        assert sum(member.starts for member in self._members) == starts, "a process was started again"
        self._row(f"50 ms delay and 1 % loss for {BAD_S:g} s ({'/'.join(by)})", "no interruption")
        for member in self._members:
            self._hosts.make_good(member.host)

    def _row(self, what: str, result: str) -> None:
        print(f"  {what}: {result}", flush=True)
        self.rows.append((what, result))


def partitioned(hosts: Network, directory: Path) -> list[tuple[str, str]]:
    """Three instances divide the conversations; a process on another host adds up their groups."""
    print("partitioned deployment, three hosts", flush=True)
    members = []
    for index, host in enumerate(HOSTS):
        own = directory / host
        shard = {"VOICEWATCH_SHARD_INDEX": str(index), "VOICEWATCH_SHARD_COUNT": str(len(HOSTS))}
        page = {"VOICEWATCH_WEB__LISTEN": "0.0.0.0:8081", "VOICEWATCH_WEB_TOKEN": TOKEN}
        arguments = ["-m", "flows", "--log-json", "run", "CONFIG", "--no-bootstrap"]
        members.append(Member(host, own, with_groups(hosts, own), arguments, {**shard, **page}))
    own = directory / GROUPS
    pages = [f"http://{hosts.addresses[host]}:8081" for host in HOSTS]
    arguments = ["-m", "flows", "--log-json", "merge", *pages, "--out", str(own / "state"), "--config", "CONFIG"]
    more = {"VOICEWATCH_WEB_TOKEN": TOKEN}
    members.append(Member(GROUPS, own, with_groups(hosts, own), [*arguments, "--follow"], more, "groups"))
    rows = run(hosts, directory, members, members)
    for index, member in enumerate(members[: len(HOSTS)]):
        lines = member.state.windows.read_bytes().splitlines()
        watched = {json.loads(line)["conversation_id"] for line in lines}
        assert watched, f"{member.host} has no window"
        foreign = [one for one in watched if not Share(index, len(HOSTS)).owns_text(one)]
        assert not foreign, f"{member.host} has windows of conversations of others: {foreign}"
    return rows


def cluster(hosts: Network, directory: Path) -> list[tuple[str, str]]:
    """One Bytewax cluster of three processes, started as compose.cluster.yaml starts it."""
    print("Bytewax cluster, three hosts", flush=True)
    addresses = ";".join(f"{hosts.addresses[host]}:2101" for host in HOSTS)
    members = []
    for index, host in enumerate(HOSTS):
        own = directory / host
        recovery = str(own / "state/recovery")
        options = ["-i", str(index), "-a", addresses, "-r", recovery, "-s", "1", "-b", "0"]
        members.append(Member(host, own, tables(hosts, own), ["-m", "flows.voice_qa", *options], {}))
    init = [sys.executable, "-m", "flows", "recovery", "init", str(members[0].state.recovery)]
    subprocess.run(init, check=True, capture_output=True)
    return run(hosts, directory, members, members[:1])


def run(hosts: Network, directory: Path, members: list[Member], outputs: list[Member]) -> list[tuple[str, str]]:
    """Run a deployment through all trouble, stop it, and compare what it wrote with replays by one process."""
    copies = directory / "copies"
    trouble = Trouble(hosts, members, outputs, copies)
    with genesys(directory) as received:
        try:
            for member in members:
                member.start()
            for member in outputs:
                member.until_window(time.time())
            trouble.all()
            for member in outputs:  # a stop of the first process of a cluster stops the others
                assert member.stop() == 0, member.log.read_text()[-3000:]
        finally:
            for member in members:
                member.end()
        for member in outputs:
            ids = set(received.read_text().split())
            if member.results == "windows":
                checked = check_outputs(member, member.directory / "replayed", ids)
            else:
                checked = check_followed(member, [copies / host for host in HOSTS], member.directory / "merged", ids)
            print(f"  {checked}", flush=True)
    return trouble.rows


def print_table(results: dict[str, list[tuple[str, str]]]) -> None:
    """Print how long each deployment needed, as Markdown."""
    names = list(results)
    print(f"\n| what happens | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for what in dict.fromkeys(what for rows in results.values() for what, _ in rows):
        print(f"| {what} | {' | '.join(dict(rows).get(what, '') for rows in results.values())} |")


def main() -> None:
    """`python -m tests.hosts [partitioned|cluster]`: exit 1 with the first thing that is wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("deployments", nargs="*", default=["partitioned", "cluster"])
    names = parser.parse_args().deployments
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")):
        sys.exit("needs root, and the commands ip and tc")
    results: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        with network([*HOSTS, GENESYS, GROUPS]) as hosts, tempfile.TemporaryDirectory() as directory:
            results[name] = {"partitioned": partitioned, "cluster": cluster}[name](hosts, Path(directory))
    print_table(results)
    print("\nnothing was lost: every output is that of one process, and every alert was delivered or waits")


if __name__ == "__main__":
    main()
