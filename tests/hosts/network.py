"""Hosts that are network namespaces, joined by a bridge in a namespace of its own; nothing else is touched."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["Network", "network"]

SWITCH = "vwswitch"
BRIDGE = "vwbridge"
SUBNET = "10.213.8"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


class Network:
    """The hosts by name; each has an address, and a cable to the switch that can be unplugged or be bad."""

    def __init__(self, names: Sequence[str]) -> None:
        self.addresses = {name: f"{SUBNET}.{number}" for number, name in enumerate(names, 1)}
        self._cables: dict[str, subprocess.Popen[bytes]] = {}

    def unplug(self, name: str) -> None:
        """Cut a host off from all others."""
        ip("-n", SWITCH, "link", "set", f"to-{name}", "down")

    def plug(self, name: str) -> None:
        """Join a host to the others again."""
        ip("-n", SWITCH, "link", "set", f"to-{name}", "up")

    def make_bad(self, name: str, *, delay_ms: int, loss_percent: float) -> str:
        """Delay all that a host sends, and lose some of it; return what does so: netem, or else a relay."""
        quality = ["netem", "delay", f"{delay_ms}ms", "loss", f"{loss_percent}%"]
        command = ["ip", "netns", "exec", name, "tc", "qdisc", "replace", "dev", "eth0", "root", *quality]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        if "qdisc kind is unknown" not in done.stderr:
            done.check_returncode()
            return "netem"
        self._lay_cable(name, str(delay_ms), str(loss_percent))
        return "relay"

    def make_good(self, name: str) -> None:
        """End what `make_bad` began."""
        cable = self._cables.pop(name, None)
        if cable is None:
            ip("netns", "exec", name, "tc", "qdisc", "del", "dev", "eth0", "root")
            return
        ip("-n", SWITCH, "link", "set", f"to-{name}", "master", BRIDGE)
        cable.kill()
        cable.wait(30)
        ip("-n", SWITCH, "link", "del", f"by-{name}")

    def end(self) -> None:
        """End the relays."""
        for cable in self._cables.values():
            cable.kill()
            cable.wait(30)

    def _lay_cable(self, name: str, *quality: str) -> None:
        """Join a host to a bridge of its own, and that one to the others' by a relay."""
        near, far, bridge = f"near-{name}", f"far-{name}", f"by-{name}"
        arguments = [sys.executable, "-m", "tests.hosts.cable", near, far, *quality]
        cable = subprocess.Popen(["ip", "netns", "exec", SWITCH, *arguments], stdout=subprocess.PIPE)
        self._cables[name] = cable
        assert cable.stdout is not None
        assert cable.stdout.readline() == b"ready\n"
        ip("-n", SWITCH, "link", "add", bridge, "type", "bridge")
        ip("-n", SWITCH, "link", "set", bridge, "up")
        for device, master in ((near, BRIDGE), (far, bridge), (f"to-{name}", bridge)):
            ip("-n", SWITCH, "link", "set", device, "master", master, "up")


@contextmanager
def network(names: Sequence[str]) -> Iterator[Network]:
    """Make the hosts, and remove them at the end."""
    hosts = Network(names)
    try:
        ip("netns", "add", SWITCH)
        ip("-n", SWITCH, "link", "add", BRIDGE, "type", "bridge")
        ip("-n", SWITCH, "link", "set", BRIDGE, "up")
        for name, address in hosts.addresses.items():
            ip("netns", "add", name)
            ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", f"to-{name}", "netns", SWITCH)
            ip("-n", SWITCH, "link", "set", f"to-{name}", "master", BRIDGE, "up")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield hosts
    finally:
        hosts.end()
        for name in (*hosts.addresses, SWITCH):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False, timeout=30)
