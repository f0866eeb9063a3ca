"""What is known of the interceptors that were asked for, so that none is created twice."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import orjson

from connectors.errors import StateError
from connectors.state.files import make_private_dir, replace_durably, state_errors, write_all

__all__ = ["InterceptorEntry", "InterceptorRegistry", "Phase"]

Phase = Literal["creating", "created", "failed"]

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class InterceptorEntry:
    """What is known of one conversation's interceptor.

    `creating`: asked for, and no clear answer came; it may exist. `created`: it exists. `failed`: refused, for
    `reason`; nothing exists, unless `interceptor_id` names what came out wrong. `watch` is the watch record that was
    journaled last. `discovered` if the conversation is not one of the configuration: then the entry is removed when the
    conversation is over.
    """

    phase: Phase
    interceptor_id: str | None = None
    reason: str | None = None
    watch: Mapping[str, Any] | None = None
    discovered: bool = False


class InterceptorRegistry:
    """A JSON file of interceptor entries by conversation, replaced as a whole and durable when `put` returns.

    It has one writer: the process that holds the state directory's lock. Raises `StateError` if the file is damaged,
    unreadable or cannot be written; a file that is not there is an empty registry.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries = self._load()

    def get(self, conversation_id: str) -> InterceptorEntry | None:
        """Return the entry of a conversation, or None if none was ever asked for."""
        return self._entries.get(conversation_id)

    def put(self, conversation_id: str, entry: InterceptorEntry) -> None:
        """Remember an entry in place of the one before; on return it is on the disk."""
        self._save({**self._entries, conversation_id: entry})

    def items(self) -> list[tuple[str, InterceptorEntry]]:
        """All entries, by conversation."""
        return list(self._entries.items())

    def remove(self, conversation_ids: Collection[str]) -> None:
        """Forget entries; on return the file on the disk has none of them."""
        forgotten = set(conversation_ids)
        self._save({id_: entry for id_, entry in self._entries.items() if id_ not in forgotten})

    def _save(self, entries: dict[str, InterceptorEntry]) -> None:
        document = {"version": VERSION, "interceptors": entries}
        # Written for each interceptor that is created, with up to a thousand entries: orjson takes a millisecond.
        self._replace(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE, default=dict))
        self._entries = entries

    def _load(self) -> dict[str, InterceptorEntry]:
        with state_errors(f"reading {self._path}"):
            try:
                content = self._path.read_bytes()
            except FileNotFoundError:
                return {}
        try:
            document = orjson.loads(content)
            if document["version"] != VERSION:
                raise ValueError(f"version {document['version']!r}, expected {VERSION}")
            return {conversation: _entry(known) for conversation, known in document["interceptors"].items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise StateError(
                f"{self._path}: damaged ({error}); restore it from a backup, or look at Genesys which interceptors "
                "exist, delete those and this file, and run bootstrap again"
            ) from error

    def _replace(self, content: bytes) -> None:
        make_private_dir(self._path.parent)
        with state_errors(f"writing {self._path}"):
            os.close(replace_durably(self._path, lambda fd: write_all(fd, content)))


def _entry(known: dict[str, Any]) -> InterceptorEntry:
    entry = InterceptorEntry(**known)
    if entry.phase not in get_args(Phase):
        raise ValueError(f"phase {entry.phase!r}")
    return entry
