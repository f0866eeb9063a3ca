"""Discovery over lists of calls that are older than the events."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Collection, Mapping, Sequence

import pytest
from structlog.testing import capture_logs

from connectors.errors import GenesysError
from connectors.format.decode import parse_messages
from connectors.genesys.client import RequestBudget
from connectors.genesys.entities import ActiveConversation
from connectors.genesys.feeds.base import Selection, WatchRules
from connectors.genesys.feeds.discovery import CallDiscovery, DiscoveryTiming
from tests.support.callbacks import eventually
from tests.support.tape import DEADLINE_S


class Calls:
    """Lists calls, the last list again and again, and remembers for which an interceptor was asked."""

    def __init__(self, *lists: Mapping[str, dict[str, str]]) -> None:
        self.asked: list[str] = []
        self.last_asked = threading.Event()
        self.checks = 0
        self.last = "on"
        self._lists = lists or ({"over": {}, "on": {}},)

    def active(self) -> list[ActiveConversation]:
        listed = self._lists[min(self.checks, len(self._lists) - 1)]
        self.checks += 1
        return [ActiveConversation(id_, labels) for id_, labels in listed.items()]

    def create(self, conversation_id: str, labels: Mapping[str, str]) -> str | None:
        self.asked.append(conversation_id)
        if conversation_id == self.last:
            self.last_asked.set()
        return None

    def label(self, conversation_id: str, labels: Mapping[str, str]) -> None:
        """Do nothing; no call is watched."""

    def is_watching(self, conversation_id: str) -> bool:
        return False

    def forget_others(self, active: Collection[str]) -> None:
        """Do nothing."""


def event(name: str, at: float, id_: str = "on") -> bytes:
    """A frame."""
    return json.dumps({"event": f"conversation.{name}", "entity": {"id": id_}, "timestamp": at}).encode()


def test_a_call_that_has_ended_is_not_watched_because_a_list_still_has_it() -> None:
    """The event of its end counts, not a list that was asked for before."""
    calls = Calls()
    discovery = CallDiscovery(
        "events", calls, Selection(), RequestBudget(), max_concurrent=50, refused=lambda _, __: None
    )
    discovery.observe(parse_messages([event("ended", 1.0, "over")]).frames)
    discovery.start()
    assert calls.last_asked.wait(DEADLINE_S)
    discovery.stop(DEADLINE_S)
    assert calls.asked == ["on"]


def test_a_call_that_ended_before_a_restart_is_not_watched_because_a_list_still_has_it() -> None:
    """Its end is among the frames that were recorded; if it was wrong, a newer frame has the call watched."""
    for newer in (False, True):
        calls = Calls()
        discovery = CallDiscovery(
            "events",
            calls,
            Selection(),
            RequestBudget(),
            max_concurrent=50,
            refused=lambda _, __: None,
            recorded=[event("started", 1.0, "over"), event("ended", 2.0, "over"), event("started", 1.0)],
        )
        if newer:
            discovery.observe(parse_messages([event("updated", 3.0, "over")]).frames)
        discovery.start()
        assert calls.last_asked.wait(DEADLINE_S)
        discovery.stop(DEADLINE_S)
        assert set(calls.asked) == ({"on", "over"} if newer else {"on"})


class Unlisted(Calls):
    """Refuses to list calls once."""

    def active(self) -> list[ActiveConversation]:
        if not self.checks:
            self.checks += 1
            raise GenesysError("load check: access denied (403)", status=403)
        return super().active()


def test_no_interceptor_is_created_before_the_load_is_known() -> None:
    """A call that is found by its frames waits for the load check: there may be as many calls as allowed."""
    calls = Unlisted({}, {"on": {}})
    discovery = CallDiscovery(
        "events",
        calls,
        Selection(),
        RequestBudget(),
        max_concurrent=50,
        refused=lambda _, __: None,
        timing=DiscoveryTiming(hold_s=0.3),
    )
    discovery.observe(parse_messages([event("started", 1.0)]).frames)
    discovery.start()
    assert calls.last_asked.wait(DEADLINE_S)
    discovery.stop(DEADLINE_S)
    assert (calls.asked, calls.checks) == (["on"], 2)


INBOUND = WatchRules(match={"direction": ("inbound",)})
SOON = DiscoveryTiming(every_s=3600, labels_s=0.01)


def test_a_call_that_is_listed_before_its_labels_are_known_is_looked_at_again_soon() -> None:
    """The check is repeated after `labels_s`, not after `every_s`, and the call is not counted as refused."""
    refused: list[tuple[str, str]] = []
    calls = Calls({"on": {}}, {"on": {"direction": "inbound"}})
    selection = Selection(INBOUND, refused=lambda *reason_and_id: refused.append(reason_and_id))
    discovery = CallDiscovery(
        "events", calls, selection, RequestBudget(), max_concurrent=50, refused=lambda _, __: None, timing=SOON
    )
    discovery.start()
    assert calls.last_asked.wait(DEADLINE_S)
    discovery.stop(DEADLINE_S)
    assert (calls.asked, calls.checks, refused) == (["on"], 2, [])


def test_a_call_that_is_found_by_its_frames_has_two_checks_for_its_labels() -> None:
    """The first check may not list it, and the second one not its labels."""
    calls = Calls({}, {"on": {"edge": "e"}}, {"on": {"edge": "e", "direction": "inbound"}})
    discovery = CallDiscovery(
        "events", calls, Selection(INBOUND), RequestBudget(), max_concurrent=50, refused=lambda _, __: None, timing=SOON
    )
    discovery.start()
    discovery.observe(parse_messages([event("started", 1.0)]).frames)
    assert calls.last_asked.wait(DEADLINE_S)
    discovery.stop(DEADLINE_S)
    assert (calls.asked, calls.checks) == (["on"], 3)


def test_a_call_that_never_has_the_label_is_refused_and_not_looked_for_all_the_time() -> None:
    """After one more check it is counted, and the next check comes at its usual time."""
    refused: list[tuple[str, str]] = []
    counted = threading.Event()

    def refuse(reason: str, id_: str) -> None:
        refused.append((reason, id_))
        if len(refused) == 2:
            counted.set()

    calls = Calls({"on": {}, "out": {"direction": "outbound"}})
    discovery = CallDiscovery(
        "events",
        calls,
        Selection(INBOUND, refused=refuse),
        RequestBudget(),
        max_concurrent=50,
        refused=lambda _, __: None,
        timing=SOON,
    )
    discovery.start()
    assert counted.wait(DEADLINE_S)
    discovery.stop(DEADLINE_S)
    assert (calls.asked, calls.checks) == ([], 2)
    assert refused == [("match", "out"), ("match", "on")]


class Watched(Calls):
    """Has the calls watched that an interceptor is asked for, and remembers the labels that they are given later."""

    def __init__(self, *lists: Mapping[str, dict[str, str]], labelled_at: int = 1) -> None:
        super().__init__(*lists)
        self.labelled: list[dict[str, str]] = []
        self.enough = threading.Event()
        self._labelled_at = labelled_at

    def label(self, conversation_id: str, labels: Mapping[str, str]) -> None:
        self.labelled.append(dict(labels))
        if len(self.labelled) == self._labelled_at:
            self.enough.set()

    def is_watching(self, conversation_id: str) -> bool:
        return conversation_id in self.asked


def test_a_watched_call_that_is_listed_without_labels_gets_them_soon() -> None:
    """It is watched at once, and its labels are looked up after `labels_s`, not after `every_s`."""
    calls = Watched({"on": {}}, {"on": {"edge": "e"}})
    discovery = CallDiscovery(
        "events", calls, Selection(), RequestBudget(), max_concurrent=50, refused=lambda _, __: None, timing=SOON
    )
    discovery.start()
    assert calls.enough.wait(DEADLINE_S)
    discovery.stop(DEADLINE_S)
    assert (calls.asked, calls.labelled, calls.checks) == (["on"], [{"edge": "e"}], 2)


def test_a_call_that_never_has_labels_is_looked_up_once_more_only() -> None:
    """The check after that comes at its usual time; a call found by its frames has two."""
    calls = Watched({}, {"on": {}}, labelled_at=2)
    discovery = CallDiscovery(
        "events", calls, Selection(), RequestBudget(), max_concurrent=50, refused=lambda _, __: None, timing=SOON
    )
    discovery.start()
    discovery.observe(parse_messages([event("started", 1.0)]).frames)
    assert calls.enough.wait(DEADLINE_S)
    time.sleep(0.1)
    discovery.stop(DEADLINE_S)
    assert (calls.asked, calls.labelled, calls.checks) == (["on"], [{}, {}], 3)


def test_the_calls_that_are_found_are_logged_once_they_are_served() -> None:
    """One line for all of the first list, and none for each later call within `every_s`."""
    calls = Watched({"a": {"edge": "e"}, "on": {"edge": "e"}, "z": {"edge": "e"}})
    discovery = CallDiscovery(
        "events", calls, Selection(), RequestBudget(), max_concurrent=50, refused=lambda _, __: None, timing=SOON
    )
    with capture_logs() as logs:
        discovery.start()
        eventually(lambda: bool(logs), DEADLINE_S)
        discovery.observe(parse_messages([event("started", 1.0, "later")]).frames)
        eventually(lambda: "later" in calls.asked, DEADLINE_S)
        discovery.stop(DEADLINE_S)
    assert logs == [{"event": "calls_found", "feed": "events", "listed": 3, "newly_watched": 3, "log_level": "info"}]


STORY = [event("started", 1.0), event("updated", 2.0), event("ended", 3.0), event("updated", 1.5)]


@pytest.mark.parametrize("messages", list(itertools.permutations([*STORY, event("updated", 4.0)])))
def test_a_call_with_a_frame_newer_than_its_end_goes_on_in_any_order(messages: tuple[bytes, ...]) -> None:
    """Its end came too early; what arrives afterwards decides, or what had overtaken the end."""
    assert asked_after(messages) == ["on"]


@pytest.mark.parametrize("messages", list(itertools.permutations([*STORY, event("ended", 2.5)])))
def test_a_call_whose_newest_frame_is_its_end_is_over_in_any_order(messages: tuple[bytes, ...]) -> None:
    """Frames from before its end, which arrive after it, do not have it watched again."""
    assert asked_after(messages) == []


def asked_after(messages: Sequence[bytes]) -> list[str]:
    """Return the calls, but for a last one, that an interceptor is asked for after these messages."""
    calls = Calls({})
    discovery = CallDiscovery(
        "events", calls, Selection(), RequestBudget(), max_concurrent=50, refused=lambda _, __: None
    )
    for message in (*messages, event("started", 9.0, "last")):
        discovery.observe(parse_messages([message]).frames)
    calls.last = "last"
    discovery.start()
    assert calls.last_asked.wait(DEADLINE_S)
    discovery.stop(DEADLINE_S)
    return sorted({one for one in calls.asked if one != "last"})


def test_a_stop_does_not_wait_for_a_list() -> None:
    """While Genesys does not answer, a stop returns at once; what it answers later is not used."""

    class Slow(Calls):
        def __init__(self) -> None:
            super().__init__()
            self.asked_for_list, self.answer = threading.Event(), threading.Event()

        def active(self) -> list[ActiveConversation]:
            self.asked_for_list.set()
            assert self.answer.wait(DEADLINE_S)
            return super().active()

    calls = Slow()
    discovery = CallDiscovery(
        "slow", calls, Selection(), RequestBudget(), max_concurrent=50, refused=lambda _, __: None
    )
    discovery.start()
    assert calls.asked_for_list.wait(DEADLINE_S)
    began = time.monotonic()
    discovery.stop(DEADLINE_S)
    assert time.monotonic() - began < 1.0
    calls.answer.set()
    for thread in [one for one in threading.enumerate() if one.name == "discovery-slow"]:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    assert calls.asked == []
    assert discovery.failure is None
