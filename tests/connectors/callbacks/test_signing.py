"""Signatures are those of Standard Webhooks, and secrets never show."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from connectors.callbacks.secrets import parse_secrets
from connectors.callbacks.signing import sign
from connectors.errors import ConfigurationError

OLD = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NEW = "whsec_" + base64.b64encode(b"n" * 32).decode()


def test_a_rotation_carries_one_signature_for_each_secret():
    """A receiver that knows either secret accepts the callback."""
    headers = sign("id", 1614265330, b"{}", [OLD, NEW])
    first, second = headers["webhook-signature"].split(" ")
    assert sign("id", 1614265330, b"{}", [OLD])["webhook-signature"] == first
    assert sign("id", 1614265330, b"{}", [NEW])["webhook-signature"] == second


def test_without_a_secret_there_is_no_signature():
    """Unsigned callbacks still carry their id and time."""
    assert sign("id", 5, b"{}", []) == {"webhook-id": "id", "webhook-timestamp": "5"}


@given(st.text(), st.integers(min_value=24, max_value=64))
def test_the_package_itself_verifies_what_we_sign(text, length):
    """Any UTF-8 body and any allowed secret give a signature that a receiver with the same package accepts."""
    import time

    secret = "whsec_" + base64.b64encode(bytes(range(length))).decode()
    headers = sign("id", int(time.time()), text.encode(), parse_secrets(secret))
    Webhook(secret).verify(text.encode(), headers, json_parse=False)


def test_secrets_are_read_from_a_list():
    """Commas separate, blanks around them do not matter, and nothing means none."""
    assert parse_secrets(f" {OLD} , {NEW}") == (OLD, NEW)
    assert parse_secrets("  ") == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hunter2hunter2hunter2hunter2hunter2", "secret 1 of 1 does not begin with whsec_"),
        (f"{OLD},whsec_hunter2!!", "secret 2 of 2 is not base64"),
        ("whsec_aHVudGVyMg==", "secret 1 of 1 holds 7 bytes; 24 to 64"),
        (f"{OLD},,", "is empty"),
        ("whsec_hunter2é", "not base64"),
    ],
)
def test_a_malformed_secret_is_explained_and_not_shown(text, words):
    """The error names the variable, which secret and what is wrong with it, and nothing of its text."""
    with pytest.raises(ConfigurationError) as caught:
        parse_secrets(text)
    message = str(caught.value)
    assert "VOICEWATCH_CALLBACK_SECRET" in message
    assert words in message
    for part in ("hunter2", "aHVudGVyMg", OLD.removeprefix("whsec_")):
        assert part not in message
