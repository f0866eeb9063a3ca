"""Generated calls of an organisation: their frames, with the faults of calls, and the book that is kept of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from connectors.genesys.simulator.call_book import CallBook, SimulatedCall
from connectors.genesys.simulator.calls import ENDED, STARTED, CallFrame, call_frames
from connectors.genesys.simulator.faults import Impairment
from connectors.genesys.simulator.impairments import Impairments
from connectors.genesys.simulator.organisation import Organisation, organisation
from connectors.genesys.simulator.stories import KINDS, Kind

__all__ = ["Traffic", "organisation_for"]

_AGENTS = 12


def organisation_for(conversations: int) -> Organisation:
    """Build the organisation that a number of calls at a time needs: an agent for each, on three queues and edges."""
    return organisation(agents=max(_AGENTS, conversations))


class Traffic:
    """`conversations` calls at a time, each with `rate` frames/s.

    Raises ValueError when `conversations` or `rate` is not positive, UsageError for a fault of a name that does not
    exist.
    """

    def __init__(
        self,
        seed: int,
        conversations: int,
        rate: float,
        *,
        faults: Sequence[Impairment] = (),
        kinds: tuple[Kind, ...] = KINDS,
    ) -> None:
        self._arguments = (seed, conversations, rate)
        next(call_frames(*self._arguments))
        here = organisation_for(conversations)
        self.impairments = Impairments(faults, here)
        self.book = CallBook(here, seed, kinds)

    def plan(self, now: float) -> None:
        """Take down the first calls, so that they are in progress at `now`, before their first frame."""
        self.book.plan(self._arguments[1], now)

    def frames(self, start: float) -> Iterator[tuple[CallFrame, SimulatedCall]]:
        """Yield every frame and its call, in order, of a run that starts at `start` (epoch seconds)."""
        for frame in call_frames(*self._arguments):
            at = start + frame.due_s
            if frame.event is STARTED:
                call = self.book.begin(frame.slot, frame.conversation_id, at)
            else:
                call = self.book[frame.conversation_id]
            frame = self.impairments.apply(frame, call, at)  # noqa: PLW2901
            if frame.event is ENDED:
                self.book.end(frame.conversation_id, at, self.impairments.error_code(call, frame.due_s, at))
            yield frame, call
            self.impairments.log_changes(frame.due_s)
