"""The access token: OAuth client credentials, renewed before it expires, shared by the REST calls and the feeds."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from connectors.errors import CredentialsError, GenesysError, UnavailableError
from connectors.genesys.client import Patience, explain, http_client, retrying, transient
from connectors.runtime.logs import get_logger
from connectors.runtime.tracing import span

if TYPE_CHECKING:
    from connectors.genesys.endpoints import Endpoints

__all__ = ["Credentials", "TokenProvider", "credentials_from_environment"]


# The shortest life that an OAuth client can be given, for an answer that does not tell.
DEFAULT_LIFE_S = 300.0
MARGIN_S = 60.0
MARGIN_RATIO = 0.1


@dataclass(frozen=True, slots=True)
class Credentials:
    """An OAuth client's id and secret; neither shows in its repr."""

    client_id: str = field(repr=False)
    client_secret: str = field(repr=False)


def credentials_from_environment(environ: Mapping[str, str]) -> Credentials:
    """Read `GENESYS_CLIENT_ID` and `GENESYS_CLIENT_SECRET`; raises `CredentialsError` naming what is missing."""
    names = ("GENESYS_CLIENT_ID", "GENESYS_CLIENT_SECRET")
    missing = [name for name in names if not environ.get(name, "").strip()]
    if missing:
        raise CredentialsError(
            f"{' and '.join(missing)} not set; export the id and secret of a Genesys OAuth client with the grant "
            "type Client Credentials (they are read from the environment only)"
        )
    return Credentials(*(environ[name].strip() for name in names))


@dataclass(frozen=True, slots=True)
class _Held:
    text: str = field(repr=False)
    renew_at: float
    fetched_at: float


class TokenProvider:
    """Hands out one access token to any number of threads and renews it before it expires.

    `now` is the clock (epoch seconds), `sleep` and `u` the waiting and the chance of the retries. Whoever asks while
    a renewal is under way waits for it: there is never more than one request for a token at a time.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        credentials: Credentials,
        *,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        u: Callable[[], float] = random.random,
    ) -> None:
        self._endpoints = endpoints
        self._credentials = credentials
        self._patience = patience
        self._now = now
        self._sleep = sleep
        self._u = u
        self._client = http_client(patience)
        self._lock = threading.Lock()
        self._held: _Held | None = None

    def token(self) -> str:
        """A token that is good for a while yet (60 s, or a tenth of its life if that is less).

        Raises `CredentialsError`, `AccessDeniedError`, `UnavailableError` after bounded retries, or `GenesysError`.
        """
        held = self._held
        if held is None or self._now() >= held.renew_at:
            with self._lock:
                held = self._held
                if held is None or self._now() >= held.renew_at:
                    held = self._held = self._fetch()
        return held.text

    def renew(self, rejected: str) -> str:
        """A token other than `rejected`, which Genesys answered with 401; fetches one unless somebody already did.

        Raises what `token` raises.
        """
        with self._lock:
            if self._held is None or self._held.text == rejected:
                self._held = self._fetch()
            return self._held.text

    @property
    def fetched_at(self) -> float | None:
        """When the token that is held was asked for, in epoch seconds; None before the first."""
        held = self._held
        return None if held is None else held.fetched_at

    def close(self) -> None:
        """Close the HTTP client."""
        self._client.close()

    def _fetch(self) -> _Held:
        asked_at = self._now()
        try:
            response = retrying(
                self._post,
                what="token",
                repeatable=transient,
                patience=self._patience,
                now=self._now,
                sleep=self._sleep,
                u=self._u,
            )
        except (httpx.HTTPStatusError, httpx.RequestError) as failure:
            raise self._refusal(failure) from failure
        text, life_s = self._read(response)
        get_logger(__name__).info("token_renewed", life_s=life_s)
        return _Held(text, asked_at + life_s - min(MARGIN_S, life_s * MARGIN_RATIO), asked_at)

    def _post(self) -> httpx.Response:
        with span("genesys token", http_request_method="POST", url_full=self._endpoints.token_url):
            return self._client.post(
                self._endpoints.token_url,
                data={"grant_type": "client_credentials"},
                auth=httpx.BasicAuth(self._credentials.client_id, self._credentials.client_secret),
            ).raise_for_status()

    def _refusal(self, failure: httpx.HTTPStatusError | httpx.RequestError) -> GenesysError:
        if not isinstance(failure, httpx.HTTPStatusError) or failure.response.status_code not in {400, 401}:
            return explain(failure, what="token request", endpoints=self._endpoints)
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
        """The token and its life in seconds; raises `UnavailableError` if this is no token answer."""
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
