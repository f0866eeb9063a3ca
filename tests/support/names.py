"""A name book whose names are found when a test says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from connectors.genesys.names import Names

__all__ = ["KnownNames"]


class KnownNames(Names):
    """Knows `names` by label and id from `find` on; until then they are pending."""

    def __init__(self, names: Mapping[tuple[str, str], str]) -> None:
        self._names = names
        self._is_known = False
        self._subscribers: list[Callable[[], None]] = []

    def find(self) -> None:
        self._is_known = True
        for known in self._subscribers:
            known()

    def name_of(self, label: str, value: str) -> str:
        return self._names.get((label, value), value) if self._is_known else value

    def is_pending(self, label: str, value: str) -> bool:
        return not self._is_known and (label, value) in self._names

    def subscribe(self, known: Callable[[], None]) -> None:
        self._subscribers.append(known)
