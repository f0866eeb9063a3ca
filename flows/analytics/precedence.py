"""Which limits, labels and callback URL hold for a watched conversation, when several sources give one.

A configuration given to a replay takes precedence over the recording. Of each, the most specific source holds:

1. the configuration's `[[interceptor]]` of the conversation
2. the first of the configuration's `[[limits]]` that matches the labels
3. the configuration's `[feed.defaults]`
4. the configuration's `[defaults]`
5. the `watch` record, where the limit was set for the conversation itself
6. the first of the recorded `[[limits]]` that matches the labels
7. the `watch` record, where the limit is a default
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from connectors.format.labels import joined_labels
from connectors.format.limits import DEFAULT_MAX_LATENCY_MS, DEFAULT_PACKET_LOSS_THRESHOLD
from connectors.format.records import DefaultLimits, FlowSettings, LabelLimits, WatchSettings
from flows.analytics.watch_table import Watch

__all__ = ["Overrides", "Precedence", "flow_settings"]

LIMITS: Final = {"max_latency_ms": DEFAULT_MAX_LATENCY_MS, "packet_loss_threshold": DEFAULT_PACKET_LOSS_THRESHOLD}


class Overrides(NamedTuple):
    """The configuration given to a replay.

    `settings` is the value of a `settings` record. The others hold what stands in the tables themselves and no
    defaults: `watches` the `[[interceptor]]` tables by conversation, `feeds` the `[feed.defaults]` by feed, `defaults`
    the `[defaults]`. They change conversations that are watched, and watch no others.
    """

    settings: dict[str, Any] | None = None
    watches: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - never changed
    feeds: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - never changed
    defaults: dict[str, Any] = {}  # noqa: RUF012 - never changed


class Precedence:
    """Resolves a `watch` record against the configuration of a replay and the `settings` record in force."""

    def __init__(self, overrides: Overrides) -> None:
        self._overrides = overrides
        configured = (overrides.settings or {}).get("limits", [])
        self._configured = msgspec.convert(configured, list[LabelLimits])
        self._recorded: list[LabelLimits] = []

    def follow(self, settings: FlowSettings) -> bool:
        """Take over the recorded `[[limits]]`; return whether they have changed."""
        recorded = [] if self._configured else settings.limits
        changed = recorded != self._recorded
        self._recorded = recorded
        return changed

    def snapshot(self) -> list[Any]:
        """Return a plain value that `restore` takes."""
        return [msgspec.to_builtins(table) for table in self._recorded]

    def restore(self, snapshot: list[Any]) -> None:
        """Take a snapshot's place."""
        self._recorded = msgspec.convert(snapshot, list[LabelLimits])

    def watch(self, settings: WatchSettings, earlier: Watch | None) -> Watch:
        """Return the watch that a record leads to; `earlier` is that in force, None if the conversation begins."""
        given = (settings.max_latency_ms, settings.packet_loss_threshold)
        if earlier is None:
            tables = self._tables(settings.conversation_id, settings.feed)
            url = next((table["qa_callback_url"] for table in tables if table.get("qa_callback_url")), None)
            watch = Watch(
                settings.conversation_id,
                settings.leg_id,
                (0.0, 0.0),
                url or settings.qa_callback_url,
                settings.feed,
                settings.codec,
                own=(None, None),
                default=(DEFAULT_MAX_LATENCY_MS, DEFAULT_PACKET_LOSS_THRESHOLD),
            )
        else:
            watch = earlier
        own, default = list(watch.own), list(watch.default)
        for at, (name, value) in enumerate(zip(LIMITS, given, strict=True)):
            if not isinstance(value, msgspec.UnsetType):
                is_default = name in settings.default_limits
                own[at], default[at] = (None, value) if is_default else (value, default[at])
        labels = self._labels(watch, settings.labels)
        return self.resolved(watch._replace(own=(own[0], own[1]), default=(default[0], default[1]), labels=labels))

    def watch_by_default(self, conversation_id: str, defaults: DefaultLimits) -> Watch:
        """Return the watch of a conversation that has no `watch` record."""
        settings = WatchSettings(
            conversation_id,
            self._overrides.watches.get(conversation_id, {}).get("leg_id"),
            defaults.max_latency_ms,
            defaults.packet_loss_threshold,
            defaults.qa_callback_url,
            labels=defaults.labels,
            default_limits=("max_latency_ms", "packet_loss_threshold"),
        )
        return self.watch(settings, None)

    @property
    def _is_plain(self) -> bool:
        """Return whether limits and labels come from `watch` records only."""
        given = self._overrides
        return not (self._recorded or self._configured or given.defaults or given.feeds or given.watches)

    def resolved(self, watch: Watch) -> Watch:
        """Return the watch with the limits that hold for it."""
        return watch._replace(limits=(self._limit(watch, 0), self._limit(watch, 1)))

    def _limit(self, watch: Watch, at: int) -> float:
        own = watch.own[at]
        if self._is_plain:
            return float(watch.default[at] if own is None else own)
        name = tuple(LIMITS)[at]
        return next(float(value) for value in self._candidates(watch, name, at) if value is not None)

    def _candidates(self, watch: Watch, name: str, at: int) -> Iterator[float | None]:
        overrides = self._overrides
        yield overrides.watches.get(watch.conversation_id, {}).get(name)
        yield _of_labels(self._configured, watch.labels, name)
        yield overrides.feeds.get(watch.feed or "", {}).get(name)
        yield overrides.defaults.get(name)
        yield watch.own[at]
        yield _of_labels(self._recorded, watch.labels, name)
        yield watch.default[at]

    def _labels(self, watch: Watch, more: Mapping[str, str]) -> dict[str, str]:
        labels = joined_labels(watch.labels, more) if more else watch.labels
        if self._is_plain:
            return labels
        for table in reversed(self._tables(watch.conversation_id, watch.feed)):
            if table.get("labels"):
                labels = joined_labels(labels, table["labels"])
        return labels

    def _tables(self, conversation_id: str, feed: str | None) -> list[dict[str, Any]]:
        """Return the configuration's tables about a conversation, the most specific first."""
        tables = (
            self._overrides.watches.get(conversation_id),
            self._overrides.feeds.get(feed or ""),
            self._overrides.defaults,
        )
        return [table for table in tables if table]


def flow_settings(value: dict[str, Any]) -> FlowSettings:
    """Return the tables of a `settings` record's value."""
    return msgspec.convert(value, FlowSettings)


def _of_labels(tables: Iterable[LabelLimits], labels: Mapping[str, str], name: str) -> float | None:
    """Return the limit of the first table that matches, None without one or if it leaves this limit as it is."""
    table = next((table for table in tables if table.match.items() <= labels.items()), None)
    limit: float | None = getattr(table, name, None)
    return limit
