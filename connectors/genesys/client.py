"""Send requests to Genesys: one HTTP client, one retry loop, one place that turns failures into errors.

Classifying, waiting and sending are separate. `retrying` repeats what its caller calls repeatable, `to_error` words
what happened, the transport for the platform SDK sends, and `GenesysClient.call` puts them together.
"""

from __future__ import annotations

import random
import re
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

import httpx

from connectors.errors import AccessDeniedError, CredentialsError, GenesysError, UnavailableError
from connectors.genesys.endpoints import Endpoints
from connectors.genesys.sdk import sdk_client
from connectors.retry import backoff_s, retry_after_s
from connectors.runtime.logs import get_logger
from connectors.runtime.tracing import span

__all__ = [
    "REQUESTS_PER_MINUTE",
    "Clock",
    "Failure",
    "GenesysClient",
    "RequestBudget",
    "RetryPolicy",
    "Tokens",
    "budget_of",
    "http_client",
    "retrying",
    "status_of",
    "tls_context",
    "to_error",
    "transient",
]


T = TypeVar("T")

Failure = httpx.HTTPStatusError | httpx.RequestError
"""A failed request as httpx reports it: an answer outside 2xx, or no answer."""


Query = Mapping[str, str | Sequence[str]]
"""The query of a request; a sequence of values is that many parameters."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The time (epoch seconds), the monotonic clock, the waiting (s) and the chance (0..1) of REST calls and feeds.

    Waits and ages are measured with `monotonic`, which no step of the system clock changes; `now` is for times that
    another machine names.
    """

    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    u: Callable[[], float] = random.random


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long one request may take and how often it is sent.

    `timeout_s` bounds connecting, sending, and every wait for more of the answer. At most `attempts` requests are
    sent for one call; between them `Retry-After` is honoured up to `retry_after_cap_s`, else the wait doubles from
    `base_s` to `cap_s`, with jitter.
    """

    timeout_s: float = 10.0
    attempts: int = 5
    base_s: float = 0.5
    cap_s: float = 20.0
    retry_after_cap_s: float = 60.0


class Tokens(Protocol):
    """A source of access tokens; `connectors.genesys.auth.TokenProvider` is one."""

    def token(self) -> str:
        """Return a valid token; raises GenesysError."""

    def renew(self, rejected: str) -> str:
        """Return a token other than the rejected one; raises GenesysError."""


def http_client(policy: RetryPolicy) -> httpx.Client:
    """Return a client with timeouts that follows no redirect, opens a connection for each request, and counts them.

    Without keep-alive, a create is never sent on a connection that the server is closing at that moment: that
    request would be lost, and look like one that may have taken effect.
    """
    return httpx.Client(
        verify=tls_context(),
        timeout=policy.timeout_s,
        limits=httpx.Limits(max_keepalive_connections=0),
        follow_redirects=False,
        event_hooks={"request": [lambda request: budget_of(str(request.url)).spend()]},
    )


@cache
def tls_context() -> ssl.SSLContext:
    """Return the TLS settings of REST and events; reading the authorities takes 50 ms, so it is done once."""
    return httpx.create_ssl_context()


def status_of(failure: Failure) -> int | None:
    """Return the HTTP status of the answer, or None if there was no answer."""
    return failure.response.status_code if isinstance(failure, httpx.HTTPStatusError) else None


def transient(failure: Failure) -> bool:
    """Tell whether a repeatable request is worth repeating: after 429, 5xx and connection errors."""
    status = status_of(failure)
    return status is None or status == httpx.codes.TOO_MANY_REQUESTS or status >= 500


def retrying(
    send: Callable[[], T],
    *,
    what: str,
    repeatable: Callable[[Failure], bool],
    policy: RetryPolicy,
    clock: Clock,
) -> T:
    """Call `send` until it succeeds, fails with something not `repeatable`, or the attempts of `policy` are used up.

    Raises the last `httpx.HTTPStatusError` or `httpx.RequestError` as it is.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return send()
        except (httpx.HTTPStatusError, httpx.RequestError) as failure:
            if attempt >= policy.attempts or not repeatable(failure):
                raise
            wait_s = _wait_s(failure, attempt, policy=policy, now=clock.now(), u=clock.u())
            get_logger(__name__).warning(
                "genesys_retry",
                what=what,
                status=status_of(failure),
                error=type(failure).__name__,
                attempt=attempt,
                wait_s=round(wait_s, 3),
            )
        clock.sleep(wait_s)


def _wait_s(failure: Failure, attempt: int, *, policy: RetryPolicy, now: float, u: float) -> float:
    if isinstance(failure, httpx.HTTPStatusError):
        asked = retry_after_s(failure.response.headers, now, cap_s=policy.retry_after_cap_s)
        if asked is not None:
            return asked
    return backoff_s(attempt, u, base_s=policy.base_s, cap_s=policy.cap_s)


def to_error(failure: Failure, *, what: str, endpoints: Endpoints) -> GenesysError:
    """Return the error for a request that was refused or not answered; its text names the cause and the fix."""
    if not isinstance(failure, httpx.HTTPStatusError):
        return UnavailableError(
            f"{what}: no answer from {failure.request.url.host} ({_reason(failure)}); check [genesys] base_url (the "
            f"API host of your region), the network and its proxy, and {endpoints.status_page}"
        )
    status = failure.response.status_code
    if status == httpx.codes.UNAUTHORIZED:
        return CredentialsError(
            f"{what}: Genesys does not accept the token (401), not even a fresh one; check that the OAuth client's "
            f"grant type is Client Credentials, that it is active, and that {endpoints.api_url} is its region",
            status=status,
        )
    said = _server_message(failure)
    if status == httpx.codes.FORBIDDEN:
        return AccessDeniedError(
            f"{what}: access denied (403){said}; give the OAuth client a role with the permissions for voice "
            "conversations and interceptors, in the division of these conversations, or the missing scope",
            status=status,
        )
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return UnavailableError(
            f"{what}: rate limited (429){said}, and still so after every retry; wait a minute and try again, or "
            "give voicewatch a dedicated OAuth client",
            status=status,
        )
    if status >= 500:
        return UnavailableError(
            f"{what}: Genesys failed ({status}){said}; see {endpoints.status_page}, check that {endpoints.api_url} "
            "is the API host of your region, and try again later",
            status=status,
        )
    return GenesysError(
        f"{what}: refused ({status}){said}; check that {endpoints.api_url} is the API host of your region and "
        "offers this endpoint, and that the settings sent are right",
        status=status,
    )


def _reason(failure: httpx.RequestError) -> str:
    words = str(failure)
    return f"{type(failure).__name__}: {words}" if words else type(failure).__name__


def _server_message(failure: httpx.HTTPStatusError) -> str:
    """Return Genesys' own message of a refusal, as ` "…"`, short and on one line; empty without one."""
    try:
        body = failure.response.json()
    except ValueError:
        return ""
    message = body.get("message") if isinstance(body, dict) else None
    if not isinstance(message, str) or not message.strip():
        return ""
    # A server may quote the request that it refuses, its token included.
    token = failure.request.headers.get("authorization", "").rpartition(" ")[2]
    if token:
        message = message.replace(token, "***")
    return ' "' + re.sub(r"\s+", " ", message).strip()[:200] + '"'


class GenesysClient:
    """REST calls to one Genesys region: each with its retries and one renewal of the token after a 401.

    Every wait has a timeout and every retry a bound (`policy`). Whatever `clock.sleep` raises ends a call. With `sdk`
    the requests are made by Genesys' platform SDK, which the first call imports (seconds, 200 MB), over the same
    transport: for the bootstrap, and not for a run. One thread at a time may use a client.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        tokens: Tokens,
        *,
        policy: RetryPolicy = RetryPolicy(),
        clock: Clock = Clock(),
        sdk: bool = False,
    ) -> None:
        self.endpoints = endpoints
        self.clock = clock
        self._tokens = tokens
        self._policy = policy
        self._http = http_client(policy)
        self._by_sdk = sdk

    def close(self) -> None:
        """Close the HTTP client; the owner of the token provider closes that one."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        what: str,
        repeatable: Callable[[Failure], bool] = transient,
        query: Query | None = None,
        body: Any = None,
    ) -> Any:
        """Send a request and return its answer as JSON values; raises httpx's errors, and those of the tokens."""
        return retrying(
            lambda: self.send_once(method, path, query=query, body=body),
            what=what,
            repeatable=repeatable,
            policy=self._policy,
            clock=self.clock,
        )

    def ask(
        self,
        method: str,
        path: str,
        *,
        what: str,
        query: Query | None = None,
        body: Any = None,
    ) -> Any:
        """Send a request that may be repeated, and return its answer as JSON values; raises GenesysError."""
        try:
            return self.call(method, path, what=what, query=query, body=body)
        except (httpx.HTTPStatusError, httpx.RequestError) as failure:
            raise to_error(failure, what=what, endpoints=self.endpoints) from failure

    def send_once(self, method: str, path: str, *, query: Query | None = None, body: Any = None) -> Any:
        """Send a request without retries, and once more with a fresh token after a 401; raises httpx's errors."""
        token = self._tokens.token()
        try:
            return self._send(method, path, token, query, body)
        except httpx.HTTPStatusError as failure:
            if failure.response.status_code != httpx.codes.UNAUTHORIZED:
                raise
        return self._send(method, path, self._tokens.renew(token), query, body)

    @cached_property
    def _sdk(self) -> Any:
        return sdk_client(self.endpoints.api_url, self._http)

    def _send(self, method: str, path: str, token: str, query: Query | None, body: Any) -> Any:
        headers = {"Accept": "application/json", "Authorization": f"Bearer {token}"}
        with span(f"genesys {method}", http_request_method=method, url_path=path):
            if not self._by_sdk:
                url = self.endpoints.api_url + path
                response = self._http.request(method, url, params=query, headers=headers, json=body).raise_for_status()
                try:
                    return response.json() if response.content else None
                except ValueError:
                    return response.text
            return self._sdk.call_api(
                path, method, query_params=query, header_params=headers, body=body, response_type="object"
            )


REQUESTS_PER_MINUTE: Final = 300
WINDOW_S: Final = 60.0


class RequestBudget:
    """Counts requests; safe to use from any thread. `now` is a monotonic clock, in seconds.

    Urgent requests are sent at once and only counted (`spend`). Requests that can wait ask first (`wait_s`), so that
    they use what the urgent ones leave.
    """

    def __init__(self, per_minute: int = REQUESTS_PER_MINUTE, *, now: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._now = now
        self._spent: deque[float] = deque(maxlen=per_minute)
        self._held_until = float("-inf")
        self._lock = threading.Lock()

    def spend(self) -> None:
        """Count a request that is being sent."""
        with self._lock:
            self._spent.append(self._now())

    def spent(self) -> int:
        """Return the number of requests sent in the last minute, at most those allowed."""
        with self._lock:
            since = self._now() - WINDOW_S
            return sum(at > since for at in self._spent)

    def hold(self, seconds: float) -> None:
        """Delay requests that can wait by `seconds`, because Genesys asked for it."""
        with self._lock:
            self._held_until = max(self._held_until, self._now() + seconds)

    def wait_s(self, reserve: int = 0) -> float:
        """Return the seconds until a request may be sent so that `reserve` more fit into its minute; 0 for now."""
        with self._lock:
            now = self._now()
            allowed = max(1, self._per_minute - reserve)
            wait_s = self._held_until - now
            if len(self._spent) >= allowed:
                wait_s = max(wait_s, self._spent[-allowed] + WINDOW_S - now)
            return max(0.0, wait_s)


def budget_of(url: str) -> RequestBudget:
    """Return the budget that this process has for a Genesys region, from the URL of its API or login host."""
    return _budget(urlsplit(url).netloc.lower().removeprefix("api.").removeprefix("login."))


@cache
def _budget(region: str) -> RequestBudget:  # noqa: ARG001 - the key of the cache
    return RequestBudget()
