"""Which instance owns a conversation, and which messages it keeps."""

from __future__ import annotations

import json

import numpy as np
import pytest

from connectors.format.ids import Ids
from connectors.format.owners import Share, owners_of
from connectors.format.ownership import OwnMessages

IDS = Ids.of([f"conversation-{number}" for number in range(3000)])


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_conversation_has_one_owner(count: int) -> None:
    """All instances agree, and have about equal shares."""
    owner = owners_of(IDS, count)
    for index in range(count):
        assert Share(index, count).owns(IDS).tolist() == (owner == index).tolist()
    assert np.bincount(owner).min() > 0.8 * len(IDS) / count


def test_an_owner_is_permanent() -> None:
    """It is in the files of every deployment: another formula would move conversations at an upgrade."""
    ids = ["", "é", "c1", "1a2b3c4d-5e6f-7g8h-9i0j-1k2l3m4n5o6p", "x" * 100]
    assert owners_of(Ids.of(ids), 5).tolist() == [2, 0, 4, 0, 4]


def test_a_further_instance_takes_conversations_and_moves_no_others() -> None:
    """One in four moves from three to four, all of them to the fourth."""
    before, after = owners_of(IDS, 3), owners_of(IDS, 4)
    moved = before != after
    assert 0.2 < moved.mean() < 0.3
    assert set(after[moved].tolist()) == {3}


def frame(**more: object) -> bytes:
    return json.dumps({"event": "conversation.updated", "entity": {"id": "c1"}, "timestamp": 1, **more}).encode()


STRANGE = [
    b"",
    b"\xff",
    b"nonsense",
    b"[]",
    b'{"event":"x"}',
    b'{"entity":{"id":"\xff"}}',
    b'{"entity":{"id":7}}',
    b'{"entity":{"id":""},"event":"x","timestamp":1}',
    b'{"entity":{"id":"\\u0063"}}',
    b'{"entity":{"kind":"x","id":"c9"}}',
    b'{"entity":{"id":"c1"},"entity":{"id":"c2"}}',
    b'{"entity":{"id":"c1"},"\\u0065ntity":{"id":"c2"}}',
    b'{"metrics":{"entity":{"id":"c1"}},"entity":{"id":"c2"}}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("message", [*STRANGE, frame(), frame(entity={"id": "é"})], ids=range(len(STRANGE) + 2))
def test_every_message_is_of_one_instance(message: bytes) -> None:
    """Also one that is not a frame, which the first instance records as invalid."""
    owners = [index for index in range(3) if OwnMessages(Share(index, 3)).of([message])]
    assert len(owners) == 1


def test_a_message_goes_to_the_owner_of_its_conversation() -> None:
    """Whatever spaces, escapes or other keys it has, and however often the owner was asked."""
    forms = [
        frame(entity={"id": "c2"}),
        b'{"entity" :\n{ "id": "c2" }}',
        b'{"entity":{"id":"\\u00632"}}',
        b'{"entity":{"kind":"entity","id":"c2"}}',
        b'{"metrics":{"entity":{"id":"c3"}},"entity":{"id":"c2"}}',
    ]
    [owner] = owners_of(Ids.of(["c2"]), 3).tolist()
    for index in range(3):
        own = OwnMessages(Share(index, 3))
        for _ in range(2):
            assert list(own.of(forms)) == (forms if index == owner else [])
    assert OwnMessages(Share(0, 1)).of(forms) is forms
