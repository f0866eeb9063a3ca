"""Endpoints, the token and the REST calls, against a scripted server on a real socket."""

from __future__ import annotations

import base64
import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from connectors.errors import (
    AccessDeniedError,
    CredentialsError,
    GenesysError,
    OutcomeUnknownError,
    SaturationError,
    UnavailableError,
)
from connectors.genesys.auth import Credentials, TokenProvider
from connectors.genesys.client import Clock, GenesysClient, RetryPolicy
from connectors.genesys.credentials import credentials_from_environment
from connectors.genesys.endpoints import Endpoints
from connectors.genesys.interceptors import GenesysPlatform
from tests.support.genesys_server import CREATE, DROP, HANG, LOAD, TOKEN, Answer, RestServer

CREDENTIALS = Credentials("the-client-id", "the-client-secret")
BUSY = Answer(429, {"message": "Rate limit exceeded"}, {"Retry-After": "7"})


@pytest.fixture
def server() -> Iterator[RestServer]:
    with RestServer() as running:
        yield running


class Bench:
    """A token provider and a platform whose waits are noted instead of waited."""

    def __init__(self, base_url: str, *, timeout_s: float = 10.0, attempts: int = 4, sdk: bool = True) -> None:
        self.waits: list[float] = []
        self.clock = 1_700_000_000.0
        self.ahead_s = 0.0
        policy = RetryPolicy(timeout_s=timeout_s, attempts=attempts)
        endpoints = Endpoints.from_base_url(base_url)
        clock = Clock(lambda: self.clock + self.ahead_s, lambda: self.clock, self.waits.append, lambda: 1.0)
        self.tokens = TokenProvider(endpoints, CREDENTIALS, policy=policy, clock=clock)
        self.platform = GenesysPlatform(GenesysClient(endpoints, self.tokens, policy=policy, clock=clock, sdk=sdk))


def refused_url() -> str:
    """Return a URL without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


class TestEndpoints:
    def test_region_host(self) -> None:
        """The login host is the API host with login instead of api, and events are wss on the API host."""
        endpoints = Endpoints.from_base_url("https://api.usw2.pure.cloud/")
        assert endpoints.token_url == "https://login.usw2.pure.cloud/oauth/token"
        assert endpoints.api_url == "https://api.usw2.pure.cloud"
        assert endpoints.events_url == "wss://api.usw2.pure.cloud/api/v2/events/conversations/voice"

    @pytest.mark.parametrize("base_url", ["http://127.0.0.1:8080", "http://myapi.example.com:8080"])
    def test_own_origin(self, base_url: str) -> None:
        """A host that does not begin with api. is its own login host, and http means ws."""
        endpoints = Endpoints.from_base_url(base_url)
        assert endpoints.token_url == base_url + "/oauth/token"
        assert endpoints.events_url == base_url.replace("http", "ws") + "/api/v2/events/conversations/voice"

    def test_overrides(self) -> None:
        """Every host and path can be set."""
        endpoints = Endpoints.from_base_url(
            "https://api.example.com",
            login_url="https://id.example.com",
            events_url="wss://events.example.com/x",
            token_path="/t",
            load_path="/l",
            interceptor_path="/i/{conversationId}",
        )
        assert endpoints.token_url == "https://id.example.com/t"
        assert endpoints.events_url == "wss://events.example.com/x"
        assert endpoints.load_path == "/l"
        assert endpoints.interceptor_path("c") == "/i/c"

    @pytest.mark.parametrize(
        ("conversation_id", "segment"),
        [("a b/c?d#e%2F", "a%20b%2Fc%3Fd%23e%252F"), ("é", "%C3%A9"), ("..", "%2E%2E"), ("{x}", "%7Bx%7D")],
    )
    def test_conversation_is_one_segment(self, conversation_id: str, segment: str) -> None:
        """An id is opaque text and cannot leave its path segment."""
        path = Endpoints.from_base_url().interceptor_path(conversation_id)
        assert path == f"/api/v2/conversations/voice/{segment}/interceptor"

    @pytest.mark.parametrize(
        "base_url", ["ftp://x", "api.mypurecloud.com", "https://", "https://u:p@x", "http://x:99999", "https://x?a"]
    )
    def test_bad_base_url(self, base_url: str) -> None:
        """A base URL that cannot be one is refused, naming the key."""
        with pytest.raises(ValueError, match="base_url"):
            Endpoints.from_base_url(base_url)


class TestCredentials:
    @pytest.mark.parametrize(
        ("environ", "named"),
        [
            ({}, "GENESYS_CLIENT_ID and GENESYS_CLIENT_SECRET"),
            ({"GENESYS_CLIENT_ID": "x"}, "GENESYS_CLIENT_SECRET"),
            ({"GENESYS_CLIENT_ID": " ", "GENESYS_CLIENT_SECRET": "y"}, "GENESYS_CLIENT_ID"),
        ],
    )
    def test_missing(self, environ: dict[str, str], named: str) -> None:
        """What is missing from the environment is named."""
        with pytest.raises(CredentialsError, match=f"^{named} not set"):
            credentials_from_environment(environ)

    def test_never_shown(self) -> None:
        """Neither the id nor the secret is in a repr."""
        credentials = credentials_from_environment({"GENESYS_CLIENT_ID": "abc", "GENESYS_CLIENT_SECRET": "xyz"})
        assert credentials == Credentials("abc", "xyz")
        assert "abc" not in repr(credentials)
        assert "xyz" not in repr(credentials)


class TestToken:
    def test_request(self, server: RestServer) -> None:
        """The token is asked for with Basic auth and the client credentials grant."""
        assert Bench(server.url).tokens.token() == "secret-token-1"
        request = server.last(TOKEN)
        assert request.method == "POST"
        assert request.path == "/oauth/token"
        assert request.headers["content-type"] == "application/x-www-form-urlencoded"
        assert request.body == b"grant_type=client_credentials"
        assert base64.b64decode(request.headers["authorization"].removeprefix("Basic ")) == (
            b"the-client-id:the-client-secret"
        )

    @pytest.mark.parametrize(("life_s", "margin_s"), [(86400, 60), (300, 30)])
    def test_renewed_before_expiry(self, server: RestServer, life_s: int, margin_s: int) -> None:
        """A token is kept until its margin begins and replaced then."""
        server.script(TOKEN, Answer(body={"access_token": "first", "expires_in": life_s}))
        bench = Bench(server.url)
        assert bench.tokens.token() == "first"
        bench.clock += life_s - margin_s - 1
        assert bench.tokens.token() == "first"
        bench.clock += 1
        assert bench.tokens.token() == "secret-token-1"

    @pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
    def test_renewed_in_time_after_a_clock_step(self, server: RestServer, step_s: float) -> None:
        """A step of the system clock renews a token neither later nor earlier."""
        server.script(TOKEN, Answer(body={"access_token": "first", "expires_in": 300}))
        bench = Bench(server.url)
        assert bench.tokens.token() == "first"
        bench.ahead_s = step_s
        bench.clock += 269
        assert bench.tokens.token() == "first"
        assert bench.tokens.age_s == 269
        bench.clock += 1
        assert bench.tokens.token() == "secret-token-1"

    def test_renew_once(self, server: RestServer) -> None:
        """A rejected token is replaced, and a second report of the same one changes nothing."""
        tokens = Bench(server.url).tokens
        first = tokens.token()
        assert tokens.renew(first) == "secret-token-2"
        assert tokens.renew(first) == "secret-token-2"
        assert tokens.token() == "secret-token-2"
        assert server.count(TOKEN) == 2

    def test_one_request_for_many_threads(self, server: RestServer) -> None:
        """Threads that need a token at the same time share one request."""
        tokens = Bench(server.url).tokens
        together = threading.Barrier(8)
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda _: (together.wait(10), tokens.token())[1], range(8)))
        assert set(got) == {"secret-token-1"}
        assert server.count(TOKEN) == 1

    def test_retries(self, server: RestServer) -> None:
        """429, 5xx and a dropped connection are retried, with the wait that was asked for or backoff."""
        server.script(TOKEN, BUSY, Answer(503), DROP)
        bench = Bench(server.url)
        assert bench.tokens.token() == "secret-token-1"
        assert bench.waits == [7.0, 1.0, 2.0]

    def test_bounded(self, server: RestServer) -> None:
        """After the last attempt the error says what to do, and has the status."""
        server.script(TOKEN, *[Answer(502)] * 9)
        with pytest.raises(UnavailableError, match=r"502.*https://status\.mypurecloud\.com.*region") as caught:
            Bench(server.url).tokens.token()
        assert caught.value.status == 502
        assert server.count(TOKEN) == 4

    def test_retry_after_is_capped(self, server: RestServer) -> None:
        """A server cannot ask for an hour."""
        server.script(TOKEN, Answer(429, headers={"Retry-After": "3600"}))
        bench = Bench(server.url)
        bench.tokens.token()
        assert bench.waits == [RetryPolicy().retry_after_cap_s]

    @pytest.mark.parametrize(
        ("answer", "fix"),
        [
            (Answer(400, {"error": "invalid_client", "description": "x"}), "GENESYS_CLIENT_ID"),
            (Answer(401, {"message": "x"}), "GENESYS_CLIENT_ID"),
            (Answer(400, {"error": "unauthorized_client"}), "grant type"),
            (Answer(400, b"<html>"), "grant type"),
        ],
    )
    def test_refused(self, server: RestServer, answer: Answer, fix: str) -> None:
        """A refused client is an error at once that names the fix and no secret."""
        server.script(TOKEN, answer)
        with pytest.raises(CredentialsError, match=fix) as caught:
            Bench(server.url).tokens.token()
        assert "the-client" not in str(caught.value)
        assert server.count(TOKEN) == 1

    @pytest.mark.parametrize(
        "answer", [Answer(200, b"<html>hello"), Answer(body={}), Answer(body={"access_token": "a\r\nb"}), Answer(302)]
    )
    def test_no_token_in_the_answer(self, server: RestServer, answer: Answer) -> None:
        """A response that is not a token response is an error, not a header."""
        server.script(TOKEN, answer)
        with pytest.raises(GenesysError, match="token request"):
            Bench(server.url).tokens.token()

    def test_refused_connection(self) -> None:
        """Without a listener the error names the host, the region and the status page."""
        with pytest.raises(UnavailableError, match=r"no answer from 127\.0\.0\.1 .*region.*status"):
            Bench(refused_url()).tokens.token()

    def test_never_logged(self, server: RestServer, caplog: pytest.LogCaptureFixture) -> None:
        """No log record of any level, ours or of the HTTP libraries, has the secret or the token."""
        server.script(TOKEN, BUSY)
        with caplog.at_level(logging.DEBUG):
            tokens = Bench(server.url).tokens
            tokens.renew(tokens.token())
        said = caplog.text + repr(tokens) + repr(vars(tokens))
        assert "secret-token" not in said
        assert "the-client-secret" not in said
        assert base64.b64encode(b"the-client-id:the-client-secret").decode() not in said


class TestLoadCheck:
    def test_request(self, server: RestServer) -> None:
        """The load check is the contract's GET with the token, and counts the entities."""
        server.script(LOAD, Answer(body={"entities": [{}, {}, {}]}))
        assert Bench(server.url).platform.check_load(4) == 3
        request = server.last(LOAD)
        assert (request.method, request.path) == ("GET", "/api/v2/conversations/voice?conversationType=voice")
        assert request.headers["authorization"] == "Bearer secret-token-1"

    def test_saturated(self, server: RestServer) -> None:
        """At the limit the check refuses and names both numbers."""
        server.script(LOAD, Answer(body={"entities": [{}] * 5}))
        with pytest.raises(SaturationError, match=r"bandwidth saturation: 5 .* 5"):
            Bench(server.url).platform.check_load(5)

    def test_retries(self, server: RestServer) -> None:
        """It is repeated after 429, 5xx and a dropped connection."""
        server.script(LOAD, BUSY, Answer(500), DROP)
        bench = Bench(server.url)
        assert bench.platform.active_conversations() == []
        assert bench.waits == [7.0, 1.0, 2.0]

    def test_renews_once_after_401(self, server: RestServer) -> None:
        """A 401 costs one renewal and no wait."""
        server.script(LOAD, Answer(401))
        bench = Bench(server.url)
        assert bench.platform.active_conversations() == []
        assert server.last(LOAD).headers["authorization"] == "Bearer secret-token-2"
        assert bench.waits == []

    def test_401_again(self, server: RestServer) -> None:
        """A fresh token that is refused too is an error about the client's grant type, after two requests."""
        server.script(LOAD, Answer(401), Answer(401), Answer(401))
        with pytest.raises(CredentialsError, match="Client Credentials") as caught:
            Bench(server.url).platform.active_conversations()
        assert caught.value.status == 401
        assert server.count(LOAD) == 2

    def test_403(self, server: RestServer) -> None:
        """A 403 names role and scope, in Genesys' words but without the token if they quote it."""
        server.script(LOAD, Answer(403, {"message": "missing\nconversation:communication:view for secret-token-1"}))
        with pytest.raises(AccessDeniedError, match=r"missing conversation:communication:view.*role.*scope") as caught:
            Bench(server.url).platform.active_conversations()
        assert "secret-token" not in str(caught.value)

    def test_timeout(self, server: RestServer) -> None:
        """A server that never answers costs the timeout for each attempt, no more."""
        server.script(LOAD, HANG, HANG)
        with pytest.raises(UnavailableError, match="ReadTimeout"):
            Bench(server.url, timeout_s=0.2, attempts=2).platform.active_conversations()
        assert server.count(LOAD) == 2

    @pytest.mark.parametrize("body", [b"<html>", {}, [], {"entities": None}])
    def test_no_list(self, server: RestServer, body: object) -> None:
        """An answer without a list of entities is an error, not zero conversations."""
        server.script(LOAD, Answer(body=body))
        with pytest.raises(GenesysError, match="no list of entities"):
            Bench(server.url).platform.active_conversations()

    def test_refused_later(self, server: RestServer) -> None:
        """A 404 names the API host."""
        server.script(LOAD, Answer(404))
        with pytest.raises(GenesysError, match=rf"refused \(404\).*{server.url}") as caught:
            Bench(server.url).platform.active_conversations()
        assert type(caught.value) is GenesysError


class TestCreate:
    def test_request(self, server: RestServer) -> None:
        """A create is a POST of the body as JSON, and returns the answer."""
        answer = Bench(server.url).platform.create_interceptor("a/b", {"interceptorType": "SIP", "x": [1, None]})
        assert answer == {"id": "interceptor-1", "interceptorType": "SIP", "x": [1, None]}
        request = server.last(CREATE)
        assert (request.method, request.path) == ("POST", "/api/v2/conversations/voice/a%2Fb/interceptor")
        assert request.headers["content-type"] == "application/json"
        assert json.loads(request.body) == {"interceptorType": "SIP", "x": [1, None]}

    def test_dots_stay(self, server: RestServer) -> None:
        """The HTTP library does not resolve an id that looks like a parent directory."""
        Bench(server.url).platform.create_interceptor("..", {"a": 1})
        assert server.last(CREATE).path == "/api/v2/conversations/voice/%2E%2E/interceptor"

    def test_empty_answer(self, server: RestServer) -> None:
        """An empty 2xx answer is a success."""
        server.script(CREATE, Answer(204, b""))
        assert Bench(server.url).platform.create_interceptor("c", {"a": 1}) == {}

    def test_turned_away(self, server: RestServer) -> None:
        """429 and 503 are repeated, and a 401 in between is renewed once."""
        server.script(CREATE, BUSY, Answer(503), Answer(401))
        bench = Bench(server.url)
        assert bench.platform.create_interceptor("c", {"a": 1})["id"] == "interceptor-4"
        assert bench.waits == [7.0, 1.0]

    @pytest.mark.parametrize("status", [429, 503])
    def test_turned_away_for_good(self, server: RestServer, status: int) -> None:
        """When 429 or 503 stay, it surely was not created."""
        server.script(CREATE, *[Answer(status)] * 9)
        with pytest.raises(UnavailableError) as caught:
            Bench(server.url).platform.create_interceptor("c", {"a": 1})
        assert caught.value.status == status
        assert server.count(CREATE) == 4

    @pytest.mark.parametrize("answer", [DROP, Answer(500), Answer(502), Answer(504), Answer(408), Answer(200, b"<p>")])
    def test_unknown_outcome(self, server: RestServer, answer: Answer | str) -> None:
        """After anything that may have taken effect it is not sent again, the dropped connection included."""
        server.script(CREATE, answer)
        with pytest.raises(OutcomeUnknownError, match=r"conversation c: sent, but .* may have taken effect"):
            Bench(server.url).platform.create_interceptor("c", {"a": 1})
        assert server.count(CREATE) == 1

    def test_timeout(self, server: RestServer) -> None:
        """A create that is not answered in time may have happened."""
        server.script(CREATE, HANG)
        with pytest.raises(OutcomeUnknownError, match="no answer came in time"):
            Bench(server.url, timeout_s=0.2).platform.create_interceptor("c", {"a": 1})
        assert server.count(CREATE) == 1

    @pytest.mark.parametrize(
        ("status", "kind"), [(400, GenesysError), (403, AccessDeniedError), (404, GenesysError), (302, GenesysError)]
    )
    def test_refused(self, server: RestServer, status: int, kind: type[GenesysError]) -> None:
        """A refusal is definite and not repeated."""
        server.script(CREATE, Answer(status, {"message": "no"}))
        with pytest.raises(kind, match='"no"') as caught:
            Bench(server.url).platform.create_interceptor("c", {"a": 1})
        assert type(caught.value) is kind
        assert server.count(CREATE) == 1

    def test_never_sent(self, server: RestServer) -> None:
        """A create whose connection is refused was never sent: unavailable, not unknown, and not repeated."""
        with_token = Bench(server.url)
        bench = Bench(refused_url())
        clock = Clock(sleep=bench.waits.append, u=lambda: 1.0)
        platform = GenesysPlatform(
            GenesysClient(Endpoints.from_base_url(refused_url()), with_token.tokens, clock=clock)
        )
        with pytest.raises(UnavailableError, match="ConnectError"):
            platform.create_interceptor("c", {"a": 1})
        assert bench.waits == []

    def test_never_logged(self, server: RestServer, caplog: pytest.LogCaptureFixture) -> None:
        """Not even at level DEBUG does the SDK or the HTTP library log the token."""
        with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "PureCloudPlatformClientV2"):
            Bench(server.url).platform.create_interceptor("c", {"a": 1})
        assert "secret-token" not in caplog.text


def test_sdk_is_not_imported_early() -> None:
    """Importing the connectors and the bootstrap does not import Genesys' SDK."""
    code = (
        "import sys, connectors.genesys.interceptors, connectors.genesys.feeds.voice_events, flows.commands.bootstrap;"
        "sys.exit('PureCloudPlatformClientV2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
