"""Get access tokens with OAuth client credentials, renew them before they expire, share them between threads."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import httpx

from connectors.errors import CredentialsError, GenesysError, UnavailableError
from connectors.genesys.client import Clock, RetryPolicy, http_client, retrying, to_error, transient
from connectors.genesys.credentials import Credentials
from connectors.genesys.endpoints import Endpoints
from connectors.runtime.logs import get_logger
from connectors.runtime.tracing import span

__all__ = ["Credentials", "TokenProvider"]


# The shortest life of a token that Genesys lets be configured, for an answer without one.
DEFAULT_LIFE_S = 300.0
MARGIN_S = 60.0
MARGIN_RATIO = 0.1


@dataclass(frozen=True, slots=True)
class _Held:
    text: str = field(repr=False)
    asked_at: float  # these two of the monotonic clock
    renew_at: float


class TokenProvider:
    """Provide one access token to any number of threads and renew it before it expires.

    A caller that asks during a renewal waits for it: there is never more than one request for a token at a time.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        credentials: Credentials,
        *,
        policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        clock: Clock = Clock(),  # noqa: B008 - frozen
    ) -> None:
        self._endpoints = endpoints
        self._credentials = credentials
        self._policy = policy
        self._clock = clock
        self._client = http_client(policy)
        self._lock = threading.Lock()
        self._held: _Held | None = None

    def token(self) -> str:
        """Return a token that stays valid for a while (60 s, or a tenth of its life if that is less).

        Raises `CredentialsError`, `AccessDeniedError`, `UnavailableError` after bounded retries, or `GenesysError`.
        """
        held = self._held
        if held is None or self._clock.monotonic() >= held.renew_at:
            with self._lock:
                held = self._held
                if held is None or self._clock.monotonic() >= held.renew_at:
                    held = self._held = self._fetch()
        return held.text

    def renew(self, rejected: str) -> str:
        """Return a token other than `rejected`, which Genesys answered with 401; fetch one unless it is there already.

        Raises what `token` raises.
        """
        with self._lock:
            if self._held is None or self._held.text == rejected:
                self._held = self._fetch()
            return self._held.text

    @property
    def age_s(self) -> float | None:
        """Return how long ago the current token was requested, in seconds; None before the first."""
        held = self._held
        return None if held is None else self._clock.monotonic() - held.asked_at

    def close(self) -> None:
        """Close the HTTP client."""
        self._client.close()

    def _fetch(self) -> _Held:
        asked_at = self._clock.monotonic()
        try:
            response = retrying(
                self._post,
                what="token",
                repeatable=transient,
                policy=self._policy,
                clock=self._clock,
            )
        except (httpx.HTTPStatusError, httpx.RequestError) as failure:
            raise self._refusal(failure) from failure
        text, life_s = self._read(response)
        get_logger(__name__).info("token_renewed", life_s=life_s)
        return _Held(text, asked_at, asked_at + life_s - min(MARGIN_S, life_s * MARGIN_RATIO))

    def _post(self) -> httpx.Response:
        with span("genesys token", http_request_method="POST", url_full=self._endpoints.token_url):
            return self._client.post(
                self._endpoints.token_url,
                data={"grant_type": "client_credentials"},
                auth=httpx.BasicAuth(self._credentials.client_id, self._credentials.client_secret),
            ).raise_for_status()

    def _refusal(self, failure: httpx.HTTPStatusError | httpx.RequestError) -> GenesysError:
        if not isinstance(failure, httpx.HTTPStatusError) or failure.response.status_code not in {400, 401}:
            return to_error(failure, what="token request", endpoints=self._endpoints)
        status = failure.response.status_code
        if status == httpx.codes.UNAUTHORIZED or _oauth_error(failure.response) == "invalid_client":
            return CredentialsError(
                f"token request: Genesys does not know this OAuth client or its secret ({status}); check "
                f"GENESYS_CLIENT_ID and GENESYS_CLIENT_SECRET, and that {self._endpoints.api_url} is the region in "
                "which the client was made",
                status=status,
            )
        return CredentialsError(
            f"token request: Genesys refuses this OAuth client the grant client_credentials ({status}); in Admin > "
            "Integrations > OAuth set its grant type to Client Credentials and give it a role",
            status=status,
        )

    def _read(self, response: httpx.Response) -> tuple[str, float]:
        """Return the token and its life in seconds; raises `UnavailableError` for any other answer."""
        try:
            body = response.json()
        except ValueError:
            body = None
        text = body.get("access_token") if isinstance(body, dict) else None
        # It becomes a header: anything else than visible ASCII cannot be a token and could not be sent.
        if not isinstance(text, str) or not text or not all("!" <= letter <= "~" for letter in text):
            raise UnavailableError(
                f"token request: {self._endpoints.token_url} answered {response.status_code} without a token; "
                "check the login host and that no proxy answers in its place",
                status=response.status_code,
            )
        life_s = body.get("expires_in")
        if isinstance(life_s, bool) or not isinstance(life_s, (int, float)) or not life_s > 0:
            life_s = DEFAULT_LIFE_S
        return text, float(life_s)


def _oauth_error(response: httpx.Response) -> str | None:
    try:
        body = response.json()
    except ValueError:
        return None
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, str) else None
