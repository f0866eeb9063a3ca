"""Labels and limits of the plain reference: which source holds for a conversation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.support.reference_records import LIMITS, MAX_LABELS

__all__ = ["Precedence"]

Table = dict[str, Any]


@dataclass
class Precedence:
    """Contract section 6 and 11: the configuration given to a replay, and the limits by label that are recorded."""

    settings: Table
    watches: dict[str, Table]
    feeds: dict[str, Table]
    defaults: Table
    recorded_limits: list[Table] = field(default_factory=list)

    def watched(self, record: Table) -> Table:
        """The watch of a conversation that begins."""
        watch = {
            "leg_id": None,
            "feed": None,
            "codec": None,
            **record,
            "labels": {},
            "own": {},
            "default": dict(LIMITS),
        }
        return self.rewatched(watch, record)

    def rewatched(self, watch: Table, record: Table) -> Table:
        """A watch after a further record: of what it says, labels and limits count."""
        watch = watch | {"own": dict(watch["own"]), "default": dict(watch["default"])}
        for name in LIMITS:
            if name in record and name in record.get("default_limits", []):
                watch["own"].pop(name, None)
                watch["default"][name] = record[name]
            elif name in record:
                watch["own"][name] = record[name]
        labels = joined(watch["labels"], record.get("labels", {}))
        for table in (self.defaults, self.feeds.get(watch["feed"], {}), self.watches.get(watch["conversation_id"], {})):
            labels = joined(labels, table.get("labels", {}))
        watch["labels"] = labels
        return watch | self.limits(watch)

    def limits(self, watch: Table) -> Table:
        """The limits that hold: the first source that has one."""
        configured = self.settings.get("limits", [])
        sources = [
            self.watches.get(watch["conversation_id"], {}),
            first_match(configured, watch["labels"]),
            self.feeds.get(watch["feed"], {}),
            self.defaults,
            watch["own"],
            {} if configured else first_match(self.recorded_limits, watch["labels"]),
            watch["default"],
        ]
        return {name: next(s[name] for s in sources if s.get(name) is not None) for name in LIMITS}


def joined(earlier: dict[str, str], later: dict[str, str]) -> dict[str, str]:
    """Replace what is there, then add new names in their order while there is room; sorted."""
    labels = {name: later.get(name, value) for name, value in earlier.items()}
    for name in sorted(later):
        if name not in labels and len(labels) < MAX_LABELS:
            labels[name] = later[name]
    return dict(sorted(labels.items()))


def first_match(tables: list[Table], labels: dict[str, str]) -> Table:
    for table in tables:
        if all(labels.get(name) == value for name, value in table["match"].items()):
            return table
    return {}
