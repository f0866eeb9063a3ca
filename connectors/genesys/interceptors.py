"""The REST calls of the bootstrap: check the load and create interceptors."""

from __future__ import annotations

from typing import Any

import httpx

from connectors.errors import GenesysError, OutcomeUnknownError, SaturationError
from connectors.genesys.client import Failure, GenesysClient, status_of, to_error
from connectors.genesys.endpoints import LOAD_QUERY
from connectors.genesys.entities import ActiveConversation, read_entity

__all__ = ["GenesysPlatform"]


class GenesysPlatform:
    """The load check and the creation of interceptors, over a client."""

    def __init__(self, client: GenesysClient) -> None:
        self._client = client
        self._endpoints = client.endpoints

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def active_conversations(self) -> list[ActiveConversation]:
        """Return the active voice conversations, in the order of the answer; raises `GenesysError`."""
        what = "load check"
        answer = self._client.ask("GET", self._endpoints.load_path, what=what, query=LOAD_QUERY)
        entities = answer.get("entities") if isinstance(answer, dict) else None
        if not isinstance(entities, list):
            raise GenesysError(
                f"{what}: the answer has no list of entities; check that {self._endpoints.api_url} is a Genesys "
                "Cloud API host and that no proxy answers in its place"
            )
        return [read_entity(entity) for entity in entities]

    def check_load(self, max_concurrent: int) -> int:
        """Return the number of active conversations; raises `SaturationError` at `max_concurrent` or more."""
        active = len(self.active_conversations())
        if active >= max_concurrent:
            raise SaturationError(active, max_concurrent)
        return active

    def create_interceptor(self, conversation_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create an interceptor and return Genesys' answer, `{}` for an empty one.

        The request is repeated only after 429, 503 and (once) 401, which mean that nothing was created. Raises
        `OutcomeUnknownError` if it was sent and may have taken effect, `UnavailableError`, `AccessDeniedError`,
        `CredentialsError` or `GenesysError` if it did not.
        """
        what = f"create interceptor for conversation {conversation_id}"
        path = self._endpoints.interceptor_path(conversation_id)
        try:
            answer = self._client.call("POST", path, what=what, repeatable=_not_created, body=body)
        except (httpx.HTTPStatusError, httpx.RequestError) as failure:
            if _may_have_happened(failure):
                raise self._unknown(what, _outcome(failure), status=status_of(failure)) from failure
            raise to_error(failure, what=what, endpoints=self._endpoints) from failure
        if answer is None or answer == "":
            return {}
        if not isinstance(answer, dict):
            raise self._unknown(what, "the answer was not a JSON object")
        return answer

    def _unknown(self, what: str, outcome: str, *, status: int | None = None) -> OutcomeUnknownError:
        return OutcomeUnknownError(
            f"{what}: sent, but {outcome}; it may have taken effect, so it is not sent again (see "
            f"{self._endpoints.status_page})",
            status=status,
        )


def _not_created(failure: Failure) -> bool:
    """Tell whether the answer to a create means that nothing was created, so that it can be sent again."""
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
