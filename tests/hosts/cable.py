"""A bad cable between two TAP devices, for kernels without netem: what goes one way is late, and some of it is lost.

Run in the namespace of the switch: `python -m tests.hosts.cable NEAR FAR DELAY_MS LOSS_PERCENT`. It makes both devices,
prints a line, and carries Ethernet frames from FAR to NEAR late, and from NEAR to FAR at once, until it is killed.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque
from typing import Final

_TUNSETIFF: Final = 0x400454CA
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000
_LARGEST: Final = 65_536


def tap(name: str) -> int:
    """Make a TAP device, which is there as long as its descriptor is open."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return descriptor


def carry(near: int, far: int, *, delay_s: float, loss: float) -> None:
    """Carry frames until the process is killed."""
    lost = random.Random(1)
    under_way: deque[tuple[float, bytes]] = deque()
    while True:
        wait_s = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        readable, _, _ = select.select([near, far], [], [], wait_s)
        if near in readable:
            _send(far, os.read(near, _LARGEST))
        if far in readable:
            frame = os.read(far, _LARGEST)
            if lost.random() >= loss:
                under_way.append((time.monotonic() + delay_s, frame))
        while under_way and under_way[0][0] <= time.monotonic():
            _send(near, under_way.popleft()[1])


def _send(descriptor: int, frame: bytes) -> None:
    try:
        os.write(descriptor, frame)
    except (BlockingIOError, OSError):
        return  # the device is down, or full: a cable loses such frames


def main() -> None:
    """Make the devices and carry frames."""
    near, far, delay_ms, loss_percent = sys.argv[1:]
    descriptors = tap(near), tap(far)
    print("ready", flush=True)
    carry(*descriptors, delay_s=float(delay_ms) / 1000.0, loss=float(loss_percent) / 100.0)


if __name__ == "__main__":
    main()
