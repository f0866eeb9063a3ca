"""End the repetition of alerts that nothing resolves, in outboxes of versions that repeated every raised alert."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from connectors.callbacks.outbox import Outbox
from connectors.runtime.logs import get_logger
from connectors.state.results import daily_files, open_results

__all__ = ["IsLasting", "end_repeats"]

IsLasting = Callable[[Mapping[str, Any]], bool]

_UNKNOWN_KEPT_S: Final = 7 * 86400.0


def end_repeats(outbox: Outbox, alerts: Path, is_lasting: IsLasting, now: float) -> int:
    """End the repetition of callbacks whose alert no other resolves, by its line in `alerts`; return how many.

    One whose alert is in no file any more ends a week after it was created. Raise StateError.
    """
    created = outbox.repeated()
    if not created:
        return 0
    found = _lines(alerts, {id_.partition("/")[0] for id_ in created})
    over = [
        id_
        for id_, at in created.items()
        if not (is_lasting(found[alert]) if (alert := id_.partition("/")[0]) in found else at > now - _UNKNOWN_KEPT_S)
    ]
    if over:
        outbox.end_repeats(over)
        get_logger(__name__).warning("repeats_ended", count=len(over))
    return len(over)


def _lines(alerts: Path, wanted: Collection[str]) -> dict[str, Mapping[str, Any]]:
    """Return the alerts with these ids, from the newest file to the oldest until all are found."""
    found: dict[str, Mapping[str, Any]] = {}
    for file in (alerts, *reversed(daily_files(alerts).values())):
        if len(found) == len(wanted) or not file.exists():
            continue
        try:
            with open_results(file) as stream:
                for line in stream:
                    id_ = line.partition(b'"alertId":"')[2].partition(b'"')[0].decode("utf-8", "replace")
                    if id_ in wanted and line.endswith(b"\n"):
                        found[id_] = orjson.loads(line)
        except (OSError, EOFError, zlib.error, ValueError) as error:
            get_logger(__name__).warning("alerts_unreadable", path=str(file), reason=type(error).__name__)
    return found
