"""Which instances the merged groups wait for, and the decisions about that, which are kept.

An instance is waited for until it has been silent for a while; then the others go on without it. When it is back and
has caught up, it is waited for again, and what it adds counts from the time that was reached by then. Each decision
names the end of windows behind which it holds, and is on the disk before it is acted on. So a run that is started
again comes to the same lines: they follow from the parts of the instances and from the decisions.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import orjson

from connectors.errors import StateError
from connectors.runtime.logs import get_logger
from connectors.state.files import make_private_dir, open_private, state_errors, write_all
from flows.analytics.group_parts import GroupPart
from flows.analytics.group_progress import Progress, progress_of_line
from flows.commands.merge_sources import Parts

__all__ = ["Decision", "Decisions", "Member", "Members"]


class Decision(NamedTuple):
    """From behind the end of windows `end` on, the instance is waited for, or left out."""

    end: float
    instance: str
    is_waited_for: bool


class Decisions:
    """The file of decisions: lines, each on the disk when `add` returns. Raises StateError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> list[Decision]:
        """Return all decisions in the order of their ends, and cut off a line that a crash has left torn."""
        with state_errors(f"reading {self._path}"):
            data = self._path.read_bytes() if self._path.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            if whole != data:
                os.truncate(self._path, len(whole))
        decisions = [
            Decision(-math.inf if line["end"] is None else line["end"], line["instance"], line["is_waited_for"])
            for line in map(orjson.loads, whole.splitlines())
        ]
        return sorted(decisions, key=lambda decision: decision.end)

    def add(self, decision: Decision) -> None:
        """Write a decision."""
        make_private_dir(self._path.parent)
        descriptor = open_private(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            with state_errors(f"writing {self._path}"):
                write_all(descriptor, orjson.dumps(decision._asdict(), option=orjson.OPT_APPEND_NEWLINE))
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Member:
    """What is known of one instance: the lines that were read and not used yet, and the time of the newest one."""

    def __init__(self, name: str, parts: Parts, reached: float) -> None:
        self.name = name
        self.is_waited_for = True
        self.newest = reached
        self.numbers: tuple[int, int] | None = None
        self._parts = parts
        self._lines: deque[Progress] = deque()
        self._silent_since: float | None = None
        self._left_at = math.inf

    def read(self) -> None:
        """Read what the instance has written, if nothing is left of what was read before."""
        if self._lines or not (lines := self._parts.after(self.newest)):
            return
        try:
            self._lines.extend(map(progress_of_line, map(orjson.loads, lines)))
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(f"{self.name}: does not give parts of groups ({error}); is it of this version?") from error
        newest = self._lines[-1]
        self.newest = newest.until
        self.numbers = newest.instance, newest.instances
        self._silent_since = None

    def leave(self) -> None:
        """Leave it out."""
        self.is_waited_for = False
        self._left_at = self.newest

    def join(self) -> None:
        """Wait for it again."""
        self.is_waited_for = True
        self._silent_since = None

    def silent_s(self, now: float) -> float:
        """Return for how long the others have waited for it."""
        self._silent_since = now if self._silent_since is None else self._silent_since
        return now - self._silent_since

    def heard(self) -> None:
        """Note that no other instance waits for it."""
        self._silent_since = None

    def is_back(self, reached: float, within_s: float) -> bool:
        """Return whether it has written since it was left out, and is not far behind."""
        return self.newest > self._left_at and self.newest >= reached - within_s

    def take(self, until: float) -> list[GroupPart]:
        """Take the parts up to a time; those of an instance that is left out are lost."""
        taken: list[GroupPart] = []
        while self._lines and self._lines[0].until <= until:
            taken += self._lines.popleft().parts
        return taken if self.is_waited_for else []


class Members:
    """All instances, and how far they have come together: `reached` is the end of windows that was taken last."""

    def __init__(self, sources: Mapping[str, Parts], decisions: Decisions, *, leave_out_after_s: float) -> None:
        self.reached = -math.inf
        self.followed = 0
        self._sources = sources
        self._decisions = decisions
        self._within_s = leave_out_after_s
        self._members = [Member(name, parts, self.reached) for name, parts in sources.items()]
        self._to_follow = deque(decisions.all())
        self._told: list[tuple[int, int] | None] = []

    def resume(self, reached: float, followed: int, left_out: Sequence[str]) -> None:
        """Go on where a snapshot was taken: `followed` of the decisions had been followed."""
        self.reached, self.followed = reached, followed
        self._members = [Member(name, parts, reached) for name, parts in self._sources.items()]
        for member in self._members:
            if member.name in left_out:
                member.leave()
        for _ in range(min(followed, len(self._to_follow))):
            self._to_follow.popleft()

    @property
    def left_out(self) -> list[str]:
        """Return the names of the instances that are left out."""
        return [member.name for member in self._members if not member.is_waited_for]

    def next_parts(self, now: float) -> list[GroupPart] | None:
        """Move `reached` on to the next time that all who are waited for have passed; return what they add until then.

        None if there is nothing new. `now` is a monotonic time in seconds, for the wait for those that are silent.
        """
        for member in self._members:
            member.read()
        self._check_numbers()
        while self._to_follow and self._to_follow[0].end <= self.reached:
            self._follow(self._to_follow.popleft())
        until = min((member.newest for member in self._members if member.is_waited_for), default=-math.inf)
        if self._to_follow:
            until = min(until, self._to_follow[0].end)
        if until > self.reached:
            before, self.reached = self.reached, until
            parts = [part for member in self._members for part in member.take(until)]
            return [
                part for part in parts if part.end > before
            ]  # a clock that was set back tells of times that are over
        self._decide(now)
        return None

    def _decide(self, now: float) -> None:
        """Leave out who is silent while another has gone on, and wait again for who is back.

        Of an instance that is ahead of the time that was reached nothing more is read, which is not its silence.
        """
        ahead = max(member.newest for member in self._members)
        for member in self._members:
            if not member.is_waited_for:
                member.take(self.reached)
                if member.is_back(self.reached, self._within_s):
                    self._record(Decision(self.reached, member.name, is_waited_for=True))
            elif member.newest > self.reached or member.newest >= ahead:
                member.heard()
            elif member.silent_s(now) >= self._within_s:
                self._record(Decision(self.reached, member.name, is_waited_for=False))

    def _record(self, decision: Decision) -> None:
        self._decisions.add(decision)
        self._follow(decision)

    def _follow(self, decision: Decision) -> None:
        self.followed += 1
        log = get_logger(__name__)
        for member in self._members:
            if member.name == decision.instance and member.is_waited_for != decision.is_waited_for:
                if decision.is_waited_for:
                    member.join()
                    log.info("instance_is_back", instance=member.name, counts_from=decision.end)
                else:
                    member.leave()
                    log.warning("instance_left_out", instance=member.name, last_end=member.newest)

    def _check_numbers(self) -> None:
        """Say when the instances do not fit together: one is missing, or comes twice."""
        numbers = [member.numbers for member in self._members]
        if numbers == self._told or None in numbers:
            return
        self._told = numbers
        known = [one for one in numbers if one is not None]
        if sorted(known) != [(index, len(known)) for index in range(len(known))]:
            found = [f"{index} of {count}" for index, count in known]
            get_logger(__name__).warning("instances_do_not_fit", found=found, instances=len(known))
