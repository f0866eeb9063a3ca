"""Decide who may open the live page, and restrict what the browser may do with each answer."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["COOKIE", "Guard", "is_allowed_host", "session_of"]

COOKIE: Final = "voicewatch"
# Asked by machines that hold no cookie; they tell no more than that a run is well or not, and why.
OPEN_PATHS: Final = ("/livez", "/readyz", "/login")
MAX_BODY_BYTES: Final = 16 * 1024
# Of headers and query string; a long id takes less.
MAX_BYTES: Final = 16 * 1024
BODY_S: Final = 5.0
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def session_of(token: str) -> str:
    """Return the value of the cookie for a token: derived, so that the cookie does not hold the token itself."""
    return hmac.digest(token.encode(), b"voicewatch session 1", "sha256").hex()


def is_allowed_host(host: str, names: Iterable[str]) -> bool:
    """Return whether a Host header is one of `names`, localhost or an address in digits.

    A page of another site can make a browser resolve that site's own name to this server, but not digits.

    >>> [is_allowed_host(host, ["vw.example"]) for host in ("localhost:80", "[::1]:80", "VW.example", "evil.example")]
    [True, True, True, False]
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name in {one.lower() for one in names}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """Check host, origin, body and token of a request, and add security headers to the answer; ASGI middleware.

    Without a `token`, every client that reaches the address may read; only loopback is served that way.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, hosts: Iterable[str]) -> None:
        self._app = app
        self._token = token
        self._hosts = tuple(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        answer = self._refusal(request)
        if answer is None and request.method == "POST":
            try:
                body = await asyncio.wait_for(request.body(), BODY_S)
            except ClientDisconnect:  # an answer would reach no one
                return
            except TimeoutError:
                answer = _plain(408, "the body did not come in time")
                answer.headers["Connection"] = "close"
            else:
                receive = _received(body, receive)
                if request.url.path == "/login" and self._token is not None:
                    answer = self._log_in(request, body)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await (answer or self._app)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        headers = request.headers
        if sum(len(name) + len(value) for name, value in headers.raw) + len(request.scope["query_string"]) > MAX_BYTES:
            return _plain(431, "the request is too large")
        # A page of another site cannot make a browser send the token, so who sends it may use any name.
        if not is_allowed_host(headers.get("host", ""), self._hosts) and not self._has_token(request):
            return _plain(421, "this host name is not served; name it in [web] hosts")
        if request.method not in ("GET", "HEAD", "POST"):
            return _plain(405, "the page is read-only")
        if request.method == "POST":
            if not _is_same_origin(headers):
                return _plain(403, "the request comes from another site")
            if not _is_small(headers):
                return _plain(413, "the body is too large")
        elif _is_embedded_elsewhere(headers):
            return _plain(403, "the request comes from another site")
        elif headers.get("transfer-encoding") or headers.get("content-length", "0") != "0":
            return _plain(400, "a request without a body is expected")
        if self._token is None:
            return None
        if request.url.path in OPEN_PATHS or request.url.path.startswith("/static/") or self._is_known(request):
            return None
        if "text/html" in headers.get("accept", ""):
            return RedirectResponse("/login", 303)
        response = _plain(401, "send the token as `Authorization: Bearer …`, or open /login")
        response.headers["WWW-Authenticate"] = "Bearer"
        return response

    def _is_known(self, request: Request) -> bool:
        assert self._token is not None
        return self._has_token(request) or _equal(request.cookies.get(COOKIE, ""), session_of(self._token))

    def _has_token(self, request: Request) -> bool:
        """Return whether a program has sent the token."""
        scheme, _, told = request.headers.get("authorization", "").partition(" ")
        return self._token is not None and scheme.lower() == "bearer" and _equal(told.strip(), self._token)

    def _log_in(self, request: Request, body: bytes) -> Response:
        assert self._token is not None
        told = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
        if not _equal(told, self._token):
            return RedirectResponse("/login?wrong=1", 303)
        response = RedirectResponse("/", 303)
        secure = request.url.scheme == "https"
        response.set_cookie(
            COOKIE, session_of(self._token), max_age=12 * 3600, httponly=True, samesite="strict", secure=secure
        )
        return response


def _received(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was received already, then what follows it."""
    parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return parts.pop() if parts else await receive()

    return again


def _equal(told: str, secret: str) -> bool:
    """Return whether two texts are equal, in a time that tells nothing about either."""
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (told, secret)]
    return hmac.compare_digest(*digests)


def _is_same_origin(headers: Headers) -> bool:
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def _is_embedded_elsewhere(headers: Headers) -> bool:
    """Return whether a page of another site asks in the background; a link that is followed is not that."""
    is_followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return headers.get("sec-fetch-site") == "cross-site" and not is_followed


def _is_small(headers: Headers) -> bool:
    length = headers.get("content-length", "")
    return length.isdigit() and int(length) <= MAX_BODY_BYTES and "transfer-encoding" not in headers


def _plain(status: int, text: str) -> Response:
    return PlainTextResponse(text + "\n", status)
