"""Run the simulators of `voicewatch simulate`, one for each kind of feed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from connectors.errors import UsageError

__all__ = ["KINDS", "Simulation", "simulate"]


@dataclass(frozen=True, slots=True)
class Simulation:
    """Hold the options of `voicewatch simulate`, by their names there; `KINDS` tells which of them a kind takes."""

    port: int = 0
    conversations: int = 5
    rate: float = 10.0
    seed: int = 1
    faults: Path | None = None
    serve: Path | None = None
    speed: float = 1.0
    url: str | None = None


def simulate(kind: str, simulation: Simulation, given: Iterable[str], environ: Mapping[str, str]) -> None:
    """Run the simulator of a kind until SIGINT or SIGTERM, or until it has nothing more to do.

    Raises UsageError for an unknown kind, and if one of the options that were `given` is not the kind's.
    """
    if kind not in KINDS:
        raise UsageError(f"--kind {kind}: is not one of {', '.join(KINDS)}")
    run, known = KINDS[kind]
    if foreign := [name for name in given if name not in known]:
        raise UsageError(f"--kind {kind}: does not take {_flags(foreign)}; it takes {_flags(known)}")
    run(simulation, environ)


def _flags(names: Iterable[str]) -> str:
    return ", ".join(f"--{name}" for name in names)


def _voice_events(simulation: Simulation, environ: Mapping[str, str]) -> None:  # noqa: ARG001
    from connectors.genesys.simulator.faults import Faults, load_faults
    from connectors.genesys.simulator.voice_events import SimulatorOptions, serve_forever

    serve_forever(
        SimulatorOptions(
            port=simulation.port,
            conversations=simulation.conversations,
            rate=simulation.rate,
            seed=simulation.seed,
            faults=Faults() if simulation.faults is None else load_faults(simulation.faults),
            recording=simulation.serve,
            speed=simulation.speed,
        )
    )


def _notifications(simulation: Simulation, environ: Mapping[str, str]) -> None:  # noqa: ARG001
    from connectors.genesys.simulator.faults import Faults, load_faults
    from connectors.genesys.simulator.notifications import NotificationsSimulator
    from connectors.genesys.simulator.server import serve

    serve(
        NotificationsSimulator(
            port=simulation.port,
            conversations=simulation.conversations,
            rate=simulation.rate,
            seed=simulation.seed,
            faults=Faults() if simulation.faults is None else load_faults(simulation.faults),
        )
    )


def _audiohook(simulation: Simulation, environ: Mapping[str, str]) -> None:
    from connectors.genesys.simulator.audiohook import call_until_stopped, first_key
    from connectors.genesys.simulator.faults import Faults, load_faults

    if simulation.url is None:
        raise UsageError("--kind audiohook: give --url, the AudioHook address that the callers dial")
    key, secret = first_key(environ)
    call_until_stopped(
        simulation.url,
        key,
        secret,
        seed=simulation.seed,
        conversations=simulation.conversations,
        faults=Faults() if simulation.faults is None else load_faults(simulation.faults),
    )


def _eventbridge(simulation: Simulation, environ: Mapping[str, str]) -> None:
    from connectors.genesys.simulator.eventbridge import KEY_VARIABLE, post_until_stopped
    from connectors.genesys.simulator.faults import Faults, load_faults

    if simulation.url is None:
        raise UsageError("--kind eventbridge: give --url, the address that events are posted to")
    post_until_stopped(
        simulation.url,
        environ.get(KEY_VARIABLE),
        seed=simulation.seed,
        conversations=simulation.conversations,
        rate=simulation.rate,
        faults=Faults() if simulation.faults is None else load_faults(simulation.faults),
    )


KINDS: Final[dict[str, tuple[Callable[[Simulation, Mapping[str, str]], None], tuple[str, ...]]]] = {
    "voice-events": (_voice_events, ("port", "conversations", "rate", "seed", "faults", "serve", "speed")),
    "notifications": (_notifications, ("port", "conversations", "rate", "seed", "faults")),
    "audiohook": (_audiohook, ("conversations", "seed", "url", "faults")),
    "eventbridge": (_eventbridge, ("conversations", "rate", "seed", "url", "faults")),
}
"""What runs the simulator of each kind, and the options that it takes."""
