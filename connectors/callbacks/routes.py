"""Define where the callbacks of an outbox are sent, and how an answer is judged."""

from __future__ import annotations

import resource
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Protocol

from connectors.callbacks.addresses import Resolve
from connectors.callbacks.http import Sender
from connectors.callbacks.policy import BodyRules, DeliveryPolicy, Outcome, safe_origin

__all__ = ["JSON_HEADERS", "Route", "Sends", "connections_allowed"]

JSON_HEADERS: Final = MappingProxyType({"content-type": "application/json", "user-agent": "voicewatch"})
_OTHER_FILES: Final = 128
_MOST_CONNECTIONS: Final = 8192


class Sends(Protocol):
    """Describe what makes the attempts at one receiver."""

    async def send(self, body: bytes, headers: Mapping[str, str], now: Callable[[], float]) -> Outcome:
        """Make one attempt and say how it ended."""

    def close(self) -> None:
        """Close all connections."""


@dataclass(frozen=True, slots=True)
class Route:
    """Describe a receiver: the `url` to post to, with `headers`, and the `rules` for the body of its answer.

    `signed` callbacks carry the headers of Standard Webhooks. `complete` adds to a stored body what must not be stored;
    `headers_of` gives further headers for a body. `allow_private_addresses` goes beyond what the policy allows. `label`
    is how logs and the audit log name the receiver; None means its origin. `custom` builds what makes the attempts, if
    not an HTTP sender, from the time limit of an attempt. `secrets` are never shown.
    """

    url: str
    rules: BodyRules
    signed: bool = True
    headers: Mapping[str, str] = field(default_factory=lambda: JSON_HEADERS)
    complete: Callable[[bytes], bytes] | None = None
    headers_of: Callable[[bytes], Mapping[str, str]] | None = None
    allow_private_addresses: bool = False
    custom: Callable[[float], Sends] | None = None
    label: str | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def shown(self) -> str:
        """Return the receiver's name in logs."""
        return self.label or safe_origin(self.url)

    def request(self, stored: bytes) -> tuple[bytes, dict[str, str]]:
        """Return the body to send and its headers, for the body in the outbox."""
        body = stored if self.complete is None else self.complete(stored)
        return body, {**self.headers, **(self.headers_of(body) if self.headers_of is not None else {})}

    def sender(self, policy: DeliveryPolicy, verify: ssl.SSLContext, resolver: Resolve) -> Sends:
        """Return the object that makes the attempts."""
        if self.custom is not None:
            return self.custom(policy.timeout_s)
        if self.allow_private_addresses:
            policy = replace(policy, allow_private_addresses=True)
        return Sender(self.url, policy, verify, resolver)


def connections_allowed() -> int:
    """Raise the limit of open files as far as is useful; return how many connections delivery may hold.

    Half of the files that are allowed, so that feeds and servers of the same process find theirs.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * _MOST_CONNECTIONS + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        more = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
        except (OSError, ValueError):
            pass  # the limit stays; the number below follows from it
    files = sys.maxsize if soft == resource.RLIM_INFINITY else soft
    return max(8, min(_MOST_CONNECTIONS, (files - _OTHER_FILES) // 2))
