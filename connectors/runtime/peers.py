"""The other processes of a Bytewax cluster: notice that a host has died, pass a stop request on without shared files.

Bytewax' connections have no time limit: without one, a host that dies without closing them is noticed after 15 minutes.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from connectors.runtime.logs import get_logger
from connectors.runtime.platform import dead_peer_options, open_files

__all__ = ["DEAD_AFTER_S", "LOST", "PeerWatch", "StopRelay", "cluster_addresses", "explain_lost_peers"]

DEAD_AFTER_S: Final = 10
SCAN_S: Final = 0.2
REPEAT_S: Final = 0.5
FRESH_S: Final = 60.0
LOST: Final = "another process of the cluster ended or cannot be reached; this one ends, too, to be started again"
_LOST_PEER: Final = re.compile(r"(Send|Recv) thread panic")


def cluster_addresses(given: str | None, environ: Mapping[str, str]) -> list[tuple[str, int]]:
    """Return host and port of each process, from the option `-a` or the variables of Bytewax' runner; [] without any.

    >>> cluster_addresses("10.0.0.1:2101;10.0.0.2:2101", {})
    [('10.0.0.1', 2101), ('10.0.0.2', 2101)]
    """
    text = given or environ.get("BYTEWAX_ADDRESSES", "")
    if not text and "BYTEWAX_HOSTFILE_PATH" in environ:
        text = ";".join(Path(environ["BYTEWAX_HOSTFILE_PATH"]).read_text().split())
    pairs = [address.strip().rpartition(":") for address in text.split(";") if address.strip()]
    return [(host.strip("[]"), int(port)) for host, _, port in pairs if port.isdigit()]


class PeerWatch(threading.Thread):
    """Set time limits on Bytewax' connections to the other processes, which then fail within `DEAD_AFTER_S` seconds.

    A process whose connection fails ends with exit 1, and its supervisor starts it again. The connections are Bytewax'
    own, so they are found among the descriptors of the process.
    """

    def __init__(self, addresses: Sequence[tuple[str, int]], process: int) -> None:
        super().__init__(name="voicewatch-peers", daemon=True)
        self._own_port = addresses[process][1]
        self._ports = {port for number, (_, port) in enumerate(addresses) if number != process}
        self._expected = len(addresses) - 1
        self._limited: set[int] = set()

    def run(self) -> None:
        """Look for connections until all are found."""
        while not self.connected():
            time.sleep(SCAN_S)
        get_logger(__name__).info("cluster_connected", peers=self._expected, dead_after_s=DEAD_AFTER_S)

    def connected(self) -> bool:
        """Look for connections now, and return whether all are there. It may be called from any thread."""
        if len(self._limited) < self._expected:
            for entry in open_files():
                with contextlib.suppress(OSError):  # closed meanwhile, or not a socket
                    self._limit(int(entry.name))
        return len(self._limited) >= self._expected

    def _limit(self, fd: int) -> None:
        status = os.fstat(fd)
        inode = status.st_ino
        # Of a descriptor that is not a socket, the copy below would stay open: twice as many with each look.
        if not stat.S_ISSOCK(status.st_mode) or inode in self._limited:
            return
        with socket.socket(fileno=os.dup(fd)) as connection:
            if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
                return
            if connection.getpeername()[1] in self._ports or connection.getsockname()[1] == self._own_port:
                for option in dead_peer_options(DEAD_AFTER_S):
                    connection.setsockopt(*option)
                self._limited.add(inode)


def explain_lost_peers() -> None:
    """Have a lost connection to another process end this one with a line of log, not with Bytewax' traceback."""
    before = sys.excepthook

    def explain(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if kind.__name__ == "PanicException" and _LOST_PEER.match(str(error)):
            get_logger(__name__).error("cluster_peer_lost", reason=LOST)
        else:
            before(kind, error, traceback)

    sys.excepthook = explain


class StopRelay:
    """Pass a stop request on to the first process, which runs the source, by UDP datagrams to its address.

    A datagram carries its time and an HMAC with `key`; others are ignored. Best effort: the sender repeats it until its
    process ends.
    """

    def __init__(self, first: tuple[str, int], key: bytes, *, now: Callable[[], float] = time.time) -> None:
        self._first = first
        self._key = key
        self._now = now

    def listen(self, on_stop: Callable[[], None]) -> None:
        """Call `on_stop` at the first valid request, in a thread. Raises OSError if the port is taken."""
        family = socket.getaddrinfo(*self._first, type=socket.SOCK_DGRAM)[0][0]
        receiver = socket.socket(family, socket.SOCK_DGRAM)
        receiver.bind(self._first)
        threading.Thread(target=self._receive, args=(receiver, on_stop), name="voicewatch-relay", daemon=True).start()

    def send(self) -> None:
        """Send the request again and again, from a thread, until the process ends."""
        threading.Thread(target=self._send, name="voicewatch-relay", daemon=True).start()

    def _receive(self, receiver: socket.socket, on_stop: Callable[[], None]) -> None:
        with receiver:
            while not self._is_valid(receiver.recv(256)):
                pass
        on_stop()

    def _send(self) -> None:
        while True:
            with contextlib.suppress(OSError):  # not reachable now: tried again
                family, kind, _, _, address = socket.getaddrinfo(*self._first, type=socket.SOCK_DGRAM)[0]
                with socket.socket(family, kind) as sender:
                    sender.sendto(self._request(f"{self._now():.0f}"), address)
            time.sleep(REPEAT_S)

    def _request(self, at: str) -> bytes:
        text = f"voicewatch stop {at}"
        return f"{text} {hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()}".encode()

    def _is_valid(self, data: bytes) -> bool:
        parts = data.decode("ascii", "replace").split(" ")
        if len(parts) != 4 or not parts[2].isdecimal() or abs(int(parts[2]) - self._now()) > FRESH_S:
            return False
        return hmac.compare_digest(data, self._request(parts[2]))
