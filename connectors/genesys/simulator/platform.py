"""What the simulators of event streams have in common: options, generated calls and the REST API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from connectors.genesys.simulator.faults import Faults
from connectors.genesys.simulator.rest import RestApi, Route
from connectors.genesys.simulator.stories import KINDS, Kind
from connectors.genesys.simulator.traffic import Traffic

__all__ = ["PlatformOptions", "begin_calls", "rest_api"]


@dataclass(frozen=True, slots=True)
class PlatformOptions:
    """Where to listen, which calls to generate, what to do wrong, and which clients to accept.

    Calls come from `seed`, `conversations` at a time, each with `rate` frames/s. Port 0 takes any free one.
    `credentials` (id, secret) are required if given, and tokens live `token_life_s`. Analytics knows the media of a
    call `analytics_after_s` after its end.
    """

    host: str = "127.0.0.1"
    port: int = 0
    conversations: int = 5
    rate: float = 10.0
    seed: int = 1
    faults: Faults = field(default_factory=Faults)
    credentials: tuple[str, str] | None = None
    token_life_s: float = 86_399
    analytics_after_s: float = 2.0


def begin_calls(options: PlatformOptions, at: float | None, kinds: tuple[Kind, ...] = KINDS) -> Traffic:
    """Build the calls of a simulator; the first ones are in progress `at` epoch seconds, unless that is None."""
    faults = options.faults.of_calls()
    traffic = Traffic(options.seed, options.conversations, options.rate, faults=faults, kinds=kinds)
    if at is not None:
        traffic.plan(at)
    return traffic


def rest_api(options: PlatformOptions, routes: Sequence[Route], now: Callable[[], float]) -> RestApi:
    """Build the REST API of a simulator, with the faults and the clients of its options."""
    return RestApi(
        routes,
        now=now,
        faults=options.faults.of_requests(),
        credentials=options.credentials,
        token_life_s=options.token_life_s,
    )
