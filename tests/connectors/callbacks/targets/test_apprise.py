"""Apprise sends under our time limit, order, retries and outbox."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from connectors.callbacks.model import Callback
from connectors.callbacks.policy import DeliveryPolicy
from connectors.callbacks.targets import Target, callback_of, route_of
from connectors.callbacks.targets.apprise import mistake_in
from tests.connectors.callbacks.targets.test_targets import RAISED, RESOLVED
from tests.support.bad_receivers import bad_receivers
from tests.support.callbacks import FAST, eventually, insert
from tests.support.relay import mail_relay
from tests.support.vendors import Answer, serving

pytest.importorskip("apprise", reason="the extra `notify` is not installed")


def sent(url: str) -> tuple[Target, list[Callback]]:
    target = Target("mail", "apprise", url)
    return target, [callback_of(target, a, json.dumps(a).encode(), "critical") for a in (RAISED, RESOLVED)]


def test_messages_arrive_in_order_after_a_failure(outbox, deliver):
    """A service that refuses once gets the raised message again, then the resolved one."""
    with serving(lambda *_: Answer(200)) as service:
        service.first = [Answer(503)]
        target, callbacks = sent(service.url.replace("http://", "json://") + "/very-secret")
        insert(outbox, *callbacks)
        deliver(replace(FAST, timeout_s=30.0), routes={target.key: route_of(target)})
        eventually(lambda: outbox.counts()["delivered"] == 2)
        bodies = service.bodies()
    assert [(body["title"], body["type"]) for body in bodies] == [
        ("Packet loss: conversation c<1>, 5.25 % (limit 2 %)", "failure"),
        ("Resolved: Packet loss: conversation c<1>, 5.25 % (limit 2 %)", "success"),
    ]
    assert "Queue: support & sales" in bodies[0]["message"]


def test_mail_goes_through_a_relay(outbox, deliver):
    """A relay that refuses the first message gets it again; the mails come in order, with subject, sender and text."""
    with mail_relay(refusals=1) as relay:
        addresses = "from=voicewatch@example.com&to=quality@example.com"
        target, callbacks = sent(f"mailto://127.0.0.1:{relay.port}/?{addresses}&mode=insecure&format=text")
        insert(outbox, *callbacks)
        deliver(replace(FAST, timeout_s=30.0), routes={target.key: route_of(target)})
        eventually(lambda: outbox.counts()["delivered"] == 2)
    assert [mail["subject"] for mail in relay.messages] == [
        "Packet loss: conversation c<1>, 5.25 % (limit 2 %)",
        "Resolved: Packet loss: conversation c<1>, 5.25 % (limit 2 %)",
    ]
    assert "voicewatch@example.com" in relay.messages[0]["from"]
    assert relay.messages[0]["to"] == "quality@example.com"
    body = relay.messages[0].get_body(("plain",))
    assert body is not None
    text = body.get_content()
    assert "Queue: support & sales" in text
    assert "Value: 5.25 %" in text


def test_the_lines_of_a_mail_stay_lines_and_labels_are_text(outbox, deliver):
    """Apprise takes a text for HTML without `body_format`; older versions send both forms."""
    hostile = RAISED | {"labels": {"queue": '<a href="https://evil.example">sign in</a>'}}
    with mail_relay() as relay:
        for name, option in (("plain", ""), ("html", "&format=html")):
            addresses = "from=voicewatch@example.com&to=quality@example.com&mode=insecure"
            target = Target(name, "apprise", f"mailto://127.0.0.1:{relay.port}/?{addresses}{option}")
            insert(outbox, callback_of(target, hostile, b"{}", "critical"))
            deliver(replace(FAST, timeout_s=30.0), routes={target.key: route_of(target)}).stop(30.0)
    plain, html = (mail.get_body((kind,)) for mail, kind in zip(relay.messages, ("plain", "html"), strict=True))
    assert plain is not None
    assert html is not None
    assert "Leg: leg-1\nValue: 5.25 %\n" in plain.get_content().replace("\r\n", "\n")
    assert "<a " not in html.get_content()
    assert "leg-1<br/>Value:" in html.get_content()


def test_a_hanging_service_is_a_failure_within_the_time_limit(outbox, deliver):
    """The attempt ends, although the library still waits."""
    with bad_receivers() as there:
        target, callbacks = sent(there.url.replace("http://", "json://") + "/hang")
        insert(outbox, *callbacks)
        policy = DeliveryPolicy(timeout_s=0.5, max_attempts=1)
        deliver(policy, routes={target.key: route_of(target)})
        eventually(lambda: outbox.counts()["dead"] == 2)
    assert outbox.show("a-1/mail").last_error.startswith("timeout: no result within 0.5 s")


def test_an_unknown_url_is_a_mistake_that_does_not_show_it():
    """What Apprise does not know is found before a run starts."""
    assert mistake_in("json://127.0.0.1/x") is None
    assert "hunter2" not in (mistake_in("nosuch://hunter2") or "")
    assert mistake_in("nosuch://hunter2") is not None
