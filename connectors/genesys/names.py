"""Look up the names of queues, users, divisions and edges once, and keep them in a file.

Labels hold what messages hold: ids. With a `NameBook` they hold names as soon as these are known. A thread asks Genesys
for the names of many ids at a time, within the request budget; meanwhile, and where Genesys knows or tells no name, the
id stays. A name that was found is never looked up again: not after a restart, and not after it was changed.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from connectors.errors import GenesysError
from connectors.format.labels import is_label_value
from connectors.genesys.client import Clock, GenesysClient, RequestBudget, Tokens
from connectors.genesys.endpoints import DIVISIONS_PATH, EDGES_PATH, QUEUES_PATH, USERS_PATH, Endpoints, path_of
from connectors.runtime.logs import get_logger
from connectors.state.files import make_private_dir, replace_durably, state_errors, write_all

__all__ = ["PERMISSIONS", "UUID", "NameBook", "NameTiming", "Names", "look_up_names"]

PATHS: Final = {"queue": QUEUES_PATH, "agent": USERS_PATH, "division": DIVISIONS_PATH, "edge": EDGES_PATH}
"""The labels that hold ids, and where their names are."""

PERMISSIONS: Final = {
    "queue": "routing:queue:view",
    "agent": "directory:user:view",
    "division": "authorization:division:view",
    "edge": "telephony:plugin:all",
}
"""The permission that each look-up needs."""

IDS_PER_REQUEST: Final = 50
MAX_NAMES: Final = 100_000
UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Names:
    """Look up nothing: every id is its own name."""

    def name_of(self, label: str, value: str) -> str:
        """Return the name for the value of a label, or the value itself."""
        del label
        return value

    def is_pending(self, label: str, value: str) -> bool:
        """Tell whether a name is being looked up, so that `name_of` will soon give another one."""
        del label, value
        return False

    def wait_for(self, labels: Iterable[tuple[str, str]], timeout_s: float) -> None:
        """Wait until no name of these labels is pending, but no longer than `timeout_s`.

        Names that are given together are looked up together.
        """
        del labels, timeout_s

    def subscribe(self, known: Callable[[], None]) -> None:
        """Call `known` when names were found, in a thread of the name book."""
        del known


@dataclass(frozen=True, slots=True)
class NameTiming:
    """After a failed request nothing is asked for `hold_s`. `reserve` requests of a minute are left to others.

    From the first id that is wanted on, others are waited for `gather_s`, so that one request asks for many.
    """

    hold_s: float = 60.0
    gather_s: float = 0.2
    reserve: int = 90


class NameBook(Names):
    """A thread that looks names up, and the file at `path` with those that were found.

    What Genesys does not permit is logged once for each kind, and not asked for again in this run.
    """

    def __init__(
        self,
        path: Path,
        endpoints: Endpoints,
        tokens: Tokens,
        budget: RequestBudget,
        *,
        timing: NameTiming = NameTiming(),
        clock: Clock = Clock(),  # noqa: B008 - frozen
    ) -> None:
        self._path = path
        self._client = GenesysClient(endpoints, tokens, clock=replace(clock, sleep=self._sleep))
        self._budget = budget
        self._timing = timing
        self._monotonic = clock.monotonic
        self._known = _load(path)
        self._wanted: dict[tuple[str, str], None] = {}
        self._nameless: set[tuple[str, str]] = set()
        self._barred: set[str] = set()
        self._held_until = float("-inf")
        self._subscribers: list[Callable[[], None]] = []
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="names", daemon=True)
        self.failure: Exception | None = None

    def start(self) -> None:
        """Start the thread; it starts once."""
        self._thread.start()

    def stop(self, reason: str = "stopped", *, timeout_s: float = 5.0) -> None:
        """End the thread, and wait up to `timeout_s` for it."""
        del reason
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def subscribe(self, known: Callable[[], None]) -> None:
        """Call `known` when names were found, in the thread of the name book."""
        self._subscribers.append(known)

    def name_of(self, label: str, value: str) -> str:
        """Return the name for the id that is the value of a label; if it is unknown, look it up and return the id."""
        key = (label, value)
        name = self._known.get(key)
        if name is not None:
            return name
        if self._is_wanted(key) and key not in self._wanted:
            with self._changed:
                self._wanted[key] = None
                self._changed.notify_all()
        return value

    def is_pending(self, label: str, value: str) -> bool:
        """Tell whether a name is being looked up."""
        return (label, value) in self._wanted

    def wait_for(self, labels: Iterable[tuple[str, str]], timeout_s: float) -> None:
        """Wait until no name of these labels is pending, but no longer than `timeout_s`."""
        keys = [key for key in dict.fromkeys(labels) if self.name_of(*key) == key[1]]
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping.is_set() or not any(key in self._wanted for key in keys), timeout_s
            )

    def _is_wanted(self, key: tuple[str, str]) -> bool:
        label, value = key
        return (
            label in PATHS
            and label not in self._barred
            and key not in self._nameless
            and len(self._known) + len(self._wanted) < MAX_NAMES
            and self._monotonic() >= self._held_until
            and UUID.fullmatch(value) is not None
        )

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                with self._changed:
                    self._changed.wait_for(lambda: self._wanted or self._stopping.is_set())
                self._stopping.wait(self._timing.gather_s)
                while wait_s := self._budget.wait_s(self._timing.reserve):
                    if self._stopping.wait(wait_s):
                        break
                if not self._stopping.is_set():
                    self._look_up()
        except Exception as error:
            self.failure = error
            get_logger(__name__).exception("names_failed")

    def _look_up(self) -> None:
        """Ask for the names of one kind, and tell the subscribers."""
        with self._changed:
            label = next(iter(self._wanted))[0]
            keys = [key for key in self._wanted if key[0] == label][: 1 if label == "edge" else IDS_PER_REQUEST]
        found: dict[tuple[str, str], str] = {}
        try:
            found = self._ask(label, [value for _, value in keys])
            self._nameless.update(key for key in keys if key not in found)
        except GenesysError as error:
            if self._stopping.is_set():
                return
            self._failed(label, error)
        self._known.update(found)
        if found:
            self._save()
        with self._changed:
            for key in list(self._wanted):
                if key in keys or key[0] in self._barred:
                    del self._wanted[key]
            self._changed.notify_all()
        for known in self._subscribers:
            known()

    def _ask(self, label: str, ids: list[str]) -> dict[tuple[str, str], str]:
        return {(label, id_): name for id_, name in look_up_names(self._client, label, ids).items()}

    def _failed(self, label: str, error: GenesysError) -> None:
        if error.status == 403:
            self._barred.add(label)
            get_logger(__name__).warning(
                "names_not_permitted", label=label, permission=PERMISSIONS[label], reason=str(error)
            )
            return
        self._held_until = self._monotonic() + self._timing.hold_s
        get_logger(__name__).warning("names_not_found", label=label, reason=str(error))

    def _save(self) -> None:
        names: dict[str, dict[str, str]] = {label: {} for label in PATHS}
        for (label, id_), name in self._known.items():
            names[label][id_] = name
        content = json.dumps({"version": 1, "names": names}, ensure_ascii=False).encode() + b"\n"
        make_private_dir(self._path.parent)
        with state_errors(f"writing {self._path}"):
            os.close(replace_durably(self._path, lambda fd: write_all(fd, content)))

    def _sleep(self, seconds: float) -> None:
        """Wait between two requests. Raises GenesysError at a stop."""
        if self._stopping.wait(seconds):
            raise GenesysError("abandoned: the run is being stopped")


def look_up_names(client: GenesysClient, label: str, ids: list[str]) -> dict[str, str]:
    """Return the names of ids that are values of a label, without those that have none. Raises GenesysError."""
    if label == "edge":  # Genesys lists edges without a filter by id
        return _names([_edge(client, id_) for id_ in ids], ids)
    query: dict[str, Any] = {"id": ids, "pageSize": str(len(ids))}
    if label == "agent":
        query["state"] = "any"  # a user who has left has a name, too
    answer = client.ask("GET", PATHS[label], what=f"look up names of {label}s", query=query)
    return _names(answer.get("entities") if isinstance(answer, dict) else None, ids)


def _edge(client: GenesysClient, id_: str) -> Any:
    try:
        return client.ask("GET", path_of(PATHS["edge"] + "/{id}", id=id_), what="look up the name of an edge")
    except GenesysError as error:
        if error.status == 404:
            return None
        raise


def _names(entities: Any, ids: list[str]) -> dict[str, str]:
    """Return the names of those entities that were asked for."""
    return {
        entity["id"]: entity["name"]
        for entity in (entities if isinstance(entities, list) else [])
        if isinstance(entity, dict) and entity.get("id") in ids and is_label_value(entity.get("name"))
    }


def _load(path: Path) -> dict[tuple[str, str], str]:
    """Read the names that are kept; without those of a file that is damaged, which are looked up again."""
    with state_errors(f"reading {path}"):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return {}
    try:
        names = json.loads(content)["names"]
        return {(label, id_): str(name) for label in PATHS for id_, name in names.get(label, {}).items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        get_logger(__name__).warning("names_unreadable", path=str(path), reason=type(error).__name__)
        return {}
