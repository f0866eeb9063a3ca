"""Events that raise an alert by themselves, which no packet shows. Pure.

=================  =====================================================================================
`CALL_FAILED`      a leg that an error ended: `errorInfo.code`, a disconnect type such as
                   `transport.failure`, or the `errorCode` of an analytics metric
`LOW_MOS`          the lowest MOS of a leg as Genesys measured it, of a media record
`LEG_RULES`        the largest latency and the share of discarded packets of a leg, of a media record
`ONE_WAY_AUDIO`    one channel of a call is silent while the other is not; `DEAD_AIR`: both are
`PLATFORM_EVENT`   an operational event (AUDIOHOOK-0001 …), a trunk whose media quality does not match, or an
                   edge that is offline
=================  =====================================================================================

The limits are the rules': a signal says what was measured, and `flows.analytics` decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from connectors.format.labels import is_label_value
from connectors.format.media import leg_media
from connectors.format.notifications import body_of, call_legs, is_calls_topic, topic_of
from connectors.format.rule_names import EDGE_STATUS, TRUNK_MISMATCHES
from connectors.format.values import number_or_nan

__all__ = ["AUDIO_RULES", "GENESYS_SCALE", "LEG_RULES", "Signal", "signals_of"]

CALL_FAILED: Final = "CALL_FAILED"
LOW_MOS: Final = "LOW_MOS"
PLATFORM_EVENT: Final = "PLATFORM_EVENT"
AUDIO_RULES: Final = ("ONE_WAY_AUDIO", "DEAD_AIR")
LEG_RULES: Final = ("LATENCY_THRESHOLD_EXCEEDED", "PACKET_LOSS_DETECTED")
"""The rules over the limits of a watch, in their order."""
GENESYS_SCALE: Final = "genesys-5"
"""The scale of Genesys' MOS: that of G.107 times 5 / 4.5, with 4.89 as its best value."""
_ERROR_TYPES: Final = frozenset({"error", "transport.failure", "transportfailure"})
_MAX_TEXT: Final = 200


class Signal(NamedTuple):
    """What a message reports. `key` tells it from every other signal of its rule and conversation.

    `state` is "raised" or "resolved", and `reason` why it is resolved: for faults of the audio and edges. `limit`
    is what the value was held to where it was decided.

    `conversation_id` is None for an event of the platform. `value` is NaN-free: None without a measurement.
    `evidence` holds JSON values; `labels` are those that the signal itself names.
    """

    rule: str
    conversation_id: str | None
    key: str
    value: float | None
    leg_id: str | None
    evidence: dict[str, Any]
    labels: dict[str, str]
    state: str = "raised"
    reason: str | None = None
    limit: float | None = None


def signals_of(record: Mapping[str, Any]) -> list[Signal]:
    """Return the signals in a notification, an EventBridge record or a media record.

    >>> media = {"conversationId": "c", "sessionId": "s", "mediaEndpointStats": {"minMos": 2.82}}
    >>> [(signal.rule, signal.value) for signal in signals_of(media)]
    [('LOW_MOS', 2.82)]
    """
    if "mediaEndpointStats" in record or "mediaStatistics" in record:
        return list(_media_signals(record))
    if "audioLevel" in record:
        return list(_audio_signals(record))
    topic, body = topic_of(record), body_of(record)
    if body is None:
        return []
    if is_calls_topic(topic):
        return list(_snapshot_signals(body))
    kind = topic.split(".")
    if kind[:3] == ["v2", "analytics", "conversation"] and kind[-1] == "metrics":
        return list(_metric_signals(body))
    if kind[:3] == ["v2", "operations", "events"]:
        return list(_operational_signals(body))
    if kind[:4] == ["v2", "telephony", "providers", "edges"]:
        if kind[4:5] == ["trunks"] and kind[6:] == ["metrics"]:
            return list(_trunk_signals(body))
        if len(kind) == 5:
            return list(_edge_signals(body))
    return []


def _media_signals(record: Mapping[str, Any]) -> Iterator[Signal]:
    """Read the figures of a leg; a leg that received no packet has none, whatever Genesys says."""
    leg = leg_media(record)
    if leg is None:
        return
    stats = record["mediaEndpointStats" if leg.source == "endpoint" else "mediaStatistics"]
    names = ("minRFactor", "maxLatencyMs", "receivedPackets", "discardedPackets", "averageJitterMs")
    numbers = {name: number for name in names if (number := number_or_nan(stats.get(name))) == number}
    told = {name: text for name, text in (("direction", leg.direction), ("purpose", leg.purpose)) if text}
    evidence: dict[str, Any] = {"sessionId": leg.session_id, **numbers, "codecs": list(leg.codecs), **told}
    key, leg_id = leg.session_id or leg.leg_id or "", leg.leg_id or leg.session_id
    if leg.source != "endpoint":
        key, evidence["source"] = f"{key}|{leg.source}", leg.source
    if leg.genesys_mos is not None:
        scaled = {"scale": GENESYS_SCALE, **evidence}
        yield Signal(LOW_MOS, leg.conversation_id, key, leg.genesys_mos, leg_id, scaled, {})
    for rule, value in zip(LEG_RULES, (leg.latency_ms, leg.packet_loss), strict=True):
        if value is not None:
            yield Signal(rule, leg.conversation_id, key, value, leg_id, evidence, {})


def _audio_signals(record: Mapping[str, Any]) -> Iterator[Signal]:
    """Read a fault of a conversation's audio, which the AudioHook feed has decided."""
    conversation_id, level = record.get("conversationId"), record.get("audioLevel")
    if not isinstance(conversation_id, str) or not isinstance(level, Mapping):
        return
    rule, state = _text(level.get("rule")), _text(level.get("state"))
    if rule not in AUDIO_RULES or state not in ("raised", "resolved"):
        return
    session, channel = _text(level.get("session")), _text(level.get("channel"))
    dbfs, limit = number_or_nan(level.get("dbfs")), number_or_nan(level.get("limit"))
    evidence = {"channel": channel, "silentSeconds": level.get("silent_s"), "sessionId": session}
    yield Signal(
        rule,
        conversation_id,
        f"{session}|{channel}",
        None if dbfs != dbfs else dbfs,
        session,
        evidence,
        {},
        state,
        _text(level.get("reason")),
        None if limit != limit else limit,
    )


def _snapshot_signals(body: Mapping[str, Any]) -> Iterator[Signal]:
    conversation_id = body.get("id")
    if not isinstance(conversation_id, str):
        return
    for leg in call_legs(body):
        call, participant = leg["call"], leg["participant"]
        error = call.get("errorInfo") or participant.get("errorInfo")
        code = _text(error.get("code")) if isinstance(error, Mapping) else None
        kind = _text(call.get("disconnectType") or participant.get("disconnectType"))
        if code or (kind or "").lower() in _ERROR_TYPES:
            user = participant.get("user")
            user_id = _text(user.get("id") if isinstance(user, Mapping) else participant.get("userId"))
            yield _failure(conversation_id, code, kind, user_id, _text(leg["id"]), {})


def _metric_signals(body: Mapping[str, Any]) -> Iterator[Signal]:
    conversation_id, code = body.get("conversationId"), _text(body.get("errorCode"))
    if not isinstance(conversation_id, str) or not code:
        return
    labels = {name: text for name in ("queue", "edge") if (text := _text(body.get(f"{name}Id")))}
    kind, user_id = _text(body.get("disconnectType")), _text(body.get("userId"))
    yield _failure(conversation_id, code, kind, user_id, None, labels)


def _failure(
    conversation_id: str,
    code: str | None,
    kind: str | None,
    user_id: str | None,
    leg_id: str | None,
    labels: dict[str, str],
) -> Signal:
    labels = {**labels, **_label("agent", user_id)}
    evidence = {"code": code, "disconnectType": kind}
    key = f"{code or kind}|{user_id or ''}"
    return Signal(CALL_FAILED, conversation_id, key, None, leg_id, evidence, labels)


def _operational_signals(body: Mapping[str, Any]) -> Iterator[Signal]:
    """Read an operational event: what happened to which entity of the organisation."""
    definition = body.get("eventEntity")
    event_id = _text(definition.get("id")) if isinstance(definition, Mapping) else None
    if not event_id:
        return
    evidence: dict[str, Any] = {"event": event_id}
    for name in ("entityId", "entityType", "conversationId", "errorCode"):
        if text := _text(body.get(name)):
            evidence[name] = text
    key = "|".join([event_id, *(str(body.get(name)) for name in ("id", "entityId", "conversationId", "timestamp"))])
    yield Signal(PLATFORM_EVENT, None, key, None, None, evidence, {})


def _trunk_signals(body: Mapping[str, Any]) -> Iterator[Signal]:
    """Read how many calls of a trunk have media whose quality does not match."""
    trunk, qos = body.get("trunk"), body.get("qos")
    trunk_id = _text(trunk.get("id")) if isinstance(trunk, Mapping) else None
    mismatches = number_or_nan(qos.get("mismatchCount")) if isinstance(qos, Mapping) else float("nan")
    if not trunk_id or mismatches != mismatches:
        return
    evidence = {"event": TRUNK_MISMATCHES, "entityId": trunk_id, "entityType": "trunk"}
    yield Signal(PLATFORM_EVENT, None, f"trunk|{trunk_id}", mismatches, None, evidence, _label("trunk", trunk_id))


def _edge_signals(body: Mapping[str, Any]) -> Iterator[Signal]:
    """Read whether an edge is connected to Genesys Cloud."""
    edge_id, status = _text(body.get("id")), (_text(body.get("onlineStatus")) or "").upper()
    if not edge_id or status not in ("ONLINE", "OFFLINE"):
        return
    evidence = {"event": EDGE_STATUS, "status": status, "entityId": edge_id, "entityType": "edge"}
    state, reason = ("raised", None) if status == "OFFLINE" else ("resolved", "recovered")
    of_edge = _label("edge", edge_id)
    yield Signal(PLATFORM_EVENT, None, f"edge|{edge_id}", None, None, evidence, of_edge, state, reason)


def _label(name: str, value: str | None) -> dict[str, str]:
    return {name: value} if is_label_value(value) else {}


def _text(value: Any) -> str | None:
    return value[:_MAX_TEXT] if isinstance(value, str) and value else None
