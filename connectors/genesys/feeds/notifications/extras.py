"""The further requests of a notifications feed, which its configuration turns on, each in a thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from connectors.format.owners import ALL, Share
from connectors.genesys.client import Clock, GenesysClient, RequestBudget
from connectors.genesys.feeds.base import FeedLimits
from connectors.genesys.feeds.notifications.statistics import StatisticsPoller, StatisticsTiming
from connectors.genesys.feeds.notifications.sweep import Sweeper, SweepStore, SweepTiming
from connectors.genesys.feeds.notifications.workers import Worker
from connectors.genesys.names import Names
from connectors.journal.writer import Recorder

__all__ = ["Extras", "Surroundings", "make_workers"]


@dataclass(frozen=True, slots=True)
class Extras:
    """What else is asked for: with `sweep`, the path of its store, the calls that have ended; with `statistics`, the
    media statistics of the calls that are watched.
    """

    sweep: Path | None = None
    statistics: bool = False
    sweep_timing: SweepTiming = field(default_factory=SweepTiming)
    statistics_timing: StatisticsTiming = field(default_factory=StatisticsTiming)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The feed that the requests are made for; `enriches` if it fetches the media of the calls that it watches.
    Calls outside of `share` are another instance's. Labels have the names that `names` gives for ids.
    """

    name: str
    recorder: Recorder
    limits: FeedLimits
    budget: RequestBudget
    clock: Clock
    enriches: bool
    share: Share = ALL
    names: Names = Names()  # noqa: RUF009 - without state


def make_workers(extras: Extras, feed: Surroundings, new_client: Callable[[], GenesysClient]) -> list[Worker]:
    """Return the threads of a feed, not yet started. Raises StateError."""
    workers: list[Worker] = []
    if extras.sweep is not None:
        workers.append(
            Sweeper(
                SweepStore(extras.sweep),
                new_client(),
                feed.recorder,
                feed.budget,
                name=feed.name,
                limits=feed.limits,
                leaves_watched=feed.enriches,
                share=feed.share,
                names=feed.names,
                timing=extras.sweep_timing,
                clock=feed.clock,
            )
        )
    if extras.statistics:
        timing = extras.statistics_timing
        workers.append(StatisticsPoller(new_client(), feed.recorder, feed.budget, name=feed.name, timing=timing))
    return workers
