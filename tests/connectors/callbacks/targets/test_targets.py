"""Each target gets alerts in its own format, in order, and its errors are understood."""

from __future__ import annotations

import json
from typing import Any

import pytest

from connectors.callbacks.delivery import Delivery
from connectors.callbacks.model import Callback
from connectors.callbacks.policy import BodyRules
from connectors.callbacks.targets import Target, callback_of, route_of, sample_alert
from connectors.callbacks.targets.cloudevents import headers_of
from connectors.callbacks.targets.message import message_of
from tests.support import vendors
from tests.support.callbacks import DEADLINE_S, FAST, SECRET, eventually, insert
from tests.support.vendors import Answer, Judge, serving

AT = 1_767_225_600.25
KEY = "R0123456789ABCDEFR0123456789ABCD"
RAISED = {
    "conversationId": "c<1>",
    "alertType": "PACKET_LOSS_DETECTED",
    "metricValue": 0.0525,
    "timestamp": AT,
    "source": "genesys-interceptor",
    "alertId": "a-1",
    "incidentId": "i-1",
    "state": "raised",
    "reason": None,
    "threshold": 0.02,
    "legId": "leg-1",
    "window": None,
    "labels": {"queue": "support & sales", "edge": "e-1"},
}
RESOLVED = RAISED | {"alertId": "a-2", "state": "resolved", "reason": "recovered", "timestamp": AT + 30.0}
GROUP = RAISED | {
    "conversationId": None,
    "alertType": "GROUP_DEGRADED",
    "metricValue": 0.4,
    "threshold": 0.3,
    "alertId": "a-3",
    "incidentId": "i-2",
    "group": {"queue": "support"},
    "labels": {},
    "conversations": 10,
    "breaching": 4,
}


def rendered(kind: Any, alert: dict[str, Any], severity: Any = "warning", link: str = "") -> Any:
    target = Target("t", kind, "https://example.com/x")
    return json.loads(callback_of(target, alert, json.dumps(alert).encode(), severity, link).body)


def test_the_webhook_gets_the_alert_itself() -> None:
    """Both webhook kinds carry the line of alerts.jsonl, byte for byte."""
    for kind in ("webhook", "cloudevents"):
        assert rendered(kind, RAISED) == RAISED


def test_pagerduty() -> None:
    """Trigger and resolve share the incident as their key; the routing key is not in what is stored."""
    event = rendered("pagerduty", RAISED, "critical")
    assert (event["event_action"], event["dedup_key"], event["payload"]["severity"]) == ("trigger", "i-1", "critical")
    assert event["payload"]["summary"] == "Packet loss: conversation c<1>, 5.25 % (limit 2 %)"
    assert event["payload"]["timestamp"] == "2026-01-01T00:00:00.250Z"
    assert event["payload"]["custom_details"]["Queue"] == "support & sales"
    assert (rendered("pagerduty", RESOLVED)["event_action"], rendered("pagerduty", RESOLVED)["dedup_key"]) == (
        "resolve",
        "i-1",
    )
    assert "routing_key" not in event
    body, _ = route_of(Target("t", "pagerduty", KEY)).request(json.dumps(event).encode())
    assert json.loads(body) == {"routing_key": KEY, **event}


def test_alertmanager() -> None:
    """The identity of both states is the same; a raised one has a start and no end, a resolved one has an end."""
    (raised,), (resolved,) = rendered("alertmanager", RAISED), rendered("alertmanager", RESOLVED)
    assert raised["labels"] == resolved["labels"]
    assert raised["labels"] == {
        "alertname": "PACKET_LOSS_DETECTED",
        "severity": "warning",
        "source": "voicewatch",
        "incident": "i-1",
        "conversation": "c<1>",
        "queue": "support & sales",
        "edge": "e-1",
    }
    assert (raised["startsAt"], raised.get("endsAt")) == ("2026-01-01T00:00:00.250Z", None)
    assert (resolved["endsAt"], resolved.get("startsAt")) == ("2026-01-01T00:00:30.250Z", None)
    (group,) = rendered("alertmanager", GROUP)
    assert group["labels"]["queue"] == "support"
    assert "conversation" not in group["labels"]


def test_a_link_to_the_live_page_is_where_each_service_wants_it() -> None:
    """PagerDuty has links, Alertmanager the source of an alert, Teams an action, Slack a text."""
    link = "https://vw.example/conversation?id=c&incident=i-1"
    assert rendered("pagerduty", RAISED, link=link)["links"] == [{"href": link, "text": "Live page"}]
    assert rendered("alertmanager", RAISED, link=link)[0]["generatorURL"] == link
    card = rendered("teams", RAISED, link=link)["attachments"][0]["content"]
    assert card["actions"] == [{"type": "Action.OpenUrl", "title": "Open the live page", "url": link}]
    assert link.replace("&", "&amp;") in json.dumps(rendered("slack", RAISED, link=link))


def test_slack() -> None:
    """Texts are escaped, and fields are spread over sections of ten."""
    message = rendered("slack", RAISED)
    assert message["text"] == ":large_yellow_circle: Packet loss: conversation c&lt;1&gt;, 5.25 % (limit 2 %)"
    assert rendered("slack", RESOLVED)["text"].startswith(":large_green_circle: Resolved: Packet loss: ")
    assert all(text["verbatim"] for block in message["blocks"] for text in block.get("fields", [block.get("text")]))


def test_teams() -> None:
    """One adaptive card, within the size that Teams allows."""
    card = rendered("teams", RAISED, "critical")["attachments"][0]["content"]
    assert card["body"][0]["color"] == "attention"
    assert {"title": "Queue", "value": "support & sales"} in card["body"][1]["facts"]
    labels = {"queue": "[sign in](https://evil.example)"}
    assert "](" not in json.dumps(rendered("teams", RAISED | {"labels": labels}))


@pytest.mark.parametrize("character", ["x", "&", "\u00e9", "\U0001f4de", "\n", "\x00", '"', "\u202e"])
@pytest.mark.parametrize(
    ("kind", "judge", "path"),
    [
        ("pagerduty", vendors.pagerduty, "/v2/enqueue"),
        ("slack", vendors.slack, "/services/x"),
        ("teams", vendors.teams, "/"),
    ],
)
def test_a_message_is_within_the_limits_of_its_service(kind: Any, judge: Judge, path: str, character: str) -> None:
    """Sixteen long labels, a group of eight, ids, a link and a window of any length, in any alphabet."""
    labels = {f"name_{n:02}".ljust(32, "x"): character * 128 for n in range(16)}
    alert = RAISED | {
        "conversationId": character * 10_000,
        "legId": character * 10_000,
        "reason": character * 1000,
        "labels": labels,
        "group": dict(list(labels.items())[:8]),
        "window": {"legs": [{"leg_id": character * 1000}] * 1000},
        "evidence": {f"key{n}": character * 1000 for n in range(12)} | {"codecs": [character] * 1000},
    }
    target = Target("t", kind, KEY if kind == "pagerduty" else "https://example.com/x")
    for one in (alert, alert | {"conversationId": None}, alert | {"state": "resolved"}):
        for link in ("https://vw.example/" + "x" * 1900, "https://vw.example/" + "x" * 100_000):
            callback = callback_of(target, one, b"{}", "critical", link)
            body, _ = route_of(target).request(callback.body)
            assert judge(path, {}, body).status in (200, 202), body[:2000]
            assert (link in body.decode()) == (len(link) < 2000)


@pytest.mark.parametrize(
    ("alert", "summary", "facts"),
    [
        (
            {"alertType": "CALL_FAILED", "evidence": {"code": "error.ice", "disconnectType": "transport.failure"}},
            "Call failed: conversation c<1>, error.ice transport.failure",
            {"Code": "error.ice", "Disconnect type": "transport.failure"},
        ),
        (
            {
                "alertType": "PLATFORM_EVENT",
                "conversationId": None,
                "evidence": {"event": "AUDIOHOOK-0001", "entityId": "e-1", "entityType": "integration"},
            },
            "Platform event: AUDIOHOOK-0001 integration e-1",
            {"Event": "AUDIOHOOK-0001", "Entity": "e-1", "Entity type": "integration"},
        ),
        (
            {
                "alertType": "PLATFORM_EVENT",
                "conversationId": None,
                "state": "resolved",
                "evidence": {"event": "edge.onlineStatus", "entityId": "e-1", "entityType": "edge", "status": "ONLINE"},
            },
            "Resolved: Platform event: edge.onlineStatus edge e-1 ONLINE",
            {"Status": "ONLINE"},
        ),
        (
            {
                "alertType": "ONE_WAY_AUDIO",
                "metricValue": -98.0,
                "threshold": -60.0,
                "evidence": {"channel": "external", "silentSeconds": 12.5, "sessionId": None},
            },
            "One-way audio: conversation c<1>, external, -98 dBFS (limit -60 dBFS)",
            {"Channel": "external", "Silent seconds": "12.5"},
        ),
        (
            {
                "alertType": "LOW_MOS",
                "metricValue": 2.82,
                "threshold": 3.5,
                "evidence": {"scale": "genesys-5", "minRFactor": 54.1, "codecs": ["audio/opus", "audio/PCMU"]},
            },
            "Low MOS: conversation c<1>, 2.82 (limit 3.5)",
            {"Scale": "genesys-5", "Lowest R factor": "54.1", "Codecs": "audio/opus, audio/PCMU"},
        ),
        (
            {"alertType": "ALERT_STORM", "conversationId": None, "metricValue": 12, "threshold": 5},
            "Alert storm: 12 alerts (limit 5 alerts)",
            {},
        ),
        (
            GROUP,
            "Group degraded: queue support, 40 % (limit 30 %)",
            {"Conversations": "4 of 10 with bad frames", "Queue": "support"},
        ),
    ],
)
def test_a_message_says_what_happened(alert: dict[str, Any], summary: str, facts: dict[str, str]) -> None:
    """An alert of a single event has no value: its message names the event, the code, the entity."""
    plain: dict[str, Any] = {"metricValue": None, "threshold": None, "labels": {}}
    message = message_of(RAISED | plain | alert)
    assert message.summary == summary
    assert dict(message.facts).items() >= facts.items()


def test_a_label_cannot_add_lines_to_a_message() -> None:
    """What is not printable is replaced, so that a value does not look like another fact."""
    alert = RAISED | {"labels": {"queue": "a\nState: resolved\u202e"}}
    assert "Queue: a\ufffdState: resolved\ufffd\n" in rendered("apprise", alert)["body"]
    assert "Queue: a\ufffdState: resolved\ufffd\n" in rendered("alertmanager", alert)[0]["annotations"]["description"]
    assert rendered("alertmanager", alert)[0]["labels"]["queue"] == "a\nState: resolved\u202e"


def test_cloudevents_headers() -> None:
    """The attributes name the alert; what is not printable ASCII is percent-encoded."""
    headers = headers_of(json.dumps(RAISED | {"conversationId": 'Zoë "1"%'}).encode())
    assert headers == {
        "ce-specversion": "1.0",
        "ce-id": "a-1",
        "ce-source": "/voicewatch",
        "ce-type": "io.voicewatch.alert.packet_loss_detected.raised",
        "ce-time": "2026-01-01T00:00:00.250Z",
        "ce-subject": "Zo%C3%AB%20%221%22%25",
    }


def test_a_group_and_an_unknown_rule_are_described() -> None:
    """Alerts without a conversation name their group; rules that have no title show their name."""
    assert message_of(GROUP).summary == "Group degraded: queue support, 40 % (limit 30 %)"
    assert message_of(RAISED | {"alertType": "NEW_RULE", "threshold": None}).summary.startswith("NEW_RULE: conv")


def test_conversations_are_ordered_for_each_target() -> None:
    """A callback and a target of the same conversation do not wait for each other; raised and resolved do."""
    one, other = Target("one", "slack", "https://x.example"), Target("other", "slack", "https://x.example")
    keys = [callback_of(t, a, b"{}", "warning").order_key for t in (one, other) for a in (RAISED, RESOLVED)]
    assert keys[0] == keys[1] != keys[2] == keys[3]
    assert Callback("a-1", "c<1>", "https://x.example", b"{}").order_key not in keys
    assert callback_of(one, GROUP, b"{}", "warning").order_key == "notify:one/i-2"


def sent(target: Target, *alerts: dict[str, Any]) -> list[Callback]:
    return [callback_of(target, alert, json.dumps(alert).encode(), "warning") for alert in alerts]


@pytest.mark.parametrize(
    ("kind", "judge", "path", "refusals"),
    [
        ("pagerduty", vendors.pagerduty, "/v2/enqueue", [Answer(429), Answer(500)]),
        ("slack", vendors.slack, "/services/T0/B0/secret", [Answer(429, "rate_limited", {"Retry-After": "1"})]),
        ("slack", vendors.slack, "/services/T0/B0/secret", [Answer(500, "rollup_error"), Answer(200, "failed")]),
        ("teams", vendors.teams, "/workflows/secret", [vendors.TEAMS_429, Answer(429)]),
        ("cloudevents", vendors.cloudevents, "/events", [Answer(503)]),
        ("webhook", lambda *_: Answer(204), "/hook", [Answer(503)]),
    ],
)
def test_a_target_accepts_what_is_sent(outbox, deliver, kind, judge, path, refusals):
    """Raised, resolved and a group's alert are accepted in order, although the service first wants them again later."""
    with serving(judge) as vendor:
        vendor.first = list(refusals)
        url = vendor.url + path
        secret = KEY if kind == "pagerduty" else url
        target = Target("t", kind, secret, url if kind == "pagerduty" else None, allow_private_addresses=True)
        insert(outbox, *sent(target, RAISED, RESOLVED, GROUP))
        deliver(FAST, routes={target.key: route_of(target)}, secrets=[SECRET])
        eventually(lambda: outbox.counts() == {"pending": 0, "delivered": 3, "dead": 0})
        assert len(vendor.accepted) == 3
        assert len(vendor.refused) == len(refusals)
        texts = [json.dumps(body) for body in vendor.bodies()]
        order = [n for n, text in enumerate(texts) if "c<1>" in text or "c&lt;1&gt;" in text]
        assert '"resolve' in texts[order[1]] or "Resolved" in texts[order[1]]
        assert ("webhook-signature" in vendor.accepted[0][1]) == (kind in ("webhook", "cloudevents"))


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("pagerduty", Answer(400, '{"status":"invalid event","errors":["bad R0123456789ABCDEFR0123456789ABCD"]}')),
        ("slack", Answer(403, "action_prohibited")),
        ("slack", Answer(410, "channel_is_archived")),
        ("teams", Answer(413)),
    ],
)
def test_a_refusal_for_good_is_kept_without_secrets(outbox, deliver, tmp_path, kind, answer):
    """The callback is dead, the answer is kept, and neither the URL nor the key is in the outbox, log or audit."""
    with serving(lambda *_: answer) as vendor:
        url = vendor.url + "/services/very-secret"
        target = Target("t", kind, KEY if kind == "pagerduty" else url, url, allow_private_addresses=True)
        insert(outbox, *sent(target, RAISED))
        deliver(FAST, routes={target.key: route_of(target)}).stop(DEADLINE_S)
    entry = outbox.show("a-1/t")
    assert (entry.state, entry.url) == ("dead", "notify:t")
    assert (entry.answer or "") == answer.body.replace(KEY, "***")
    outbox.close()
    for file in tmp_path.iterdir():
        assert b"very-secret" not in file.read_bytes()
        assert KEY.encode() not in file.read_bytes()


def test_a_dead_target_delays_no_other_and_no_callback(outbox, deliver, receiver):
    """The callback of the conversation and another target get theirs while one target is down."""
    with serving(vendors.slack) as vendor:
        down = Target("down", "slack", "http://127.0.0.1:9/services/x", allow_private_addresses=True)
        good = Target("good", "slack", vendor.url + "/services/x", allow_private_addresses=True)
        callbacks = [
            Callback(str(a["alertId"]), str(a["conversationId"]), receiver.url, b"{}") for a in (RAISED, RESOLVED)
        ]
        insert(outbox, *sent(down, RAISED, RESOLVED), *callbacks, *sent(good, RAISED, RESOLVED))
        deliver(FAST, routes={t.key: route_of(t) for t in (down, good)})
        receiver.wait_for(2, DEADLINE_S)
        eventually(lambda: len(vendor.accepted) == 2)


def test_a_target_that_was_removed_is_reported(outbox, deliver):
    """What is left for it is dead, with the reason."""
    insert(outbox, *sent(Target("gone", "slack", "https://x.example"), RAISED))
    deliver(FAST).stop(DEADLINE_S)
    assert outbox.show("a-1/gone").last_error == "target: no [[notify]] table has this name any more"


def test_own_patterns_replace_those_of_the_kind() -> None:
    """Slack wants `ok`, unless the configuration says otherwise."""
    assert isinstance(route_of(Target("t", "slack", "https://x.example")).rules.complaint("invalid"), str)
    own = route_of(Target("t", "slack", "https://x.example", success_body=("yes",), failure_body=()))
    assert own.rules == BodyRules((), ("yes",))


def test_an_open_alert_is_sent_again_until_it_is_resolved(outbox, audit):
    """Alertmanager gets a raised alert again and again; after the resolve, nothing more."""
    with serving(lambda *_: Answer(200)) as vendor:
        target = Target("am", "alertmanager", vendor.url, allow_private_addresses=True)
        raised, resolved = sent(target, RAISED, RESOLVED)
        quick = Callback(**{f: getattr(raised, f) for f in raised.__dataclass_fields__} | {"refresh_s": 0.2})
        delivery = Delivery(outbox, audit=audit, policy=FAST, routes={target.key: route_of(target)})
        delivery.start()
        insert(outbox, quick)
        eventually(lambda: len(vendor.accepted) >= 4)
        insert(outbox, resolved)
        eventually(lambda: any("endsAt" in body[0] for body in vendor.bodies()))
        delivery.stop(DEADLINE_S)
        count = len(vendor.accepted)
    assert [("endsAt" in body[0]) for body in vendor.bodies()] == [False] * (count - 1) + [True]
    assert {path for path, _, _ in vendor.accepted} == {"/api/v2/alerts"}
    assert outbox.counts() == {"pending": 0, "delivered": 2, "dead": 0}


def test_a_test_alert_says_so() -> None:
    """Its conversation and queue are called test."""
    alert = sample_alert("raised", AT, "i-9")
    assert "test" in message_of(alert).summary
    assert alert["labels"] == {"queue": "test"}
