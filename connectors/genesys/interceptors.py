"""The REST calls of the bootstrap: the load check and the creation of interceptors.

Importing this module does not import Genesys' platform SDK: that happens with the first REST call.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import httpx

from connectors.errors import GenesysError, OutcomeUnknownError, SaturationError
from connectors.genesys.auth import TokenProvider
from connectors.genesys.client import (
    Failure,
    Patience,
    explain,
    http_client,
    retrying,
    sdk_client,
    status_of,
    transient,
)
from connectors.genesys.endpoints import LOAD_QUERY, Endpoints
from connectors.runtime.tracing import span

__all__ = ["GenesysPlatform"]


class GenesysPlatform:
    """The REST calls of the bootstrap, made with Genesys' platform SDK over a transport of ours.

    Every wait has a timeout and every retry a bound (`patience`). `now`, `sleep` and `u` are the clock, the waiting
    and the chance of the retries.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        tokens: TokenProvider,
        *,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        u: Callable[[], float] = random.random,
    ) -> None:
        self._endpoints = endpoints
        self._tokens = tokens
        self._patience = patience
        self._now = now
        self._sleep = sleep
        self._u = u
        self._client = http_client(patience)

    def close(self) -> None:
        """Close the HTTP client; the token provider is its owner's to close."""
        self._client.close()

    def active_conversations(self) -> int:
        """How many voice conversations are active. Raises `GenesysError` or one of its kinds."""
        what = "load check"
        try:
            answer = self._call("GET", self._endpoints.load_path, what=what, repeatable=transient, query=LOAD_QUERY)
        except (httpx.HTTPStatusError, httpx.RequestError) as failure:
            raise explain(failure, what=what, endpoints=self._endpoints) from failure
        entities = answer.get("entities") if isinstance(answer, dict) else None
        if not isinstance(entities, list):
            raise GenesysError(
                f"{what}: the answer has no list of entities; check that {self._endpoints.api_url} is a Genesys "
                "Cloud API host and that no proxy answers in its place"
            )
        return len(entities)

    def check_load(self, max_concurrent: int) -> int:
        """The number of active conversations; raises `SaturationError` if it is `max_concurrent` or more."""
        active = self.active_conversations()
        if active >= max_concurrent:
            raise SaturationError(active, max_concurrent)
        return active

    def create_interceptor(self, conversation_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create an interceptor and return Genesys' answer, `{}` if it was empty.

        Sent again only after 429, 503 and (once) 401, which say that nothing was created. Raises
        `OutcomeUnknownError` if it was sent and may have taken effect, `UnavailableError`, `AccessDeniedError`,
        `CredentialsError` or `GenesysError` if it surely did not.
        """
        what = f"create interceptor for conversation {conversation_id}"
        path = self._endpoints.interceptor_path(conversation_id)
        try:
            answer = self._call("POST", path, what=what, repeatable=_not_created, body=body)
        except (httpx.HTTPStatusError, httpx.RequestError) as failure:
            if _may_have_happened(failure):
                raise self._unknown(what, _outcome(failure), status=status_of(failure)) from failure
            raise explain(failure, what=what, endpoints=self._endpoints) from failure
        if answer is None or answer == "":
            return {}
        if not isinstance(answer, dict):
            raise self._unknown(what, "it was answered with something else than a JSON object")
        return answer

    def _unknown(self, what: str, outcome: str, *, status: int | None = None) -> OutcomeUnknownError:
        return OutcomeUnknownError(
            f"{what}: sent, but {outcome}; it may have taken effect, so it is not sent again (see "
            f"{self._endpoints.status_page})",
            status=status,
        )

    @cached_property
    def _sdk(self) -> Any:
        return sdk_client(self._endpoints.api_url, self._client)

    def _call(
        self,
        method: str,
        path: str,
        *,
        what: str,
        repeatable: Callable[[Failure], bool],
        query: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
    ) -> Any:
        """One call with its retries, and one renewal of the token after a 401; raises httpx's errors."""
        renewed = False

        def send() -> Any:
            nonlocal renewed
            token = self._tokens.token()
            try:
                return self._send(method, path, token, query, body)
            except httpx.HTTPStatusError as failure:
                if renewed or failure.response.status_code != httpx.codes.UNAUTHORIZED:
                    raise
            renewed = True
            return self._send(method, path, self._tokens.renew(token), query, body)

        return retrying(
            send,
            what=what,
            repeatable=repeatable,
            patience=self._patience,
            now=self._now,
            sleep=self._sleep,
            u=self._u,
        )

    def _send(
        self, method: str, path: str, token: str, query: dict[str, str] | None, body: dict[str, Any] | None
    ) -> Any:
        headers = {"Accept": "application/json", "Authorization": f"Bearer {token}"}
        with span(f"genesys {method}", http_request_method=method, url_path=path):
            return self._sdk.call_api(
                path, method, query_params=query, header_params=headers, body=body, response_type="object"
            )


def _not_created(failure: Failure) -> bool:
    """Whether the answer to a create says that it was turned away at the door, so that it can be sent again."""
    return status_of(failure) in {httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE}


# httpx's errors from before the first byte of a request leaves; after any other one it may have arrived.
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)


def _may_have_happened(failure: Failure) -> bool:
    if not isinstance(failure, httpx.HTTPStatusError):
        return not isinstance(failure, _NEVER_SENT)
    if _not_created(failure):
        return False
    status = failure.response.status_code
    return status >= 500 or status == httpx.codes.REQUEST_TIMEOUT


def _outcome(failure: Failure) -> str:
    status = status_of(failure)
    if status is not None:
        return f"answered {status}"
    if isinstance(failure, httpx.TimeoutException):
        return "no answer came in time"
    return f"the connection was lost ({type(failure).__name__})"
