"""Who may open an AudioHook session, and who may not."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from connectors.genesys.feeds.audiohook.signature import (
    REQUIRED_COMPONENTS,
    Authenticator,
    AuthFailure,
    UpgradeRequest,
    sign,
)

KEY = "SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh"
SECRET = base64.b64decode("TXlTdXBlclNlY3JldEtleVRlbGxOby0xITJAMyM0JDU=")
NOW = 1641013200.0
NONCE = "VGhpc0lzQVVuaXF1ZU5vbmNl"
PUBLISHED = UpgradeRequest(
    "/api/v1/voicebiometrics/ws",
    {
        "host": "audiohook.example.com",
        "audiohook-organization-id": "d7934305-0972-4844-938e-9060eef73d05",
        "audiohook-session-id": "30b0e395-84d3-4570-ac13-9a62d8f514c0",
        "audiohook-correlation-id": "e160e428-53e2-487c-977d-96989bf5c99d",
        "x-api-key": KEY,
    },
)
PUBLISHED_SIGNATURE = "sig1=:NZBwyBHRRyRoeLqy1IzOa9VYBuI8TgMFt2GRDkDuJh4=:"


def signed(request: UpgradeRequest = PUBLISHED, /, **changes: object) -> UpgradeRequest:
    options: dict[str, Any] = {"key": KEY, "secret": SECRET, "nonce": NONCE, "created": int(NOW), "expires": 3282026430}
    headers = sign(request, **(options | changes))
    return request._replace(headers={**request.headers, **{name.lower(): value for name, value in headers.items()}})


def with_header(name: str, value: str) -> UpgradeRequest:
    request = signed()
    return request._replace(headers={**request.headers, name: value})


def without_header(name: str) -> UpgradeRequest:
    request = signed()
    return request._replace(headers={key: value for key, value in request.headers.items() if key != name})


def reason(refusal: AuthFailure | None) -> str | None:
    return None if refusal is None else refusal.reason


def test_the_published_vector_is_computed_and_let_in() -> None:
    """The signature of Genesys' documentation is the one we compute, and its request is let in."""
    request = signed()
    assert request.headers["signature"] == PUBLISHED_SIGNATURE
    assert Authenticator({KEY: SECRET}).check(request, NOW, NOW) is None


def test_the_order_of_the_components_is_that_of_the_signature_input() -> None:
    """A request that is signed in another order, with a component more, is let in."""
    request = PUBLISHED._replace(headers={**PUBLISHED.headers, "upgrade": "websocket"})
    components = [*reversed(REQUIRED_COMPONENTS), "upgrade"]
    assert Authenticator({KEY: SECRET}).check(signed(request, components=components), NOW, NOW) is None


@pytest.mark.parametrize(
    ("request_", "found"),
    [
        (signed(secret=b"another"), "wrong signature"),
        (with_header("audiohook-session-id", "30b0e395-84d3-4570-ac13-9a62d8f514c1"), "wrong signature"),
        (with_header("host", "evil.example.com"), "wrong signature"),
        (signed()._replace(target="/elsewhere"), "wrong signature"),
        (with_header("signature", PUBLISHED_SIGNATURE.replace("NZ", "Nz")), "wrong signature"),
        (with_header("x-api-key", "other"), "unknown key"),
        (without_header("x-api-key"), "missing component"),
        (without_header("audiohook-correlation-id"), "missing component"),
        (without_header("signature"), "malformed signature"),
        (without_header("signature-input"), "malformed signature"),
        (with_header("signature", "sig2=" + PUBLISHED_SIGNATURE.partition("=")[2]), "malformed signature"),
        (with_header("signature", "sig1=:not base64:"), "malformed signature"),
        (with_header("signature", "sig1=:AAAAA:"), "malformed signature"),
        (with_header("signature-input", "sig1=()"), "malformed signature"),
        (with_header("signature-input", 'sig1=("@authority" "@authority");created=1'), "malformed signature"),
        (with_header("signature-input", 'sig1=("@authority");created=1;created=2'), "malformed signature"),
        (with_header("signature-input", 'sig1=("@authority");created=x'), "malformed signature"),
        (with_header("signature-input", 'sig1=("@status");created=1'), "missing component"),
        (with_header("signature-input", 'sig1=("@authority");created=1' + ";a=1" * 2000), "malformed signature"),
        (signed(components=REQUIRED_COMPONENTS[1:]), "uncovered component"),
        (signed(nonce="too-short"), "no nonce"),
        (signed(created=int(NOW) - 13), None),
        (signed(created=int(NOW) - 14), "expired"),
        (signed(created=int(NOW) + 3), None),
        (signed(created=int(NOW) + 4), "from the future"),
        (signed(expires=int(NOW) - 3), None),
        (signed(expires=int(NOW) - 4), "expired"),
        (signed(expires=None), None),
        (PUBLISHED, "unsigned"),
        (PUBLISHED._replace(headers={**PUBLISHED.headers, "x-api-key": "other"}), "unknown key"),
        (UpgradeRequest("/", {}), "unknown key"),
    ],
)
def test_what_is_wrong_with_a_request_keeps_it_out(request_: UpgradeRequest, found: str | None) -> None:
    """Each part of a signature is looked at, and each is refused for its own reason in the log."""
    assert reason(Authenticator({KEY: SECRET}).check(request_, NOW, NOW)) == found


def test_another_key_or_algorithm_in_the_parameters_is_refused() -> None:
    """The key that signed must be the key of the header, and the algorithm the one we know."""
    authenticator = Authenticator({KEY: SECRET, "two": SECRET})
    assert reason(authenticator.check(signed(key="two"), NOW, NOW)) == "other key or algorithm"


def test_a_nonce_is_good_once() -> None:
    """A request that comes again is refused; the same nonce under another key is another nonce."""
    authenticator = Authenticator({KEY: SECRET, "two": SECRET})
    assert authenticator.check(signed(), NOW, NOW) is None
    assert reason(authenticator.check(signed(), NOW + 12.9, NOW + 12.9)) == "replayed nonce"
    other = PUBLISHED._replace(headers={**PUBLISHED.headers, "x-api-key": "two"})
    assert authenticator.check(signed(other, key="two"), NOW, NOW) is None


def test_nonces_are_forgotten_when_their_signatures_have_expired() -> None:
    """The memory of nonces is bounded: it refuses when full, and is empty again when no replay could succeed."""
    authenticator = Authenticator({KEY: SECRET}, max_nonces=2)
    assert authenticator.check(signed(nonce="1" * 22), NOW, NOW) is None
    assert authenticator.check(signed(nonce="2" * 22), NOW, NOW) is None
    assert reason(authenticator.check(signed(nonce="3" * 22), NOW, NOW)) == "too many nonces"
    later = int(NOW) + 17
    assert authenticator.check(signed(nonce="3" * 22, created=later), later, later) is None
    assert len(authenticator._nonces) == 1


def test_a_key_without_a_secret_is_for_unsigned_requests() -> None:
    """Unsigned requests need a key whose secret is empty; signing without a key, or with an unknown one, fails."""
    authenticator = Authenticator({KEY: None})
    assert authenticator.check(PUBLISHED, NOW, NOW) is None
    assert reason(authenticator.check(signed(), NOW, NOW)) == "wrong signature"
    assert reason(authenticator.check(signed(secret=b""), NOW, NOW)) == "wrong signature"


def test_signing_a_request_that_lacks_a_component_is_a_mistake_of_the_caller() -> None:
    """`sign` refuses to sign what is not there."""
    with pytest.raises(ValueError, match="lacks a component"):
        sign(UpgradeRequest("/", {}), key=KEY, secret=SECRET, nonce=NONCE, created=1)


def test_a_step_of_the_system_clock_refuses_no_client_for_long() -> None:
    """After a step back of an hour, requests are accepted, and nonces are forgotten after the same few seconds."""
    authenticator = Authenticator({KEY: SECRET}, since=50.0, max_nonces=1)
    assert authenticator.check(signed(), NOW, 100.0) is None
    back = int(NOW) - 3600
    assert authenticator.check(signed(nonce="2" * 22, created=back + 17), back + 17.0, 117.0) is None
    assert (
        reason(authenticator.check(signed(nonce="3" * 22, created=back + 18), back + 18.0, 118.0)) == "too many nonces"
    )


def test_what_was_signed_before_the_gate_was_there_is_refused() -> None:
    """A authenticator knows no nonces of before a restart, so that it lets in nothing that may have been used then."""
    for late_s, expected in ((3.5, "from before the start"), (2.5, None)):
        authenticator = Authenticator({KEY: SECRET}, since=NOW + late_s)
        assert reason(authenticator.check(signed(), NOW + late_s, NOW + late_s)) == expected
