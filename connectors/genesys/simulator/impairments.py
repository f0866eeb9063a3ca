"""Faults that strike the calls of one edge, queue, agent, division or provider."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from math import inf
from typing import NamedTuple

from connectors.errors import UsageError
from connectors.genesys.simulator.call_book import SimulatedCall
from connectors.genesys.simulator.calls import CallFrame
from connectors.genesys.simulator.faults import Impairment
from connectors.genesys.simulator.organisation import Agent, Division, Edge, Organisation, Queue
from connectors.runtime.logs import get_logger

__all__ = ["Impairments"]


class _Change(NamedTuple):
    """A fault begins to strike, or ends, `at_s` seconds after the run's start."""

    at_s: float
    fault: Impairment
    begins: bool


class Impairments:
    """Applies faults to calls; raises UsageError for a name or an id that the organisation does not have."""

    def __init__(self, faults: Sequence[Impairment], organisation: Organisation) -> None:
        self._faults = faults
        known = _names(organisation)
        for fault in faults:
            if fault.name not in known[fault.on]:
                names = ", ".join(sorted(known[fault.on].values()))
                raise UsageError(f'fault: there is no {fault.on} "{fault.name}"; the simulator has {names}')
        self._known = known
        begins = [_Change(fault.after_s, fault, begins=True) for fault in faults]
        ends = [_Change(fault.after_s + fault.for_s, fault, begins=False) for fault in faults if fault.for_s < inf]
        self._changes = deque(sorted([*begins, *ends], key=lambda change: change.at_s))

    @property
    def next_change_s(self) -> float | None:
        """Return when the next fault begins or ends that was not logged; None after the last one."""
        return self._changes[0].at_s if self._changes else None

    def log_changes(self, at_s: float) -> None:
        """Log the faults that have begun or ended by a time of the run, each once."""
        log = get_logger(__name__)
        while self._changes and self._changes[0].at_s <= at_s:
            change = self._changes.popleft()
            fault = change.fault
            said = {"do": fault.do, "on": fault.on, "name": fault.name}
            if change.begins:
                log.info("fault_strikes", **said, for_s=None if fault.for_s == inf else fault.for_s)
            else:
                log.info("fault_ends", **said)

    def striking(self, call: SimulatedCall, at_s: float, now: float) -> Iterator[Impairment]:
        """Yield the faults that strike a call at a time of the run, which is `now` in epoch seconds."""
        return (fault for fault in self.concerning(call, now) if fault.strikes(at_s))

    def concerning(self, call: SimulatedCall, now: float) -> Iterator[Impairment]:
        """Yield the faults of what a call has `now` (epoch seconds), whenever they strike."""
        if not self._faults:
            return
        labels = call.labels(now)
        for fault in self._faults:
            if labels.get(fault.on) == self._known[fault.on][fault.name] and _share_of(call.id) < fault.share:
                yield fault

    def apply(self, frame: CallFrame, call: SimulatedCall, now: float) -> CallFrame:
        """Return the frame as the faults make it, and note what they did at its call."""
        for fault in self.striking(call, frame.due_s, now):
            if fault.do == "latency":
                call.added_ms = max(call.added_ms, fault.latency_ms)
                frame = frame._replace(lag_s=frame.lag_s + fault.latency_ms / 1000)
            elif fault.do == "loss" and frame.packet_loss is not None:
                call.added_loss = max(call.added_loss, fault.loss)
                frame = frame._replace(packet_loss=max(frame.packet_loss, fault.loss))
            elif fault.do == "low-mos":
                call.highest_mos = min(call.highest_mos, fault.mos)
            elif fault.do == "codec":
                call.other_codec = fault.codec
            elif fault.do == "one-way-loss":
                call.agent_loss = max(call.agent_loss, fault.loss)
        return frame

    def offline_edges(self, at_s: float) -> set[str]:
        """Return the names of the edges that are offline at a time of the run."""
        names = self._known["edge"]
        return {names[fault.name] for fault in self._faults if fault.do == "offline" and fault.strikes(at_s)}

    def error_code(self, call: SimulatedCall, at_s: float, now: float) -> str | None:
        """Return the error that a call ends with, None if it ends in order."""
        return next((fault.code for fault in self.striking(call, at_s, now) if fault.do == "disconnect"), None)


def _names(organisation: Organisation) -> dict[str, dict[str, str]]:
    """Map the names and ids of each dimension to names."""
    dimensions: dict[str, Sequence[Edge | Queue | Agent | Division]] = {
        "edge": organisation.edges,
        "queue": organisation.queues,
        "agent": organisation.agents,
        "division": organisation.divisions,
    }
    names = {kind: {key: one.name for one in ones for key in (one.name, one.id)} for kind, ones in dimensions.items()}
    names["provider"] = {edge.provider: edge.provider for edge in organisation.edges}
    return names


def _share_of(id_: str) -> float:
    """Place an id in 0..1."""
    return int.from_bytes(blake2b(id_.encode(), digest_size=4).digest()) / 2**32
