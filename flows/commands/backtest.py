"""Decode recordings once, and work out what each of several rule sets would have raised."""

from __future__ import annotations

import threading
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from bytewax.inputs import AbortExecution

from connectors.errors import UsageError
from connectors.format.decode import decode_pieces
from connectors.journal.blocks import Block
from connectors.journal.recording import Progress, Recording, no_progress
from connectors.journal.source import RecordingSource
from flows.analytics.precedence import Overrides
from flows.analytics.rule_sets import Change, Figures, Incident, RuleSets, changes, figures, incidents_of
from flows.analytics.spread import Spread
from flows.commands.inputs import readable_files
from flows.commands.replay import keep_freed_memory, overrides_of
from flows.dataflow import SHARDS
from flows.settings.effects import REPLAY, is_read
from flows.settings.loading import load_settings, parse_settings

__all__ = ["Backtest", "RuleSet", "backtest", "rule_sets"]

MAX_RULE_SETS: Final = 100
RECORDED: Final = "recorded"
LIMITS: Final = frozenset({"max_latency_ms", "packet_loss_threshold"})


@dataclass(frozen=True)
class RuleSet:
    """Name the settings and limits that take precedence over the recorded ones."""

    name: str
    overrides: Overrides


@dataclass(frozen=True)
class Backtest:
    """Hold the incidents of each rule set; `end` is the time of the last record, in epoch seconds.

    `latency` (milliseconds) and `packet_loss` (ratios) count the values of all frames, if that was asked for.
    `is_whole` is False if a signal stopped the backtest before the end of the recordings.
    """

    names: list[str]
    incidents: list[list[Incident]]
    end: float
    frames: int
    is_whole: bool
    latency: Spread
    packet_loss: Spread

    def figures(self) -> list[Figures]:
        """Return the figures of each rule set."""
        return [figures(incidents, self.end) for incidents in self.incidents]

    def changes(self, index: int) -> list[Change]:
        """Return how rule set `index` differs from the first."""
        return changes(self.incidents[0], self.incidents[index], self.end)


def rule_sets(configs: Sequence[Path], sweeps: Sequence[str], environ: Mapping[str, str]) -> list[RuleSet]:
    """Return the rule sets that the options ask for: what was recorded, each configuration, each value of each sweep.

    A sweep changes one key of the only configuration, or of the defaults if none is given. Raises UsageError for a bad
    sweep and ConfigurationError for a bad configuration.
    """
    if sweeps and len(configs) > 1:
        raise UsageError("--sweep: give at most one --config with it, the configuration whose key is changed")
    sets = [RuleSet(RECORDED, Overrides())]
    sets += [RuleSet(str(path), overrides_of(load_settings(path, environ))) for path in configs]
    for sweep in sweeps:
        key, values = parse_sweep(sweep)
        for value in values:
            tables = tomllib.loads(configs[0].read_text("utf-8-sig")) if configs else {}
            _put(tables, key, value, sweep)
            settings = parse_settings(tables, f"--sweep {key}={value}", environ)
            if not is_read(_place_of(key), REPLAY):
                raise UsageError(f"--sweep {sweep}: {key} has no effect on alerts, so all rule sets would be equal")
            sets.append(RuleSet(f"{key}={value}", overrides_of(settings)))
    if len(sets) < 2:
        raise UsageError("nothing to compare with what was recorded: give --config or --sweep")
    if len(sets) > MAX_RULE_SETS:
        raise UsageError(f"{len(sets)} rule sets are more than {MAX_RULE_SETS}; give a larger step to --sweep")
    return sets


def parse_sweep(text: str) -> tuple[str, list[int | float]]:
    """Split `KEY=FROM:TO:STEP` into the key and its values, both ends included. Raises UsageError.

    >>> parse_sweep("alerts.max_latency_ms=100:200:50")
    ('alerts.max_latency_ms', [100, 150, 200])
    """
    key, equals, span = text.partition("=")
    try:
        first, last, step = (Decimal(part) for part in span.split(":"))
    except (ValueError, InvalidOperation):
        first, last, step = Decimal(0), Decimal(0), Decimal(0)
    if not equals or "." not in key or not step.is_finite() or step <= 0 or not last >= first:
        raise UsageError(f"--sweep {text}: must be KEY=FROM:TO:STEP, such as alerts.max_latency_ms=100:300:25")
    count = int((last - first) / step) + 1
    if count > MAX_RULE_SETS:
        raise UsageError(f"--sweep {text}: {count} values are more than {MAX_RULE_SETS}; give a larger step")
    values = [first + step * number for number in range(count)]
    return key, [int(value) if value == value.to_integral_value() else float(value) for value in values]


def _place_of(key: str) -> str:
    """Return where a key stands in a configuration: a limit of all conversations in `[defaults]`."""
    table, _, name = key.partition(".")
    return f"defaults.{name}" if table == "alerts" and name in LIMITS else key


def _put(tables: dict[str, Any], key: str, value: float, sweep: str) -> None:
    *path, name = _place_of(key).split(".")
    for part in path:
        tables = tables.setdefault(part, {})
        if not isinstance(tables, dict):
            raise UsageError(f"--sweep {sweep}: {part} is a list of tables; a sweep changes a key of one table")
    tables[name] = value


def backtest(
    paths: Sequence[Path],
    sets: Sequence[RuleSet],
    stop: threading.Event,
    progress: Progress = no_progress,
    *,
    counts_values: bool = False,
) -> Backtest:
    """Decode the recordings once, and apply every rule set to them; `counts_values` also counts the values of frames.

    Each rule set gives, alert for alert, what a replay with its configuration gives. Raises RecordingError.
    """
    keep_freed_memory()
    running = RuleSets([one.overrides for one in sets], len(SHARDS))
    frames, latency, loss = 0, Spread(10.0), Spread(0.002)
    with TemporaryDirectory(prefix="voicewatch-") as scratch, readable_files(paths, Path(scratch)) as files:
        for block in _blocks(RecordingSource(Recording(files), stop=stop, progress=progress)):
            pieces = [decoded for _, decoded in decode_pieces(block.data)]
            running.apply(block.number, pieces, last=block.last)
            for decoded in pieces:
                frames += len(decoded.arrival)
                if counts_values:
                    latency.add(decoded.latency_us / 1000.0)
                    loss.add(decoded.packet_loss)
    incidents = [incidents_of(alerts) for alerts in running.alerts]
    return Backtest([one.name for one in sets], incidents, running.end, frames, not stop.is_set(), latency, loss)


def _blocks(source: RecordingSource) -> Iterator[Block]:
    """Yield the blocks of a replay; the last one is marked, unless it was stopped. Raises RecordingError."""
    part = source.build_part("journal", "recording", None)
    while True:
        try:
            blocks = part.next_batch()
        except StopIteration:
            return
        except AbortExecution as error:
            raise source.failure or error from None
        yield from blocks
