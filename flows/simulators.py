"""The simulators of `voicewatch simulate`, by the kind of feed that they are there for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from connectors.errors import UsageError

__all__ = ["KINDS", "Simulation", "simulate"]


@dataclass(frozen=True, slots=True)
class Simulation:
    """What `voicewatch simulate` was asked for; each kind uses what means something to it.

    `url` is what the callers of kind `audiohook` dial.
    """

    port: int = 0
    conversations: int = 5
    rate: float = 10.0
    seed: int = 1
    faults: Path | None = None
    recording: Path | None = None
    speed: float = 1.0
    url: str | None = None


def simulate(kind: str, simulation: Simulation, environ: Mapping[str, str]) -> None:
    """Run the simulator of a kind until SIGINT or SIGTERM, or until it has nothing more to do. Raises UsageError."""
    if kind not in KINDS:
        raise UsageError(f"--kind {kind}: is none of {', '.join(KINDS)}")
    KINDS[kind](simulation, environ)


def _voice_events(simulation: Simulation, environ: Mapping[str, str]) -> None:  # noqa: ARG001
    from connectors.genesys.simulator import SimulatorOptions, serve_forever
    from connectors.genesys.simulator_faults import Faults, load_faults

    serve_forever(
        SimulatorOptions(
            port=simulation.port,
            conversations=simulation.conversations,
            rate=simulation.rate,
            seed=simulation.seed,
            faults=Faults() if simulation.faults is None else load_faults(simulation.faults),
            recording=simulation.recording,
            speed=simulation.speed,
        )
    )


def _notifications(simulation: Simulation, environ: Mapping[str, str]) -> None:  # noqa: ARG001
    from connectors.genesys.simulator import serve
    from connectors.genesys.simulator_notifications import NotificationsSimulator

    if simulation.faults is not None or simulation.recording is not None:
        raise UsageError("--kind notifications: knows neither --faults nor --serve")
    serve(
        NotificationsSimulator(
            port=simulation.port,
            conversations=simulation.conversations,
            rate=simulation.rate,
            seed=simulation.seed,
        )
    )


def _audiohook(simulation: Simulation, environ: Mapping[str, str]) -> None:
    from connectors.genesys.simulator_audiohook import call_until_stopped, first_key

    if simulation.faults is not None or simulation.recording is not None:
        raise UsageError("--kind audiohook: knows neither --faults nor --serve")
    if simulation.url is None:
        raise UsageError("--kind audiohook: give --url, the AudioHook address that the callers dial")
    key, secret = first_key(environ)
    call_until_stopped(simulation.url, key, secret, seed=simulation.seed, conversations=simulation.conversations)


KINDS: Final[dict[str, Callable[[Simulation, Mapping[str, str]], None]]] = {
    "voice-events": _voice_events,
    "notifications": _notifications,
    "audiohook": _audiohook,
}
