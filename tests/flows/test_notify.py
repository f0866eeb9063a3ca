"""Alerts reach the targets of `[[notify]]` tables, chosen by rule, label and state; commands try and receive them."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from connectors.callbacks.outbox import Outbox
from flows.analytics.alerts import Alert, alert_id_of
from flows.notify import Notifier
from flows.settings.loading import parse_settings
from tests.support import vendors
from tests.support.callbacks import SECRET, eventually
from tests.support.cli import running, voicewatch
from tests.support.vendors import serving

SLACK = {"name": "chat", "kind": "slack", "url_env": "CHAT_URL"}


def alert(rule: str = "LOW_MOS", state: str = "raised", labels: dict[str, str] | None = None) -> Alert:
    body = {"alertId": "a1", "incidentId": "i1", "conversationId": "c1", "alertType": rule, "state": state}
    line = json.dumps(body | {"labels": labels or {}}).encode()
    return Alert(0.0, 0, 0, "c1", 0, "a1", rule, state, None, None, line, labels or {})


def targets_of(given: Alert, **table: Any) -> list[str]:
    config = parse_settings({"notify": [{**SLACK, **table}, {**SLACK, "name": "all"}]}, "test")
    return [one.url for one in Notifier(config, {"CHAT_URL": "https://hooks.slack.com/services/x"}).callbacks(given)]


def test_rules_labels_and_states_choose() -> None:
    """A table takes an alert only if its rules, all labels of its match and its states say so."""
    both, only_all = ["notify:chat", "notify:all"], ["notify:all"]
    assert targets_of(alert()) == both
    assert targets_of(alert(), rules=["LOW_MOS"]) == both
    assert targets_of(alert(), rules=["STREAM_STALLED"]) == only_all
    assert targets_of(alert(state="resolved"), states=["raised"]) == only_all
    assert targets_of(alert(labels={"queue": "a", "edge": "e"}), match={"queue": "a"}) == both
    assert targets_of(alert(labels={"queue": "a"}), match={"queue": "a", "edge": "e"}) == only_all
    assert targets_of(alert(), match={"queue": "a"}) == only_all


@pytest.mark.parametrize(
    ("rule", "policy", "more", "is_repeated"),
    [
        ("LATENCY_THRESHOLD_EXCEEDED", "incident", {}, True),
        ("PACKET_LOSS_DETECTED", "incident", {"evidence": {"codecs": ["audio/opus"]}}, True),
        ("LOW_MOS", "incident", {}, True),
        ("LOW_MOS", "incident", {"evidence": {"minMos": 2.1}}, False),
        ("CALL_FAILED", "incident", {"evidence": {"code": "error.ice"}}, False),
        ("PLATFORM_EVENT", "incident", {}, False),
        ("PLATFORM_EVENT", "frame", {"evidence": {"event": "edge.onlineStatus"}}, True),
        ("ALERT_STORM", "incident", {}, False),
        ("LATENCY_THRESHOLD_EXCEEDED", "frame", {}, False),
        ("STREAM_STALLED", "frame", {}, False),
        ("GROUP_DEGRADED", "frame", {}, True),
        ("DEAD_AIR", "frame", {}, True),
    ],
)
def test_alertmanager_gets_again_what_will_be_resolved(
    rule: str, policy: str, more: dict[str, Any], is_repeated: bool
) -> None:
    """An alert that nothing resolves is sent once: repeated, it would fire in Alertmanager for years."""
    given = alert(rule)
    given = given._replace(body=json.dumps(json.loads(given.body) | more).encode())
    table = {"name": "am", "kind": "alertmanager", "url_env": "AM_URL"}
    config = parse_settings({"notify": [table], "alerts": {"policy": policy}}, "test")
    [callback] = Notifier(config, {"AM_URL": "http://127.0.0.1:9093"}).callbacks(given)
    assert (callback.refresh_s > 0) == is_repeated


@pytest.mark.parametrize("kind", ["slack", "alertmanager"])
def test_a_resolve_follows_its_raised_alert_when_labels_change(tmp_path: Path, kind: str) -> None:
    """A call is transferred to another queue: the target of the first queue gets both alerts, an unrelated one none."""
    incident = "7a1e3d52-2c0a-5b6f-8d1e-9e0c4b7f3a10"
    tables = [
        {"name": queue, "kind": kind, "url_env": "CHAT_URL", "match": {"queue": queue}} for queue in ("first", "third")
    ]
    notifier = Notifier(parse_settings({"notify": tables}, "test"), {"CHAT_URL": "https://hooks.slack.com"})
    outbox = Outbox(tmp_path / "outbox.sqlite3")
    for state, queue in (("raised", "first"), ("resolved", "second")):
        given = alert("LATENCY_THRESHOLD_EXCEEDED", state, {"queue": queue})
        id_ = alert_id_of(incident, state)
        body = json.dumps(json.loads(given.body) | {"alertId": id_, "incidentId": incident}).encode()
        outbox.insert(notifier.callbacks(given._replace(alert_id=id_, body=body)), now=1.0)
    waiting = outbox.entries()
    assert [(one.url, one.id.partition("/")[0]) for one in waiting] == [
        ("notify:first", alert_id_of(incident, "raised")),
        ("notify:first", alert_id_of(incident, "resolved")),
    ]
    outbox.close()


def test_alertmanager_gets_once_what_it_gets_no_resolve_of() -> None:
    """With `states = ["raised"]`, nothing would end the repetition; `is_lasting` says the same of an older outbox."""
    table = {"name": "am", "kind": "alertmanager", "url_env": "AM_URL", "states": ["raised"]}
    notifier = Notifier(parse_settings({"notify": [table]}, "test"), {"AM_URL": "http://127.0.0.1:9093"})
    [callback] = notifier.callbacks(alert("LATENCY_THRESHOLD_EXCEEDED"))
    assert callback.refresh_s == 0
    assert not notifier.is_lasting({"alertType": "LATENCY_THRESHOLD_EXCEEDED"}, "am")


def test_messages_link_to_the_live_page_when_its_address_is_known() -> None:
    """Ids are escaped; a group's alert leads to its row; without `public_url` there is no link."""
    environ = {"CHAT_URL": "https://hooks.slack.com/services/x", "TEAM_URL": "https://x.webhook.office.com/a"}
    tables: dict[str, Any] = {"notify": [SLACK, {"name": "team", "kind": "teams", "url_env": "TEAM_URL"}]}
    line = {"alertId": "a1", "incidentId": "i1", "alertType": "LOW_MOS", "state": "raised", "labels": {}}

    def bodies(conversation: str | None, **web: Any) -> list[str]:
        body = json.dumps(line | {"conversationId": conversation}).encode()
        given = Alert(0.0, 0, 0, conversation or "", 0, "a1", "LOW_MOS", "raised", None, None, body, {})
        notifier = Notifier(parse_settings(tables | {"web": web}, "x"), environ)
        return [one.body.decode() for one in notifier.callbacks(given)]

    for body in bodies("a b&c/é", public_url="https://vw.example/"):
        assert "https://vw.example/conversation?id=a%20b%26c%2F%C3%A9" in body
        assert "incident=i1" in body
    for body in bodies(None, public_url="https://vw.example"):
        assert "https://vw.example/incidents#i-i1" in body
    assert "Action.OpenUrl" in bodies("c", public_url="https://vw.example")[1]
    for body in bodies("c"):
        assert "Live page" not in body
        assert "OpenUrl" not in body


def test_a_replay_delivers_to_targets(tmp_path: Path) -> None:
    """The alerts of a recording reach Slack and PagerDuty; neither URL nor key is in any file of the results."""
    key = "R0123456789ABCDEF"
    frames = [
        {"event": "conversation.updated", "entity": {"id": "c1"}, "timestamp": at, "receivedAt": at + latency_s}
        for at, latency_s in ((1000.0, 0.4), (1020.0, 0.01))
    ]
    (tmp_path / "recording.jsonl").write_text("".join(json.dumps(frame) + "\n" for frame in frames))
    with serving(vendors.slack) as slack, serving(vendors.pagerduty) as pagerduty:
        (tmp_path / "voicewatch.toml").write_text(
            f"""
            [alerts]
            unwatched = "default"
            [alerts.severity]
            LATENCY_THRESHOLD_EXCEEDED = "critical"
            [[notify]]
            name = "chat"
            kind = "slack"
            url_env = "CHAT_URL"
            states = ["raised"]
            allow_private_addresses = true
            [[notify]]
            name = "oncall"
            kind = "pagerduty"
            url_env = "PD_KEY"
            url = "{pagerduty.url}/v2/enqueue"
            allow_private_addresses = true
            """
        )
        done = voicewatch(
            "replay",
            tmp_path / "recording.jsonl",
            "--config",
            tmp_path / "voicewatch.toml",
            "--out",
            tmp_path / "out",
            "--deliver",
            CHAT_URL=f"{slack.url}/services/very-secret",
            PD_KEY=key,
        )
        assert done.returncode == 0, done.stderr
        assert "callbacks: 0 pending, 3 delivered, 0 dead" in done.stdout
        assert len(slack.accepted) == 1
        events = pagerduty.bodies()
    assert [event["event_action"] for event in events] == ["trigger", "resolve"]
    assert events[0]["routing_key"] == key
    assert events[0]["payload"]["severity"] == "critical"
    written = [done.stdout, done.stderr, *(f.read_bytes().decode("latin-1") for f in (tmp_path / "out").rglob("*.*"))]
    assert not [text for text in written if "very-secret" in text or key in text]


def test_test_alerts_and_the_listener(tmp_path: Path) -> None:
    """`notify listen` prints and verifies what `notify test` sends; a target that refuses it is exit 1."""
    with running(tmp_path, "notify", "listen", "--port", "0", VOICEWATCH_CALLBACK_SECRET=SECRET) as listener:
        listener.wait_for_log("listening on ")
        url = listener.log.split("listening on ")[1].split()[0]
        config = tmp_path / "voicewatch.toml"
        config.write_text(
            "[[notify]]\nname = 'ours'\nkind = 'cloudevents'\nurl_env = 'HOOK'\nallow_private_addresses = true\n"
            "[[notify]]\nname = 'chat'\nkind = 'slack'\nurl_env = 'HOOK'\nallow_private_addresses = true\n"
        )
        more: dict[str, Any] = {"HOOK": f"{url}/hook", "VOICEWATCH_CALLBACK_SECRET": SECRET}
        done = voicewatch("notify", "test", config, "ours", **more)
        assert (done.returncode, done.stderr) == (0, "")
        assert [line.split() for line in done.stdout.splitlines()] == [
            ["accepted", "ours", "raised", "200", "OK"],
            ["accepted", "ours", "resolved", "200", "OK"],
        ]
        eventually(lambda: len(listener.output.splitlines()) == 2)
        shown = json.loads(listener.output.splitlines()[0])
        assert (shown["verified"], shown["path"], shown["body"]["state"]) == (True, "/hook", "raised")
        refused = voicewatch("notify", "test", config, **more)
        assert refused.returncode == 1
        assert "FAILED    chat  raised  401 Unauthorized" in refused.stdout
        assert listener.stop(signal.SIGINT) == 0
    unknown = voicewatch("notify", "test", config, "absent", **more)
    assert unknown.returncode == 2
    assert "no [[notify]] table has the name absent (there are: ours, chat)" in unknown.stderr
    missing = voicewatch("check", config)
    assert missing.returncode == 2
    assert "ours: HOOK is not set in the environment" in missing.stderr


def test_a_test_alert_is_what_an_alert_would_be(tmp_path: Path) -> None:
    """The test has the severity of its rule and the link to the live page, as the alerts of a run have them."""
    key = "R" * 32
    with serving(vendors.pagerduty) as pagerduty:
        config = tmp_path / "voicewatch.toml"
        config.write_text(
            f"""
            [alerts.severity]
            LATENCY_THRESHOLD_EXCEEDED = "critical"
            [web]
            public_url = "https://voice.example.com"
            [[notify]]
            name = "oncall"
            kind = "pagerduty"
            url_env = "PD_KEY"
            url = "{pagerduty.url}/v2/enqueue"
            allow_private_addresses = true
            """
        )
        done = voicewatch("notify", "test", config, "--json", PD_KEY=key)
        assert (done.returncode, done.stderr) == (0, "")
        events = pagerduty.bodies()
    assert [row["state"] for row in json.loads(done.stdout)] == ["raised", "resolved"]
    assert [event["event_action"] for event in events] == ["trigger", "resolve"]
    assert events[0]["payload"]["severity"] == "critical"
    assert events[0]["links"][0]["href"].startswith("https://voice.example.com/")
    assert key not in done.stdout


def test_callbacks_name_their_incident() -> None:
    """The callback of a conversation has the incident of its alert, so that a stale pair can be sent as one."""
    from flows.dataflow import _incident_of

    conversation = 'c","incidentId":"wrong'
    line = json.dumps({"conversationId": conversation, "incidentId": "i-1"}, separators=(",", ":")).encode()
    assert _incident_of(line) == "i-1"
    assert _incident_of(b"{}") == ""
