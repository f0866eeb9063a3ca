"""Check addresses: no callback may go to this machine or into its private network."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable

__all__ = ["Resolve", "is_public", "lookup", "resolve"]

Resolve = Callable[[str, int], list[str]]

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Special-purpose blocks of IANA's registries that the standard library does not know in every version of Python.
_SPECIAL_4 = tuple(
    map(
        ipaddress.IPv4Network,
        ("192.0.0.0/24", "192.88.99.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.175.48.0/24"),
    )
)
_SPECIAL_6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "3fff::/20", "2620:4f:8000::/48")))


def is_public(address: str) -> bool:
    """Report whether an IP address belongs to the public internet.

    Loopback, private, shared, link-local, multicast, reserved, special-purpose and unspecified addresses do not, nor
    does an IPv6 address that stands for such an IPv4 address (mapped, NAT64, 6to4). Raise ValueError for text that is
    not an IP address.

    >>> [is_public(a) for a in ("93.184.216.34", "127.0.0.1", "::ffff:10.0.0.1", "169.254.169.254", "fe80::1%eth0")]
    [True, False, False, False, False]
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(str(embedded))
        if ip not in _GLOBAL_UNICAST or any(ip in block for block in _SPECIAL_6):
            return False
    elif any(ip in block for block in _SPECIAL_4):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


def resolve(host: str, port: int) -> list[str]:
    """Return the IP addresses of a host, best first, from the system's resolver; blocks. Raise OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[4][0]) for address in found))


async def lookup(resolver: Resolve, host: str, port: int) -> list[str]:
    """Run a blocking resolver without blocking the loop.

    It runs in a dedicated daemon thread: the loop's shared pool has few threads, a resolver can hang in one for half
    a minute, and the process would wait for the pool at its end.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def settle(addresses: list[str], error: Exception | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(addresses)

    def work() -> None:
        addresses: list[str] = []
        failed: Exception | None = None
        try:
            addresses = resolver(host, port)
        except Exception as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(settle, addresses, failed)

    threading.Thread(target=work, name=f"resolve-{host}", daemon=True).start()
    return await answer
