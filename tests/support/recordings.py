"""Nasty recordings: what a generator of random choices makes of the contract, and how the analytics replay them."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

from connectors.format.decode import decode_pieces
from connectors.format.words import text_of
from flows.analytics.alerts import Alert
from flows.analytics.label_texts import with_long_texts
from flows.analytics.precedence import Overrides
from flows.analytics.shard import Shard
from flows.analytics.shards import split
from flows.analytics.window_lines import WindowLines
from tests.support.reference_records import LIMITS

__all__ = ["CONVERSATIONS", "Replayed", "blocks_of", "nasty_lines", "nasty_overrides", "replay_blocks", "rows_of"]

T = TypeVar("T")
Pick = Callable[[Sequence[T]], T]

CONVERSATIONS = ["c", "c", "c", "d", "", 'q"\\\n\x00', "é😀"]
STARTS = [1_700_000_000.0, 1_700_000_000.0, 0.0, -12.5, 1_700_000_002.5]
STEPS = ["same"] * 3 + ["tiny", "short", "short", "some", "boundary", "before", "after", "long", "back", "far", "day"]
LATENCIES_MS = [20.0, 20.0, 80.0, 100.0, 135.0, 135.001, 140.0, 150.0, 150.0004, 150.001, 151.0, 400.0, -30.0, 1e12]
LOSSES = [None, None, 0, 0.001, 0.018, 0.0181, 0.02, 0.0201, 0.2, 1, 1.0, 1e-12]
WINDOWS = [(10, 5), (10, 5), (10, 10), (2, 1), (0.5, 0.1), (6, 2), (60, 30)]
LABELS: list[dict[str, str]] = [
    {},
    {"queue": "a"},
    {"queue": "b", "agent": "é\n"},
    {"agent": "x" * 128, "team": "\x00" * 64},
    {f"l{number}": str(number) for number in range(16)},
    {f"m{number}": str(number) for number in range(15)} | {"queue": "a"},
]
GARBAGE = [
    b"",
    b"  ",
    b"[]",
    b"nonsense",
    b'{"received_at": 1e9',
    b'{"received_at": 1e9}',
    b'{"received_at": 1e9, "tick": true, "feed": {"name": "a", "state": "up"}}',
    b'{"received_at": 1e9, "tick": false}',
    b'{"received_at": 1e11, "tick": true}',
    b'{"received_at": null, "tick": true}',
    b'{"received_at": true, "tick": true}',
    b'{"received_at": 1e9, "invalid": 5}',
    b'{"received_at": 1e9, "feed": {"name": "a", "state": "sideways"}}',
    b'{"received_at": 1e9, "watch": {"leg_id": "l"}}',
    b'{"received_at": 1e9, "settings": {"windows": {"length_s": 10, "slide_s": 3}}}',
    b'{"received_at": 1e9, "settings": {"windows": {"length_s": 1e308, "slide_s": 1e308}}}',
    b'{"received_at": 1e9, "settings": {"alerts": {"policy": "none"}}}',
    b'{"received_at": 1e9, "settings": {"windows": {"codec": "opus"}}}',
    b'{"received_at": 1e9, "settings": {"alerts": {"mos_below": 4.6}}}',
    b'{"received_at": 1e9, "settings": {"alerts": {"stalled_after_s": 0}}}',
    b'{"received_at": 1e9, "watch": {"conversation_id": "c", "codec": "opus"}}',
    b'{"received_at": 1e9, "watch": {"conversation_id": "c", "feed": 1}}',
    b'{"received_at": 1e9, "watch": {"conversation_id": "c", "max_latency_ms": null}}',
    b'{"received_at": 1e9, "watch": {"conversation_id": "c", "labels": null}}',
    b'{"received_at": 1e9, "watch": {"conversation_id": "c", "labels": {"Queue": "a"}}}',
    b'{"received_at": 1e9, "watch": {"conversation_id": "c", "labels": {"queue\\n": "a"}}}',
    b'{"received_at": 1e9, "watch": {"conversation_id": "c", "labels": {"queue": ""}}}',
    b'{"received_at": 1e9, "watch": {"conversation_id": "c", "labels": {"queue": 1}}}',
    b'{"received_at": 1e9, "watch": {"conversation_id": "c", "labels": {"queue": "%b"}}}' % (b"x" * 129),
    b'{"received_at": 1e9, "watch": {"conversation_id": "c", "labels": {"%b": "a"}}}' % (b"x" * 33),
    b'{"received_at": 1e9, "watch": {"conversation_id": "c", "labels": {%b}}}'
    % b",".join(b'"l%d":"1"' % number for number in range(17)),
    b'{"received_at": 1e9, "watch": {"conversation_id": "c", "default_limits": ["leg_id"]}}',
    b'{"received_at": 1e9, "settings": {"limits": [{"max_latency_ms": 100}]}}',
    b'{"received_at": 1e9, "frame": {"event": "e", "entity": {"id": 1}, "timestamp": 1e9}}',
    b'{"received_at": 1e9, "frame": {"event": "e", "entity": {"id": "c"}, "timestamp": "1e9"}}',
    b'{"received_at": 1e9, "frame": {"event": "e", "entity": {"id": "c"}, "timestamp": -1e11}}',
    b'{"received_at": 1e9, "frame": {"event": "e", "entity": {"id": "\\ud800"}, "timestamp": 1e9}}',
    b'{"received_at": 1e9, "frame": {"event": "e", "entity": {"id": "c"}, "timestamp": 1e9, "metrics": []}}',
    b'{"received_at": 1e9, "frame": {"event": "", "entity": {"id": ""}, "timestamp": 1, "metrics": {"packetLoss": 2}}}',
    b'{"received_at": 1e9, "frame": {"event": "e", "entity": {"id": "c"}, "timestamp": 1, "x": "\xff"}}',
    b'{"event": "e", "entity": {"id": "c"}}',
    b'{"event": "e", "entity": {"id": "c"}, "timestamp": 1e9, "receivedAt": "now"}',
    b'{"event": 7, "entity": {"id": "c"}, "timestamp": 1e9}',
]


def nasty_lines(pick: Pick[Any], records: int) -> list[bytes]:
    """A recording in which most frames are of watched conversations and near a limit or boundary."""
    return list(_Writer(pick).lines(records))


def nasty_overrides(pick: Pick[Any]) -> Overrides:
    """A replay's own configuration, or, mostly, none."""
    settings = _some_keys(pick, _settings(pick)) if pick([False, False, True]) else {}
    named = [_watch(pick, "c")] if pick([False, False, True]) else []
    feeds = {"a": _table(pick)} if pick([False, False, True]) else {}
    defaults = _table(pick) if pick([False, False, True]) else {}
    return Overrides(settings, {watch["conversation_id"]: watch for watch in named}, feeds, defaults)


def _some_keys(pick: Pick[Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The part of a `settings` record that stands in a configuration: it may lack any table, and any key."""
    pairs = {"slide_s": "length_s", "raise_m": "raise_n"}
    some = {}
    for name in pick([list(settings), list(settings), list(settings)[1:], list(settings)[:2]]):
        table = settings[name]
        if isinstance(table, dict) and name != "feeds":
            kept = {pairs.get(key, key): pick([True, True, False]) for key in table}
            table = {key: value for key, value in table.items() if kept[pairs.get(key, key)] and value is not None}
        some[name] = table
    return some


def _table(pick: Pick[Any]) -> dict[str, Any]:
    """Limits and labels, as `[defaults]` may hold them."""
    return {
        **pick([{}, {"max_latency_ms": 120}]),
        **pick([{}, {"packet_loss_threshold": 0.1}]),
        **pick([{}, {"labels": {"queue": "b", "zz": "z"}}]),
    }


@dataclass
class _Writer:
    """Writes one record after another at a time that wanders; `slide_s` is the one last told to the dataflow."""

    pick: Pick[Any]
    time: float = 0.0
    slide_s: float = 5.0
    kinds: list[str] = field(default_factory=list)

    def lines(self, records: int) -> Iterator[bytes]:
        self.time = self.pick(STARTS)
        settings = self.pick([0, 0, 1])
        watches = self.pick([0, 1, 1, 1])
        self.kinds = ["frame"] * 24 + ["bare", "tick", "tick", "feed", "feed", "watch", "watch", "invalid", "garbage"]
        self.kinds += ["settings"] * settings
        if self.pick([True, True, False]):
            yield self.record("settings", _settings(self.pick))
        for conversation_id in ["c", "d"] * watches:
            yield self.record("watch", _watch(self.pick, conversation_id))
        for _ in range(records):
            self.step()
            yield self.line(self.pick(self.kinds))

    def step(self) -> None:
        kind = self.pick(STEPS)
        boundary = (math.floor(self.time / self.slide_s) + 1) * self.slide_s
        boundary = round(boundary, 3)
        steps = {
            "tiny": self.time + 1e-6,
            "short": self.time + self.pick([0.05, 0.1, 0.25]),
            "some": self.time + self.pick([1.0, 2.5, 3.0]),
            "boundary": boundary,
            "before": math.nextafter(boundary, -math.inf),
            "after": math.nextafter(boundary, math.inf),
            "long": self.time + self.pick([10.0, 12.5, 100.0]),
            "back": self.time - self.pick([0.001, 5.0, 100.0]),
        }
        if kind == "far" and self.pick([True, False, False, False]):
            self.time += self.pick([3600.0, 1e6, -1e6])
        elif kind == "day" and self.pick([True, False]):
            self.time += self.pick([86_390.0, 86_400.0, math.nextafter(86_400.0, 0), 86_400.5])
        else:
            self.time = steps.get(kind, self.time)

    def line(self, kind: str) -> bytes:
        if kind == "garbage":
            return bytes(self.pick(GARBAGE))
        if kind == "bare":
            received_at = self.pick([{}, {"receivedAt": None}, {"receivedAt": self.time}])
            return json.dumps(self.frame() | received_at, ensure_ascii=self.pick([True, False])).encode()
        values: dict[str, Callable[[], Any]] = {
            "frame": self.frame,
            "tick": lambda: True,
            "invalid": lambda: "what came",
            "feed": lambda: {"name": self.pick(["a", "a", "b"]), "state": self.pick(["up", "down"])},
            "watch": lambda: _watch(self.pick, self.pick(CONVERSATIONS)),
            "settings": lambda: _settings(self.pick),
        }
        return self.record(kind, values[kind]())

    def record(self, kind: str, value: Any) -> bytes:
        if kind == "settings":
            self.slide_s = value["windows"]["slide_s"]
        return json.dumps({"received_at": self.time, kind: value}, ensure_ascii=self.pick([True, False])).encode()

    def frame(self) -> dict[str, Any]:
        event = self.pick(["conversation.updated"] * 14 + ["conversation.started", "conversation.ended"])
        frame: dict[str, Any] = {"event": event, "entity": {"id": self.pick(CONVERSATIONS)}}
        frame["timestamp"] = self.time - self.pick(LATENCIES_MS) / 1000
        if not -1e10 <= frame["timestamp"] <= 1e10:
            frame["timestamp"] = -1e10
        loss = self.pick(LOSSES)
        if loss is not None:
            frame["metrics"] = {"packetLoss": loss, "jitter": 3}
        elif self.pick([False, True]):
            frame["metrics"] = self.pick([None, {}, {"packetLoss": None}, {"jitter": 1.5}])
        return frame


def _watch(pick: Pick[Any], conversation_id: str) -> dict[str, Any]:
    return {
        "conversation_id": conversation_id,
        "leg_id": pick(["leg", "leg", "other", None]),
        **pick([{}, *({"max_latency_ms": limit} for limit in (150, 150, 150.0, 120, 50, 500))]),
        **pick([{}, *({"packet_loss_threshold": limit} for limit in (0.02, 0.02, 0.02, 0, 0.1))]),
        **pick([{}, {}, {"default_limits": ["max_latency_ms"]}, {"default_limits": list(LIMITS)}]),
        **pick([{}, {}, *({"labels": labels} for labels in LABELS)]),
        "qa_callback_url": pick(["http://a/", "http://b/"]),
        **pick([{}, {}, {"feed": "a"}, {"feed": "b"}, {"feed": None}]),
        **pick([{}, {}, {"codec": "g729a"}, {"codec": "g711-no-plc"}, {"codec": None}]),
        **pick([{}, {}, {}, {"last_frame_at": pick([0, 1e9, 2e9])}]),
    }


def _settings(pick: Pick[Any]) -> dict[str, Any]:
    length_s, slide_s = pick(WINDOWS)
    raise_m = pick([1, 1, 2, 3, 5])
    return {
        "windows": {"length_s": length_s, "slide_s": slide_s, **pick([{}, {}, {}, {"codec": "g729a"}])},
        "alerts": {
            "policy": pick(["incident", "incident", "incident", "frame"]),
            "raise_n": pick([n for n in (1, 1, 2, 3) if n <= raise_m]),
            "raise_m": raise_m,
            "clear_ratio": pick([0.9, 0.9, 1, 0.5, 0]),
            "clear_after_s": pick([10, 10, 0, 0.25, 2.5]),
            "unwatched": pick(["ignore", "ignore", "default"]),
            **pick([{}, *({"mos_below": mos} for mos in (4.4, 4.0, 2.5, 4.305, None))]),
            **pick([{}, *({"stalled_after_s": seconds} for seconds in (10, 0.25, 1, 2.5, 0.001, None))]),
        },
        "defaults": {
            "max_latency_ms": pick([150, 100]),
            "packet_loss_threshold": pick([0.02, 0.01]),
            **pick([{}, {"labels": {"region": "r"}}]),
        },
        **pick([{}, {}, {"watch": {"forget_after_s": pick([1, 2.5, 10, 30])}}]),
        **pick([{}, {}, {"feeds": {"a": {"stalled_after_s": pick([0.25, 5, None])}}}]),
        **pick([{}, {}, {"limits": [_label_limits(pick) for _ in range(pick([1, 2, 3]))]}]),
    }


def _label_limits(pick: Pick[Any]) -> dict[str, Any]:
    return {
        "match": pick([{}, {"queue": "a"}, {"queue": "b"}, {"queue": "a", "agent": "é\n"}, {"region": "r"}]),
        **pick([{}, {"max_latency_ms": 100}, {"max_latency_ms": 400.0}, {"max_latency_ms": None}]),
        **pick([{}, {"packet_loss_threshold": 0.001}]),
    }


@dataclass
class Replayed:
    """What the analytics made of a recording; the `_blocks` lists tell in which block."""

    windows: list[dict[str, Any]] = field(default_factory=list)
    window_blocks: list[int] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    alert_blocks: list[int] = field(default_factory=list)
    rejected: list[int] = field(default_factory=list)
    unwatched: int = 0
    conversations: int = 0
    silent: list[tuple[float, str]] = field(default_factory=list)
    late_us: list[int] = field(default_factory=list)


def blocks_of(lines: Sequence[bytes], cuts: Sequence[int]) -> list[list[bytes]]:
    """The lines in blocks that end before each of the places in `cuts`."""
    edges = [0, *sorted(cuts), len(lines)]
    return [list(lines[begin:end]) for begin, end in pairwise(edges)]


def replay_blocks(
    blocks: Sequence[Sequence[bytes]],
    shards: int,
    overrides: Overrides | None = None,
    stops: frozenset[int] = frozenset(),
) -> Replayed:
    """Replay blocks of lines; after each block in `stops`, every shard is pickled and another one goes on."""
    team = [Shard(overrides) for _ in range(shards)]
    replayed = Replayed()
    first_line = 0
    for number, lines in enumerate(blocks):
        pieces = decode_pieces(b"".join(line + b"\n" for line in lines))
        for lines_before, decoded in pieces:
            replayed.rejected += [first_line + lines_before + rejected.line for rejected in decoded.rejected]
            last = number == len(blocks) - 1 and decoded is pieces[-1][1]
            parts = split(number, decoded, shards, last=last)
            results = [shard.apply(part) for shard, part in zip(team, parts, strict=True)]
            rows = sorted(row for result in results for row in rows_of(result.windows))
            replayed.windows += [json.loads(line) for _, _, line in rows]
            replayed.window_blocks += [number] * len(rows)
            alerts = sorted(alert for result in results for alert in result.alerts)
            replayed.alerts += alerts
            replayed.alert_blocks += [number] * len(alerts)
            replayed.silent += sorted(one for result in results for one in result.silent)
            replayed.late_us += sorted(one for result in results for one in result.late_us)
            replayed.unwatched += sum(result.unwatched for result in results)
            replayed.conversations += sum(result.conversations for result in results)
        first_line += len(lines)
        if number in stops:
            team = [_restarted(shard, overrides) for shard in team]
    return replayed


def rows_of(windows: WindowLines) -> list[tuple[float, str, bytes]]:
    """Closed windows one by one: end, conversation, line."""
    lines = [with_long_texts(windows.ids.written_out(text_of(row)), windows.long) for row in windows.text]
    return list(zip(windows.end.tolist(), windows.ids.texts(), lines, strict=True))


def _restarted(shard: Shard, overrides: Overrides | None) -> Shard:
    kept = shard.snapshot()
    pickled = pickle.dumps(kept)
    again = Shard(overrides)
    again.restore(pickle.loads(pickled))
    return again
