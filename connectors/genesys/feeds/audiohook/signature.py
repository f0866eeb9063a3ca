"""Decide who may connect: check the API key and the HTTP message signature of an AudioHook upgrade.

The signature is that of the draft which became RFC 9421, as Genesys uses it: HMAC-SHA256 over the components that
`Signature-Input` lists, in its order, and over the parameters as they stand there. `sign` is what Genesys does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import re
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

__all__ = ["REQUIRED_COMPONENTS", "AuthFailure", "Authenticator", "UpgradeRequest", "sign"]

REQUIRED_COMPONENTS: Final = (
    "@request-target",
    "@authority",
    "audiohook-organization-id",
    "audiohook-session-id",
    "audiohook-correlation-id",
    "x-api-key",
)
MAX_AGE_S: Final = 10
SKEW_S: Final = 3
MIN_NONCE: Final = 22
MAX_FIELD: Final = 4096

_COMPONENTS: Final = re.compile(r'\((?P<names>(?:"[a-z@][a-z0-9@_-]*"(?: |(?=\))))*)\)(?P<parameters>(?:;[^\s;]+)+)')
_PARAMETER: Final = re.compile(r';(?P<name>[a-z]+)=(?:"(?P<text>[^"\\]*)"|(?P<number>[0-9]{1,15}))')
_LABEL: Final = re.compile(r"[a-z*][a-z0-9_.*-]*=")
_SIGNATURE: Final = re.compile(r"([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):")


class UpgradeRequest(NamedTuple):
    """The part of a request that is checked: its target as received, and its header fields by lower-case name."""

    target: str
    headers: Mapping[str, str]


class AuthFailure(NamedTuple):
    """Why a request is refused; for a count or a log line, and never for the client."""

    reason: str


class _Signature(NamedTuple):
    components: tuple[str, ...]
    parameters: dict[str, str | int]
    text: str
    value: bytes


class Authenticator:
    """Accept upgrades that hold one of `keys`, signed with its secret; a key whose secret is None may be unsigned.

    A request whose nonce has been seen is refused, for as long as its signature is valid. One that was signed before
    `since` (monotonic clock), when no nonces were remembered yet, is refused too. At most `max_nonces` are remembered;
    while there are that many, further signed requests are refused. Only the holder of a secret can cause that.

    Not safe across threads.
    """

    def __init__(
        self, keys: Mapping[str, bytes | None], *, since: float = -math.inf, max_nonces: int = 100_000
    ) -> None:
        self._keys = dict(keys)
        self._since = since
        self._max_nonces = max_nonces
        self._nonces: set[tuple[str, str]] = set()
        self._forget: deque[tuple[float, tuple[str, str]]] = deque()
        self._dummy = secrets.token_bytes(32)

    def check(self, request: UpgradeRequest, now: float, monotonic: float) -> AuthFailure | None:
        """Return why to refuse a request that arrives at `now` (epoch seconds), or None to accept it.

        `monotonic` is the same moment on the clock of `since`, so that a step of the system clock refuses no client for
        long.
        """
        key = request.headers.get("x-api-key", "")
        known = key in self._keys
        secret = self._keys.get(key)
        signed = "signature-input" in request.headers or "signature" in request.headers
        if not signed:
            if known and secret is None:
                return None
            return AuthFailure("unsigned" if known else "unknown key")
        signature = _parse(request.headers)
        if signature is None:
            return AuthFailure("malformed signature")
        base = _base(request, signature)
        if base is None:
            return AuthFailure("missing component")
        # Always compute the MAC, with a dummy key if the API key is unknown, to avoid a timing side channel.
        computed = _mac(secret or self._dummy, base)
        authentic = hmac.compare_digest(computed, signature.value)
        if not known:
            return AuthFailure("unknown key")
        if not secret or not authentic:
            return AuthFailure("wrong signature")
        return self._check_parameters(key, signature, now, monotonic)

    def _check_parameters(self, key: str, signature: _Signature, now: float, monotonic: float) -> AuthFailure | None:
        parameters = signature.parameters
        created, expires, nonce = (parameters.get(name) for name in ("created", "expires", "nonce"))
        if not set(REQUIRED_COMPONENTS) <= set(signature.components):
            return AuthFailure("uncovered component")
        if parameters.get("keyid") != key or parameters.get("alg", "hmac-sha256") != "hmac-sha256":
            return AuthFailure("other key or algorithm")
        if not isinstance(nonce, str) or len(nonce) < MIN_NONCE:
            return AuthFailure("no nonce")
        if not isinstance(created, int) or (expires is not None and not isinstance(expires, int)):
            return AuthFailure("no time")
        if created > now + SKEW_S:
            return AuthFailure("from the future")
        if created + MAX_AGE_S + SKEW_S < now or (expires is not None and expires + SKEW_S < now):
            return AuthFailure("expired")
        if created < now - (monotonic - self._since) - SKEW_S:
            return AuthFailure("from before the start")
        return self._take_nonce((key, nonce), monotonic)

    def _take_nonce(self, nonce: tuple[str, str], monotonic: float) -> AuthFailure | None:
        while self._forget and self._forget[0][0] < monotonic:
            self._nonces.discard(self._forget.popleft()[1])
        if nonce in self._nonces:
            return AuthFailure("replayed nonce")
        if len(self._nonces) >= self._max_nonces:
            return AuthFailure("too many nonces")
        self._nonces.add(nonce)
        # Counted from its arrival, not from its creation, so that the first to come is the first to go.
        self._forget.append((monotonic + MAX_AGE_S + 2 * SKEW_S, nonce))
        return None


def sign(
    request: UpgradeRequest,
    *,
    key: str,
    secret: bytes,
    nonce: str,
    created: int,
    expires: int | None = None,
    components: Sequence[str] = REQUIRED_COMPONENTS,
) -> dict[str, str]:
    """Return the header fields that sign a request.

    >>> request = UpgradeRequest("/", {"host": "a.example"})
    >>> sorted(sign(request, key="k", secret=b"s", nonce="n", created=1, components=["@authority"]))
    ['Signature', 'Signature-Input']
    """
    listed = " ".join(f'"{name}"' for name in components)
    until = "" if expires is None else f";expires={expires}"
    text = f'({listed});keyid="{key}";nonce="{nonce}";alg="hmac-sha256";created={created}{until}'
    base = _base(request, _Signature(tuple(components), {}, text, b""))
    if base is None:
        raise ValueError("the request lacks a component that is to be signed")
    value = base64.b64encode(_mac(secret, base)).decode()
    return {"Signature-Input": f"sig1={text}", "Signature": f"sig1=:{value}:"}


def _mac(secret: bytes, base: str) -> bytes:
    return hmac.digest(secret, base.encode("utf-8", "surrogateescape"), hashlib.sha256)


def _parse(headers: Mapping[str, str]) -> _Signature | None:
    """Return the one signature of a request; None if it has none, several, or one that is not well formed."""
    given, value = headers.get("signature-input", ""), headers.get("signature", "")
    label = _LABEL.match(given)
    found = _SIGNATURE.fullmatch(value)
    if label is None or found is None or f"{found[1]}=" != label[0] or len(given) > MAX_FIELD:
        return None
    text = given[label.end() :]
    listed = _COMPONENTS.fullmatch(text)
    if listed is None:
        return None
    names = tuple(name.strip('"') for name in listed["names"].split())
    parameters: dict[str, str | int] = {}
    position = 0
    while position < len(listed["parameters"]):
        one = _PARAMETER.match(listed["parameters"], position)
        if one is None or one["name"] in parameters:
            return None
        parameters[one["name"]] = one["text"] if one["number"] is None else int(one["number"])
        position = one.end()
    try:
        signature = base64.b64decode(found[2], validate=True)
    except binascii.Error:
        return None
    if len(set(names)) != len(names):
        return None
    return _Signature(names, parameters, text, signature)


def _base(request: UpgradeRequest, signature: _Signature) -> str | None:
    """Return the text that is signed, or None if the request lacks a component."""
    lines = []
    for name in signature.components:
        if name == "@request-target":
            value: str | None = request.target
        elif name == "@authority":
            value = request.headers.get("host")
        elif name.startswith("@"):
            return None
        else:
            value = request.headers.get(name)
        if not value:
            return None
        lines.append(f'"{name}": {value.strip()}')
    return "\n".join([*lines, f'"@signature-params": {signature.text}'])
