"""What is kept of a notification."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.format.decode import decode_block
from connectors.format.lines import private_invalid_line
from connectors.format.notifications import labels_of, legs_of, read_notification, topic_of
from connectors.format.privacy import can_be_private, redacted

SECRET = "+49 30 SECRET"
KINDS = ("customer.start", "customer.end", "user.start", "user.end", "acd.start", "flow.end", "acw", "wrapup")
STATES = ("alerting", "connected", "disconnected", "terminated", "a state")

ids = st.sampled_from(["p-1", "1a2b3c4d-5e6f-4a8b-9c0d-1e2f3a4b5c6d"])
times = st.one_of(st.none(), st.integers(0, 2**41), st.sampled_from(["2026-05-05T09:00:00.000Z", "soon"]))
private = st.fixed_dictionaries(
    {},
    optional={
        "ani": st.just(SECRET),
        "dnis": st.just(SECRET),
        "address": st.just(SECRET),
        "name": st.just(SECRET),
        "attributes": st.just({"account": SECRET, "nested": [{"conversationId": SECRET}]}),
        "wrapup": st.just({"notes": SECRET}),
        "transcripts": st.just([{"alternatives": [{"transcript": SECRET}]}]),
    },
)


def merged(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """One object of the keys of several."""
    return st.tuples(*parts).map(lambda found: {key: value for part in found for key, value in part.items()})


participants = merged(
    private,
    st.fixed_dictionaries(
        {"id": ids, "state": st.sampled_from(STATES)},
        optional={
            "purpose": st.sampled_from(["customer", "agent", "external", "acd", SECRET]),
            "startTime": times,
            "connectedTime": times,
            "endTime": times,
            "disconnectedTime": times,
            "monitoredParticipantId": st.sampled_from(["p-2", "", SECRET]),
            "user": st.sampled_from([{"id": "u-1", "name": SECRET}, {"id": SECRET}, {}]),
            "queue": st.sampled_from([{"id": "q-1", "name": SECRET}, {}]),
            "direction": st.sampled_from(["inbound", "outbound"]),
            "provider": st.just("Edge"),
            "calls": st.just([{"id": "call", "state": "connected", "self": {"addressRaw": SECRET}}]),
        },
    ),
)
snapshots = merged(private, st.fixed_dictionaries({"id": ids, "participants": st.lists(participants, max_size=4)})).map(
    lambda body: {"topicName": "v2.users.u.conversations.calls", "eventBody": body, "metadata": {"x": SECRET}}
)
details = st.tuples(
    st.sampled_from(KINDS),
    merged(
        private,
        st.fixed_dictionaries(
            {"conversationId": st.sampled_from(["c-1", "c 2"])},
            optional={
                "eventTime": times,
                "participantId": ids,
                "sessionId": ids,
                "mediaType": st.sampled_from(["VOICE", "voice", "CHAT", None, 5]),
                "queueId": ids,
                "userId": ids,
                "direction": st.sampled_from(["INBOUND", "OUTBOUND"]),
                "interactingDurationMs": st.integers(0, 10**6),
            },
        ),
    ),
).map(lambda pair: {"topicName": f"v2.detail.events.conversation.c.{pair[0]}", "eventBody": pair[1], "version": SECRET})
bridged = details.map(lambda message: {"detail-type": message["topicName"], "detail": message, "account": SECRET})


@given(st.one_of(snapshots, details, bridged))
def test_no_private_value_is_kept_and_nothing_is_read_differently(message: dict[str, Any]) -> None:
    """The redacted copy holds no private text, and says the same of the call."""
    kept = redacted(message)
    assert SECRET not in json.dumps(kept)
    assert topic_of(kept) == topic_of(message)
    assert repr(read_notification(kept)) == repr(read_notification(message))
    assert repr(legs_of(kept)) == repr(legs_of(message))
    assert labels_of(kept) == {name: value for name, value in labels_of(message).items() if value != SECRET}


def test_a_rejected_line_of_a_notification_is_not_quoted() -> None:
    """A line that cannot be read and may hold personal data comes with its length and SHA-256, others with text."""
    lines = [
        b'{"topicName":"x","eventBody":{"ani":"' + SECRET.encode(),
        b'{"Body":"' + SECRET.encode() + b'"}',
        b"garbage",
    ]
    rejected = decode_block(b"\n".join([*lines, b""])).rejected
    assert [one.text for one in rejected] == [None, None, "garbage"]
    assert [one.length for one in rejected] == [len(line) for line in lines]
    assert SECRET not in repr(rejected)


def test_a_private_invalid_line_can_be_read() -> None:
    """An invalid record without text is a valid record of the journal."""
    line = private_invalid_line(b'{"received_at":1.0,', SECRET.encode(), "no reason")
    (control,) = decode_block(line).controls
    assert control.kind == "invalid"
    assert json.loads(line)["length"] == len(SECRET)
    assert SECRET not in line.decode()


@pytest.mark.parametrize("name", ["06-transfer", "09-transcription", "12-ice", "13-operational"])
def test_captures_are_read_as_before(name: str) -> None:
    """Messages as people have captured them mean the same when they are redacted."""
    path = Path(__file__).parents[2] / "data" / "cases" / f"{name}.jsonl"
    for text in path.read_text().splitlines():
        message = json.loads(text)
        if "topicName" in message or "detail" in message:
            assert repr(read_notification(redacted(message))) == repr(read_notification(message))
        assert can_be_private(text.encode())
