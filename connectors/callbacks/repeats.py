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

IsLasting = Callable[[Mapping[str, Any], str], bool]
"""Says whether a resolved alert follows a raised one, at the target of this name."""

_UNKNOWN_KEPT_S: Final = 7 * 86400.0


def end_repeats(outbox: Outbox, alerts: Path, is_lasting: IsLasting, now: float) -> int:
    """End the repetition of callbacks whose alert no other resolves, or one has, by `alerts`; return how many.

    One whose alert is in no file any more ends a week after it was created. Raise StateError.
    """
    repeated = outbox.repeated()
    if not repeated:
        return 0
    incidents = {incident for _, _, incident in repeated}
    found, resolved = _alerts(alerts, {id_.partition("/")[0] for id_, _, _ in repeated}, incidents)

    def goes_on(id_: str, created_at: float, incident: str) -> bool:
        alert, _, target = id_.partition("/")
        if incident in resolved:
            return False
        return is_lasting(found[alert], target) if alert in found else created_at > now - _UNKNOWN_KEPT_S

    over = [row[0] for row in repeated if not goes_on(*row)]
    if over:
        outbox.end_repeats(over)
        get_logger(__name__).warning("repeats_ended", count=len(over))
    return len(over)


def _alerts(
    alerts: Path, wanted: Collection[str], incidents: Collection[str]
) -> tuple[dict[str, Mapping[str, Any]], set[str]]:
    """Return the alerts with these ids, and which of the incidents are resolved, from the newest file to the oldest."""
    found: dict[str, Mapping[str, Any]] = {}
    resolved: set[str] = set()
    for file in (alerts, *reversed(daily_files(alerts).values())):
        if len(found) == len(wanted) or not file.exists():
            continue
        try:
            with open_results(file) as stream:
                for line in stream:
                    if not line.endswith(b"\n"):
                        continue
                    if (id_ := _text_of(line, b"alertId")) in wanted:
                        found[id_] = orjson.loads(line)
                    elif (incident := _text_of(line, b"incidentId")) in incidents and b'"state":"resolved"' in line:
                        resolved.add(incident)
        except (OSError, EOFError, zlib.error, ValueError) as error:
            get_logger(__name__).warning("alerts_unreadable", path=str(file), reason=type(error).__name__)
    return found, resolved


def _text_of(line: bytes, key: bytes) -> str:
    """Return the value of a key of an alert; what precedes it holds no such text."""
    return line.partition(b'"' + key + b'":"')[2].partition(b'"')[0].decode("utf-8", "replace")
