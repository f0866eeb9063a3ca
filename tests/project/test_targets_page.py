"""The page on targets shows the messages that are sent, and the kinds that there are."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest

from connectors.callbacks.targets import KINDS, Kind, Target, callback_of, route_of
from tests.support.pages import PAGES

PAGE: Final = PAGES["docs/targets.md"]
LINK: Final = "https://voicewatch.example.com/conversation?id=c1&incident=7a1e"


def example(page: str = PAGE) -> dict[str, Any]:
    """Return the alert that the page shows first, of which all its messages are."""
    alert: dict[str, Any] = json.loads(re.findall(r"```json\n(.*?)```", page, re.DOTALL)[0])
    return alert


def section(kind: str) -> str:
    """Return the section of a kind."""
    found = re.search(rf"^## {kind}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, kind
    return found[1]


def test_every_kind_has_a_section() -> None:
    """Each kind of `[[notify]]` is a heading, with an example of its table."""
    for kind in KINDS:
        assert f'kind = "{kind}"' in section(kind), kind


@pytest.mark.parametrize("kind", ["alertmanager", "pagerduty", "slack", "teams", "apprise"])
def test_a_message_is_what_is_sent(kind: Kind) -> None:
    """The message of the page is the one that the target gets for the alert of the page, link and severity included."""
    alert = example()
    target = Target("t", kind, "R" * 32 if kind == "pagerduty" else "https://example.com/x")
    callback = callback_of(target, alert, json.dumps(alert).encode(), "critical", LINK)
    body, _ = route_of(target).request(callback.body)
    [shown] = re.findall(r"```json\n(.*?)```", section(kind), re.DOTALL)
    assert json.loads(shown) == json.loads(body)


def test_the_headers_are_those_of_cloud_events() -> None:
    """The headers of the page are those of the alert of the page."""
    alert = example()
    target = Target("t", "cloudevents", "https://example.com/x")
    _, headers = route_of(target).request(json.dumps(alert).encode())
    shown = dict(re.findall(r"^(ce-[a-z]+): (.*)$", section("cloudevents"), re.MULTILINE))
    assert shown == {name: value for name, value in headers.items() if name.startswith("ce-")}
