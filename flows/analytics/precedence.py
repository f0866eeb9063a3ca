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

from connectors.format.labels import LimitName, joined_labels
from connectors.format.limits import DEFAULT_MAX_LATENCY_MS, DEFAULT_PACKET_LOSS_THRESHOLD
from connectors.format.records import DefaultLimits, FlowSettings, LabelLimits, WatchSettings
from flows.analytics.watch_table import Watch

__all__ = ["Overrides", "Precedence", "flow_settings"]

LIMITS: Final[tuple[LimitName, LimitName]] = ("max_latency_ms", "packet_loss_threshold")
DEFAULTS: Final = (DEFAULT_MAX_LATENCY_MS, DEFAULT_PACKET_LOSS_THRESHOLD)
UNLABELLED: Final[dict[str, str]] = {}  # never changed


class Overrides(NamedTuple):
    """The configuration given to a replay.

    All hold what stands in the tables themselves and no defaults. `settings` is a part of the value of a `settings`
    record, `watches` the `[[interceptor]]` tables by conversation, `feeds` the `[feed.defaults]` by feed, `defaults`
    the `[defaults]`. They change conversations that are watched, and watch no others.
    """

    settings: dict[str, Any] = {}  # noqa: RUF012 - never changed
    watches: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - never changed
    feeds: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - never changed
    defaults: dict[str, Any] = {}  # noqa: RUF012 - never changed


class Precedence:
    """Resolves a `watch` record against the configuration of a replay and the `settings` record in force."""

    def __init__(self, overrides: Overrides) -> None:
        self._overrides = overrides
        configured = overrides.settings.get("limits", [])
        self._configured = msgspec.convert(configured, list[LabelLimits])
        self._recorded: list[LabelLimits] = []
        self._is_overridden = bool(overrides.watches or overrides.feeds or overrides.defaults)

    def follow(self, settings: FlowSettings) -> bool:
        """Take over the recorded `[[limits]]`; return whether they have changed."""
        recorded = [] if self._configured else settings.limits
        changed = recorded != self._recorded
        self._recorded = recorded
        return changed

    def settings(self, recorded: dict[str, Any]) -> FlowSettings:
        """Return the tables in force: of those recorded, each key that the configuration does not set."""
        given = self._overrides.settings
        tables = {name: {**recorded.get(name, {}), **table} for name, table in given.items() if name != "limits"}
        feeds = recorded.get("feeds", {})
        if "stalled_after_s" in given.get("alerts", {}):  # it holds for every feed where the rule is not off
            feeds = {name: rules for name, rules in feeds.items() if rules.get("stalled_after_s") is None}
        tables["feeds"] = {**feeds, **given.get("feeds", {})}
        return flow_settings({**recorded, **tables})

    def snapshot(self) -> list[Any]:
        """Return a plain value that `restore` takes."""
        return [msgspec.to_builtins(table) for table in self._recorded]

    def restore(self, snapshot: list[Any]) -> None:
        """Take over a snapshot."""
        self._recorded = msgspec.convert(snapshot, list[LabelLimits])

    def watch(self, settings: WatchSettings, earlier: Watch | None) -> Watch:
        """Return the watch that a record leads to; `earlier` is that in force, None if the conversation begins."""
        if earlier is None:
            own, default = _set_limits(settings, (None, None), DEFAULTS)
            labels = joined_labels({}, settings.labels) if settings.labels else UNLABELLED
            conversation_id, feed = settings.conversation_id, settings.feed
            url = settings.qa_callback_url
            if self._is_overridden:
                url = self._url(conversation_id, feed) or url
            limits = _recorded_limits(own, default)
            watch = Watch(conversation_id, settings.leg_id, limits, url, feed, settings.codec, labels, own, default)
        else:
            own, default = _set_limits(settings, earlier.own, earlier.default)
            labels = joined_labels(earlier.labels, settings.labels) if settings.labels else earlier.labels
            watch = earlier._replace(limits=_recorded_limits(own, default), labels=labels, own=own, default=default)
        return watch if self._is_plain else self.resolved(self._labelled(watch))

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
        return not (self._recorded or self._configured or self._is_overridden)

    def resolved(self, watch: Watch) -> Watch:
        """Return the watch with the limits that hold for it."""
        if self._is_plain:
            return watch._replace(limits=_recorded_limits(watch.own, watch.default))
        return watch._replace(limits=(self._limit(watch, 0), self._limit(watch, 1)))

    def _limit(self, watch: Watch, at: int) -> float:
        candidates = self._candidates(watch, LIMITS[at], at)
        return next(float(value) for value in candidates if value is not None)

    def _candidates(self, watch: Watch, name: str, at: int) -> Iterator[float | None]:
        overrides = self._overrides
        yield overrides.watches.get(watch.conversation_id, {}).get(name)
        yield _of_labels(self._configured, watch.labels, name)
        yield overrides.feeds.get(watch.feed or "", {}).get(name)
        yield overrides.defaults.get(name)
        yield watch.own[at]
        yield _of_labels(self._recorded, watch.labels, name)
        yield watch.default[at]

    def _labelled(self, watch: Watch) -> Watch:
        labels = watch.labels
        for table in reversed(self._tables(watch.conversation_id, watch.feed)):
            if table.get("labels"):
                labels = joined_labels(labels, table["labels"])
        return watch._replace(labels=labels)

    def _url(self, conversation_id: str, feed: str | None) -> str | None:
        tables = self._tables(conversation_id, feed)
        return next((table["qa_callback_url"] for table in tables if table.get("qa_callback_url")), None)

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


def _set_limits(
    settings: WatchSettings, own: tuple[float | None, float | None], default: tuple[float, float]
) -> tuple[tuple[float | None, float | None], tuple[float, float]]:
    """Return the conversation's own limits and its defaults, of which a record sets some."""
    latency, loss, by_default = settings.max_latency_ms, settings.packet_loss_threshold, settings.default_limits
    if not (by_default or isinstance(latency, msgspec.UnsetType) or isinstance(loss, msgspec.UnsetType)):
        return (latency, loss), default  # as in most records, and in a third of the time
    own_latency, default_latency = _set_limit(latency, own[0], default[0], is_default=LIMITS[0] in by_default)
    own_loss, default_loss = _set_limit(loss, own[1], default[1], is_default=LIMITS[1] in by_default)
    return (own_latency, own_loss), (default_latency, default_loss)


def _set_limit(
    value: float | msgspec.UnsetType, own: float | None, default: float, *, is_default: bool
) -> tuple[float | None, float]:
    if isinstance(value, msgspec.UnsetType):
        return own, default
    return (None, value) if is_default else (value, default)


def _recorded_limits(own: tuple[float | None, float | None], default: tuple[float, float]) -> tuple[float, float]:
    latency, loss = own
    return default[0] if latency is None else latency, default[1] if loss is None else loss


def _of_labels(tables: Iterable[LabelLimits], labels: Mapping[str, str], name: str) -> float | None:
    """Return the limit of the first table that matches, None without one or if it leaves this limit as it is."""
    table = next((table for table in tables if table.match.items() <= labels.items()), None)
    limit: float | None = getattr(table, name, None)
    return limit
