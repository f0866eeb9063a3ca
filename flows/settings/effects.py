"""What of a configuration has no effect: keys that a command does not read, and keys that others make void."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from pydantic import BaseModel

from flows.settings.alerts import NOT_RECORDED, AlertSettings
from flows.settings.interceptors import InterceptorDefaults, InterceptorSettings
from flows.settings.models import Settings

__all__ = ["FOLLOW", "MERGE", "REPLAY", "REPLAY_WITH_DELIVERY", "is_read", "unread_keys", "void_keys"]

_GROUP_RULES: Final = ("min_conversations", "raise_ratio", "clear_ratio", "clear_after_s")
_OF_CONVERSATION: Final = ("max_latency_ms", "packet_loss_threshold", "labels")
_URLS: Final = (
    "alerts.platform_callback_url",
    "defaults.qa_callback_url",
    "feed.defaults.qa_callback_url",
    "groups.qa_callback_url",
    "interceptor.qa_callback_url",
)
_CREATE: Final = frozenset(InterceptorDefaults.model_fields) - {*_OF_CONVERSATION, "qa_callback_url"}
"""The keys of `[defaults]` that only a create request has."""

REPLAY: Final = frozenset(
    {
        "windows",
        "limits",
        "shard",
        "watch.forget_after_s",
        "feed.kind",
        "feed.name",
        "feed.stalled_after_s",
        "interceptor.conversation_id",
        "interceptor.leg_id",
        "groups.by",
        "groups.inhibit",
        *(f"groups.{key}" for key in _GROUP_RULES),
        *(f"{table}.{key}" for table in ("defaults", "feed.defaults", "interceptor") for key in _OF_CONVERSATION),
        *(f"alerts.{key}" for key in set(AlertSettings.model_fields) - NOT_RECORDED - {"platform_callback_url"}),
    }
)
"""The keys that a replay reads, and a backtest of each rule set; a key stands for all below it."""

REPLAY_WITH_DELIVERY: Final = REPLAY | {*_URLS, "delivery", "notify", "alerts.severity", "web.public_url"}
"""The keys that `replay --deliver` reads."""

MERGE: Final = frozenset({"windows.slide_s", *(f"groups.{key}" for key in _GROUP_RULES)})
"""The keys that a merge reads."""

FOLLOW: Final = MERGE | {
    "groups.by",
    "groups.qa_callback_url",
    "state.keep_results_days",
    "alerts.severity",
    "delivery",
    "notify",
    "web.public_url",
}
"""The keys that a merge with `--follow` reads."""


def unread_keys(settings: Settings, read: Collection[str]) -> list[str]:
    """Return the keys that are set and not in `read`, in the order of the reference.

    A table of which `read` has no key is one entry, its name.

    >>> from flows.settings.loading import parse_settings
    >>> tables = {"genesys": {"base_url": "https://api.mypurecloud.de"}, "alerts": {"raise_m": 2, "silence_dbfs": -50}}
    >>> unread_keys(parse_settings(tables, "example"), REPLAY)
    ['genesys', 'alerts.silence_dbfs']
    """
    keys = list(dict.fromkeys(_set_keys(settings)))
    used = {key.partition(".")[0] for key in read}
    unread = [key for key in keys if not is_read(key, read)]
    return list(dict.fromkeys(key if key.partition(".")[0] in used else key.partition(".")[0] for key in unread))


def is_read(key: str, read: Collection[str]) -> bool:
    """Return whether a key, or a table that it is in, is in `read`."""
    parts = key.split(".")
    return any(".".join(parts[:count]) in read for count in range(1, len(parts) + 1))


def _set_keys(table: BaseModel, path: str = "") -> Iterator[str]:
    """Yield the keys of a table that are set, those of the tables in it included."""
    names = table.own if isinstance(table, InterceptorSettings) else table.model_fields_set
    for name, field in type(table).model_fields.items():
        if name not in names:
            continue
        key, value = path + (field.alias or name), getattr(table, name)
        inner = [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, BaseModel)]
        if not inner:
            yield key
        for one in inner:
            yield from _set_keys(one, f"{key}.")


def void_keys(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the keys that are set and have no effect in any command, each with what it would need."""
    keys = list(dict.fromkeys(_set_keys(settings)))
    for key in keys:
        if (needed := _needed(settings, key)) is not None:
            yield key, needed


def _needed(settings: Settings, key: str) -> str | None:
    """Return what a key needs to have an effect, None if it is there."""
    table, _, name = key.partition(".")
    kinds = {feed.kind for feed in settings.feeds}
    match table:
        case "watch" if name != "mode" and name != "forget_after_s" and settings.watch.mode == "listed":
            return 'watch.mode = "discover"'
        case "groups" if not settings.groups.by and name not in ("by", "qa_callback_url"):
            return "groups.by"
        case "groups" if name == "qa_callback_url" and not settings.groups.by and not settings.alerts.max_per_minute:
            return "groups.by or alerts.max_per_minute"
        case "defaults" if name in _CREATE and not settings.uses_interceptors:
            return "a feed of kind voice-events"
        case "genesys" if _is_of_voice_events(name) and not settings.uses_interceptors:
            return "a feed of kind voice-events"
        case "alerts" if name in ("silent_after_s", "silence_dbfs") and "audiohook" not in kinds:
            return "a feed of kind audiohook"
        case "alerts" if name == "silence_dbfs" and settings.alerts.silent_after_s is None:
            return "alerts.silent_after_s"
        case "alerts" if name == "severity" and not settings.notify_targets:
            return "a [[notify]] table"
        case "web" if name in ("hosts", "keep_hours") and settings.web.listen is None:
            return "web.listen"
        case "web" if name == "public_url" and settings.web.listen is None and not settings.notify_targets:
            return "web.listen or a [[notify]] table"
        case "privacy" if not kinds & {"notifications", "eventbridge", "kafka"}:
            return "a feed of kind notifications, eventbridge or kafka"
        case "shard" if name != "count" and settings.shard.count == 1:
            return "shard.count above 1"
    return None


def _is_of_voice_events(name: str) -> bool:
    return name.partition(".")[0] in ("max_concurrent", "events_url", "load_path", "interceptor_path", "interceptor")
