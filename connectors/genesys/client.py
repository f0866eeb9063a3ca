"""How requests reach Genesys: one HTTP client, one retry loop, one place that turns failures into words.

Classifying, waiting and sending are apart: `retrying` only repeats what its caller calls repeatable, `explain` only
words what happened, and the transport for the platform SDK only sends.
"""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx

from connectors.errors import AccessDeniedError, CredentialsError, GenesysError, UnavailableError
from connectors.retry import backoff_s, retry_after_s
from connectors.runtime.logs import get_logger

if TYPE_CHECKING:
    from connectors.genesys.endpoints import Endpoints

__all__ = [
    "REQUESTS_PER_MINUTE",
    "Failure",
    "Patience",
    "RequestBudget",
    "budget_of",
    "explain",
    "http_client",
    "retrying",
    "sdk_client",
    "status_of",
    "tls_context",
    "transient",
]


T = TypeVar("T")

# What a request that went wrong is, before it is explained: httpx's word for an answer outside 2xx, or for no answer.
Failure = httpx.HTTPStatusError | httpx.RequestError


@dataclass(frozen=True, slots=True)
class Patience:
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


def http_client(patience: Patience) -> httpx.Client:
    """A client with timeouts that follows no redirect, opens a connection for each request, and counts them.

    Without keep-alive a create never goes out on a connection that the server is closing at that moment: that
    request would be lost, and look like one that may have happened.
    """
    return httpx.Client(
        verify=tls_context(),
        timeout=patience.timeout_s,
        limits=httpx.Limits(max_keepalive_connections=0),
        follow_redirects=False,
        event_hooks={"request": [lambda request: budget_of(str(request.url)).spend()]},
    )


@cache
def tls_context() -> ssl.SSLContext:
    """The TLS settings of REST and events alike; reading the authorities takes 50 ms, so it is done once."""
    return httpx.create_ssl_context()


def status_of(failure: Failure) -> int | None:
    """The HTTP status of the answer, or None if none came."""
    return failure.response.status_code if isinstance(failure, httpx.HTTPStatusError) else None


def transient(failure: Failure) -> bool:
    """Whether a request that may be repeated is worth repeating: after 429, 5xx and connection errors."""
    status = status_of(failure)
    return status is None or status == httpx.codes.TOO_MANY_REQUESTS or status >= 500


def retrying(
    send: Callable[[], T],
    *,
    what: str,
    repeatable: Callable[[Failure], bool],
    patience: Patience,
    now: Callable[[], float],
    sleep: Callable[[float], None],
    u: Callable[[], float],
) -> T:
    """Call `send` until it succeeds, fails with something not `repeatable`, or `patience` is used up.

    Raises the last `httpx.HTTPStatusError` or `httpx.RequestError` as it is.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return send()
        except (httpx.HTTPStatusError, httpx.RequestError) as failure:
            if attempt >= patience.attempts or not repeatable(failure):
                raise
            wait_s = _wait_s(failure, attempt, patience=patience, now=now(), u=u())
            get_logger(__name__).warning(
                "genesys_retry",
                what=what,
                status=status_of(failure),
                error=type(failure).__name__,
                attempt=attempt,
                wait_s=round(wait_s, 3),
            )
        sleep(wait_s)


def _wait_s(failure: Failure, attempt: int, *, patience: Patience, now: float, u: float) -> float:
    if isinstance(failure, httpx.HTTPStatusError):
        asked = retry_after_s(failure.response.headers, now, cap_s=patience.retry_after_cap_s)
        if asked is not None:
            return asked
    return backoff_s(attempt, u, base_s=patience.base_s, cap_s=patience.cap_s)


def explain(failure: Failure, *, what: str, endpoints: Endpoints) -> GenesysError:
    """The error for a request that was refused or not answered; its text names the cause and the fix."""
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
    said = _said(failure)
    if status == httpx.codes.FORBIDDEN:
        return AccessDeniedError(
            f"{what}: access denied (403){said}; give the OAuth client a role with the permissions for voice "
            "conversations and interceptors, in the division of these conversations, or the missing scope",
            status=status,
        )
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return UnavailableError(
            f"{what}: rate limited (429){said}, and still so after every retry; wait a minute and try again, or "
            "give voicewatch an OAuth client of its own",
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


def _said(failure: httpx.HTTPStatusError) -> str:
    """Genesys' own words for a refusal, as ` "…"`, short and on one line; empty if there are none."""
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


class _Answer:
    """An httpx response in the shape that the SDK's `ApiClient` reads."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.reason = response.reason_phrase
        self.data = response.text
        self._headers = response.headers

    def getheaders(self) -> httpx.Headers:
        return self._headers

    def getheader(self, name: str, default: str | None = None) -> str | None:
        value: str | None = self._headers.get(name, default)
        return value


def sdk_client(api_url: str, client: httpx.Client) -> Any:
    """An `ApiClient` of Genesys' platform SDK that sends through `client`; imports the SDK (seconds, 200 MB).

    The SDK's own transport applies no timeout and re-sends a POST whose connection dropped. This one sends each
    request once and raises `httpx.HTTPStatusError` for any answer but 2xx, which the SDK passes through.
    """
    from PureCloudPlatformClientV2 import ApiClient
    from PureCloudPlatformClientV2.abstract_http_client import AbstractHttpClient

    class HttpxTransport(AbstractHttpClient):  # type: ignore[misc]
        def request(self, http_request_options: Any) -> _Answer:
            response = client.request(
                http_request_options.method,
                httpx.URL(http_request_options.url).copy_merge_params(http_request_options.query_params),
                headers=http_request_options.headers,
                json=http_request_options.body,
            )
            return _Answer(response.raise_for_status())

    api = ApiClient(host=api_url)
    # A gateway in ~/.genesyscloudpython/config would replace the host that our configuration names.
    api.gateway_configuration = None
    api.set_http_client(HttpxTransport())
    return api


REQUESTS_PER_MINUTE: Final = 300
WINDOW_S: Final = 60.0


class RequestBudget:
    """Counts requests; safe to use from any thread. `now` is a monotonic clock, in seconds.

    What somebody waits for is sent and only counted (`spend`). What can wait asks first (`wait_s`), so that it takes
    what the others leave.
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

    def hold(self, seconds: float) -> None:
        """Let nothing that can wait be sent for so long, because Genesys asked for it."""
        with self._lock:
            self._held_until = max(self._held_until, self._now() + seconds)

    def wait_s(self, reserve: int = 0) -> float:
        """Seconds until a request may be sent so that `reserve` more can follow it in its minute; 0 for now."""
        with self._lock:
            now = self._now()
            allowed = max(1, self._per_minute - reserve)
            wait_s = self._held_until - now
            if len(self._spent) >= allowed:
                wait_s = max(wait_s, self._spent[-allowed] + WINDOW_S - now)
            return max(0.0, wait_s)


def budget_of(url: str) -> RequestBudget:
    """The one budget of this process for a Genesys region, from the URL of its API host or its login host."""
    return _budget(urlsplit(url).netloc.lower().removeprefix("api.").removeprefix("login."))


@cache
def _budget(region: str) -> RequestBudget:  # noqa: ARG001 - the key of the cache
    return RequestBudget()
