"""The configuration of feeds: `[[feed]]`, `[feed]`, `[feed.defaults]`, `[audiohook]`, and what becomes of it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from connectors.errors import ConfigurationError, CredentialsError
from connectors.format.signals import signals_of
from connectors.genesys.auth import Credentials, TokenProvider
from connectors.genesys.client import RequestBudget, budget_of
from connectors.genesys.endpoints import Endpoints
from connectors.genesys.feeds.notifications.feed import NotificationsFeed
from connectors.genesys.feeds.voice_events import VoiceEventsFeed
from connectors.genesys.simulator.connection import Answer
from connectors.genesys.simulator.faults import parse_faults
from connectors.genesys.simulator.notifications import NotificationsSimulator
from connectors.genesys.simulator.server import running
from connectors.genesys.simulator.telephony import ORGANISATION_ID
from connectors.journal.writer import Journal
from connectors.state.audit import AuditLog
from flows.commands.check import check_online
from flows.feeds import feeds_of
from flows.monitoring.instruments import Instruments
from flows.settings.feeds import event_keys
from flows.settings.loading import parse_settings
from flows.settings.models import Settings, audiohook_keys
from flows.settings.warnings import warnings_of
from tests.support.cli import environ
from tests.support.genesys_server import RestServer
from tests.support.tape import until

SECRET = "TXlTdXBlclNlY3JldEtleVRlbGxOby0xITJAMyM0JDU="
HOOK = "[feed]\nkind = 'audiohook'\n[audiohook]\napi_keys = ['SGVsbG8=', 'SGVsbG8']\n"


def parsed(toml: str, variables: Mapping[str, str] | None = None) -> Settings:
    return parse_settings(tomllib.loads(toml), "test", variables or {})


def mistakes_in(toml: str, variables: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parsed(toml, variables)
    return sorted(caught.value.mistakes)


def test_without_feeds() -> None:
    """Without any, there is the voice event feed, which needs interceptors."""
    assert parsed("").feeds == ()
    assert parsed("").uses_interceptors


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("[feed]", [("voice-events", "voice-events")]),
        ("[feed]\nkind = 'notifications'\nqueues = ['q']", [("notifications", "notifications")]),
        (
            (
                "[[feed]]\nkind = 'notifications'\nname = 'a'\nusers = ['u']\n[[feed]]\n[[feed]]\nkind='audiohook'\n"
                "[audiohook]\napi_keys = ['k']"
            ),
            [("notifications", "a"), ("voice-events", "voice-events"), ("audiohook", "audiohook")],
        ),
    ],
)
def test_kinds_and_names(toml: str, expected: list[tuple[str, str]]) -> None:
    """A feed is of the contract's kind unless it says otherwise, and called like its kind."""
    settings = parsed(toml)
    assert [(feed.kind, feed.name) for feed in settings.feeds] == expected
    assert settings.uses_interceptors == any(kind == "voice-events" for kind, _ in expected)


def test_limits() -> None:
    """A feed's limits are its own, then those of the defaults, then the built-in ones."""
    settings = parsed(
        "[defaults]\nmax_latency_ms = 200\nqa_callback_url = 'https://qa.example.com/a'\n"
        "[[feed]]\nkind = 'notifications'\nqueues = ['q']\n"
        "[feed.defaults]\nmax_latency_ms = 600\n"
        "[[feed]]\nkind = 'notifications'\nname = 'b'\nqueues = ['q']\n"
    )
    assert settings.limits_of(settings.feeds[0]) == {
        "max_latency_ms": 600.0,
        "packet_loss_threshold": 0.02,
        "qa_callback_url": "https://qa.example.com/a",
    }
    assert settings.limits_of(settings.feeds[1])["max_latency_ms"] == 200


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        (
            "[[feed]]\nkind = 'x'",
            ['feed[0].kind: must be "voice-events", "notifications", "audiohook", "eventbridge" or "kafka", not "x"'],
        ),
        (
            "[feed]\nkind = 'notifications'\nqueue = ['a']\nqueues = ['a']",
            ["feed.queue: unknown key (did you mean queues?)"],
        ),
        (
            "[feed]\nkind = 'notifications'",
            ["feed.conversations: one of conversations, queues, users and topics must name what to listen for"],
        ),
        (
            "[feed]\nkind = 'notifications'\nqueues = ['a*b', 'c']",
            ['feed.queues[0]: must be an id or a name of 1 to 100 characters, without *, not "a*b"'],
        ),
        ("[feed]\nkind = 'notifications'\nqueues = ['a', 'a']", ["feed.queues: must not name one twice"]),
        ("[feed]\nsweep = true", ['feed.sweep: belongs to kind = "notifications", not to "voice-events"']),
        (
            "[feed]\nmedia_statistics = true",
            ['feed.media_statistics: belongs to kind = "notifications", not to "voice-events"'],
        ),
        ("[feed]\nenrich = true", ['feed.enrich: belongs to kind = "notifications", not to "voice-events"']),
        (
            "[feed]\n[feed.defaults]\nmax_latency_ms = 100",
            ["feed.defaults: the limits of a voice-events feed are those of [[interceptor]] and [defaults]"],
        ),
        (
            "[feed]\nkind = 'notifications'\nusers = ['u']\n[feed.defaults]\nmax_latency_ms = 20\nfoo = 1",
            [
                "feed.defaults.foo: unknown key",
                "feed.defaults.max_latency_ms: 20 is below 50 (allowed: 50 to 10000)",
            ],
        ),
        (
            "[[feed]]\n[[feed]]\n[[feed]]\nname = 'a b'",
            [
                "feed[1].name: is the name of feed[0] already; give each a name of its own",
                'feed[2].name: must be a name of letters, digits, dots, - and _ (64 at most), not "a b"',
            ],
        ),
        (
            "[[feed]]\nkind = 'audiohook'\n[[feed]]\nkind = 'audiohook'\nname = 'b'",
            [
                "audiohook.api_keys: must hold a key: a feed of kind audiohook needs one",
                'feed[1].kind: feed[0] is "audiohook" already, and there can be only one',
            ],
        ),
        ("feed = 'x'", ['feed: must be a list, not "x"']),
        ("feed = ['x']", ['feed[0]: must be a table, not "x"']),
        (
            "[audiohook]\nlisten = 'x:99999'",
            ['audiohook.listen: must be a host and a port like 127.0.0.1:8443, not "x:99999"'],
        ),
        (
            "[audiohook]\nlisten = '1.2.3:4'",
            ['audiohook.listen: must be a host and a port like 127.0.0.1:8443, not "1.2.3:4"'],
        ),
        ("[audiohook]\npath = 'x'", ["audiohook.path: must be a path that begins with /, without spaces, ? and #"]),
        ("[audiohook]\ntls_cert = 'a'", ["audiohook.tls_key: is missing, and tls_cert is of no use without it"]),
        ("[audiohook]\ntls_key = 'a'", ["audiohook.tls_key: is of no use without tls_cert, which is missing"]),
        (
            "[audiohook]\napi_keys = ['a b']",
            ["audiohook.api_keys[0]: must be an API key: letters, digits and + / _ -, with at most two = at its end"],
        ),
        (
            "[audiohook]\nclient_secret = 'hunter2'",
            ["audiohook.client_secret: is read from VOICEWATCH_AUDIOHOOK_SECRETS in the environment, and nowhere else"],
        ),
    ],
)
def test_a_mistake_names_its_key(toml: str, expected: list[str]) -> None:
    """Every mistake is reported at once, with its key as its author wrote it."""
    assert mistakes_in(toml) == expected


def test_too_many_topics() -> None:
    """What 20 channels cannot hold is said before anything runs."""
    ids = [f"q{number}" for number in range(20_001)]
    assert mistakes_in(f"[feed]\nkind = 'notifications'\nqueues = {ids}") == [
        "feed.queues: the feed would need 20001 topics (allowed: 20000); name fewer ids"
    ]


def test_topics_of_the_platform() -> None:
    """Topics count among those that channels hold; only those that voicewatch reads are accepted, of notifications."""
    operations = "v2.operations.events.o-1"
    feed = "[feed]\nkind = 'notifications'\nqueues = ['q']\n"
    assert parsed(f"{feed}topics = ['{operations}']").feeds[0].topics == (operations,)
    assert parsed(f"[feed]\nkind = 'notifications'\ntopics = ['{operations}']").feeds[0].queues == ()
    edge = "v2.telephony.providers.edges.e-1"
    assert parsed(f"{feed}topics = ['{edge}']").feeds[0].topics == (edge,)
    for wrong in (
        "v2.operations.events.{id}",
        "v2.telephony.providers.edges.trunks",
        f"{edge}.x",
        "v2.users.u.presence",
        operations + "\\n",
    ):
        (mistake,) = mistakes_in(f'{feed}topics = ["{wrong}"]')
        assert mistake.startswith("feed.topics[0]: must be v2.operations.events.{id}, v2.telephony.providers.edges.")
    ids = [f"q{number}" for number in range(20_000)]
    assert mistakes_in(f"[feed]\nkind = 'notifications'\ntopics = ['{operations}']\nqueues = {ids}") == [
        "feed.queues: the feed would need 20001 topics (allowed: 20000); name fewer ids"
    ]
    assert mistakes_in(f"[[feed]]\ntopics = ['{operations}']") == [
        'feed[0].topics: belongs to kind = "notifications", not to "voice-events"'
    ]


def test_variables() -> None:
    """The `[audiohook]` table can be set by variables; the secrets are not a setting; the list of feeds has none."""
    variables = {
        "VOICEWATCH_AUDIOHOOK_LISTEN": "[::1]:8443",
        "VOICEWATCH_AUDIOHOOK__API_KEYS": '["k"]',
        "VOICEWATCH_AUDIOHOOK_SECRETS": "k=",
    }
    settings = parsed("[feed]\nkind = 'audiohook'", variables)
    assert settings.audiohook.address == ("::1", 8443)
    assert settings.audiohook.api_keys == ("k",)
    assert mistakes_in("", {"VOICEWATCH_FEED_KIND": "x"}) == ["VOICEWATCH_FEED_KIND: unknown variable"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"SGVsbG8=={SECRET},SGVsbG8=", {"SGVsbG8=": b"MySuperSecretKeyTellNo-1!2@3#4$5", "SGVsbG8": None}),
        (
            f" SGVsbG8={SECRET.rstrip('=')} , SGVsbG8==",
            {"SGVsbG8=": None, "SGVsbG8": b"MySuperSecretKeyTellNo-1!2@3#4$5"},
        ),
    ],
)
def test_audiohook_secrets(text: str, expected: dict[str, bytes | None]) -> None:
    """Keys and secrets may both end in an equals sign; an empty secret allows unsigned connections."""
    assert audiohook_keys(parsed(HOOK).audiohook, {"VOICEWATCH_AUDIOHOOK_SECRETS": text}) == expected


def test_bad_audiohook_secrets() -> None:
    """All mistakes at once, without repeating a secret; `check` warns of them."""
    variables = {"VOICEWATCH_AUDIOHOOK_SECRETS": "SGVsbG8=hunter2!,other=x"}
    with pytest.raises(ConfigurationError) as caught:
        audiohook_keys(parsed(HOOK).audiohook, variables)
    assert caught.value.where == "VOICEWATCH_AUDIOHOOK_SECRETS"
    said = [mistake.partition(";")[0] for mistake in caught.value.mistakes]
    assert said == [
        "entry 1 has no base64 text after its key",
        "entry 2 does not begin with one of audiohook.api_keys and a =",
        "has no entry for audiohook.api_keys[0]",
    ]
    assert "hunter2" not in str(caught.value)
    warnings = warnings_of(parsed(HOOK), variables)
    assert [line for line in warnings if line.startswith("VOICEWATCH_AUDIOHOOK_SECRETS: entry 1")]


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        (
            "[feed]\nkind = 'notifications'\nqueues = ['q']",
            "feed[0].defaults.qa_callback_url: is missing, so its alerts go nowhere",
        ),
        (
            "[feed]\nkind = 'notifications'\nqueues = ['q']\n[feed.defaults]\nqa_callback_url = 'http://127.0.0.1/x'",
            "feed[0].defaults.qa_callback_url: 127.0.0.1 is a private address: set delivery.allow_private_addresses",
        ),
        (
            "[defaults]\nqa_callback_url = 'https://qa.example.com'\n" + HOOK + "listen = '0.0.0.0:443'",
            "audiohook.listen: without tls_cert and tls_key, calls cross the network in clear text",
        ),
        (
            (
                "[audiohook]\npath = '/x'\n[alerts]\nunwatched = 'default'\n"
                "[defaults]\nqa_callback_url = 'https://qa.example.com'"
            ),
            "audiohook: without a feed of kind audiohook, nothing listens",
        ),
        (
            (
                "[feed]\nkind = 'notifications'\nqueues = ['q']\n[defaults]\nqa_callback_url = 'https://qa.example.com'\n"
                "[[interceptor]]\nconversation_id = 'c'\nleg_id = 'l'\ninterceptor_address = 'sip:a@b'"
            ),
            "interceptor: without a feed of kind voice-events, none is created",
        ),
    ],
)
def test_warnings(toml: str, expected: str) -> None:
    """What is allowed and probably not meant is said."""
    assert warnings_of(parsed(toml)) == [expected]


class TestMaking:
    """What a configuration becomes."""

    def made(self, toml: str, tmp_path: Path, variables: Mapping[str, str]) -> tuple[list[Any], Journal]:
        settings = parsed(toml)
        journal = Journal(tmp_path / "journal", settings=settings.flow_record())
        make = feeds_of(settings, variables, lambda name: tmp_path / f"{name}.sqlite3", Instruments())
        return list(make(AuditLog(tmp_path / "audit.jsonl"), journal)), journal

    def test_the_default_feed_writes_what_it_always_did(self, tmp_path: Path) -> None:
        """Without feeds in the configuration, records say nothing about where they come from."""
        (feed,), journal = self.made("", tmp_path, environ({}))
        assert isinstance(feed, VoiceEventsFeed)
        assert feed._recorder is journal

    def test_named_feeds(self, tmp_path: Path) -> None:
        """With feeds in the configuration, each writes its name."""
        toml = "[[feed]]\nname = 'a'\n[[feed]]\nkind = 'notifications'\nqueues = ['q']\nenrich = true"
        feeds, journal = self.made(toml, tmp_path, environ({}))
        assert [type(feed) for feed in feeds] == [VoiceEventsFeed, NotificationsFeed]
        feeds[0]._recorder.frame(b'{"event":"x","entity":{"id":"c"},"timestamp":1}')
        journal.close()
        assert b'"via":"a"' in (tmp_path / "journal" / "00000001.jsonl").read_bytes()

    def test_events_of_the_platform_are_recorded(self, tmp_path: Path) -> None:
        """A feed with the topic of operational events, subscribed at the simulator, records what is published there."""
        faults = parse_faults('[[fault]]\non = "platform"\nevent = "AUDIOHOOK-0001"\nafter_s = 0.05')
        topic = f"v2.operations.events.{ORGANISATION_ID}"
        segment = tmp_path / "journal" / "00000001.jsonl"
        with running(NotificationsSimulator(conversations=1, rate=1, faults=faults)) as simulator:
            toml = f"""
                genesys = {{base_url = "{simulator.base_url}"}}
                feed = {{kind = "notifications", conversations = ["c"], topics = ["{topic}"]}}
            """
            (feed,), journal = self.made(toml, tmp_path, environ({}))
            feed.start()
            try:
                until(lambda: b'"AUDIOHOOK-0001"' in segment.read_bytes())
            finally:
                feed.stop("test over")
                journal.close()
        (line,) = [line for line in segment.read_bytes().splitlines() if b"AUDIOHOOK-0001" in line]
        record = orjson.loads(line)
        assert record["frame"]["topicName"] == topic
        assert [(signal.rule, signal.conversation_id) for signal in signals_of(record["frame"])] == [
            ("PLATFORM_EVENT", None)
        ]

    def test_credentials(self, tmp_path: Path) -> None:
        """Only a feed that talks to Genesys needs credentials; AudioHook needs its secrets and its certificate."""
        with pytest.raises(CredentialsError):
            self.made("[feed]\nkind = 'notifications'\nqueues = ['q']", tmp_path, {})
        with pytest.raises(ConfigurationError, match="VOICEWATCH_AUDIOHOOK_SECRETS"):
            self.made(HOOK, tmp_path, {})
        variables = {"VOICEWATCH_AUDIOHOOK_SECRETS": "SGVsbG8==,SGVsbG8="}
        with pytest.raises(ConfigurationError, match=r"tls_cert: .*none: No such file"):
            self.made(f"{HOOK}tls_cert = '{tmp_path}/none'\ntls_key = '{tmp_path}/none'", tmp_path, variables)
        assert "nothing to try" in check_online(parsed(HOOK), {}).said

    def test_names_of_events_need_credentials(self, tmp_path: Path) -> None:
        """With `resolve_names`, a feed that makes no requests itself needs a client, and `check` tries it."""
        feed = "[[feed]]\nkind = 'eventbridge'\nlisten = '127.0.0.1:0'\n"
        assert "nothing to try" in check_online(parsed(feed), {}).said
        with running(NotificationsSimulator(conversations=1)) as simulator:
            named = f"{feed}[genesys]\nbase_url = '{simulator.base_url}'\nresolve_names = true\n"
            with pytest.raises(CredentialsError):
                self.made(named, tmp_path, {})
            with pytest.raises(CredentialsError):
                check_online(parsed(named), {})
            simulator.script("users", Answer(403, {"message": "no", "code": "missing.permissions", "status": 403}))
            found = check_online(parsed(named), {"GENESYS_CLIENT_ID": "id", "GENESYS_CLIENT_SECRET": "secret"})
        assert found.said == "online: token received"
        [problem] = found.problems
        assert "names of agents cannot be looked up (403)" in problem


class TestEventBridge:
    """`kind = "eventbridge"`."""

    def test_mistakes(self) -> None:
        """The address is required, a key off loopback, both TLS files or none; other kinds have none of the keys."""
        assert mistakes_in("[[feed]]\nkind = 'eventbridge'") == [
            "feed[0].listen: give either listen, where events are posted to, or queue_url, the queue to read"
        ]
        assert mistakes_in(
            "[[feed]]\nkind = 'eventbridge'\nlisten = '0.0.0.0:8444'\ntls_cert = 'x'\nheader = 'a b'"
        ) == [
            'feed[0].header: must be the name of an HTTP header like X-Api-Key, not "a b"',
            "feed[0].key_env: is missing: 0.0.0.0:8444 is not loopback, so requests must hold a key",
            "feed[0].tls_key: is missing, and tls_cert is of no use without it",
        ]
        assert mistakes_in("[[feed]]\nkind = 'audiohook'\nlisten = 'x:1'\n[audiohook]\napi_keys = ['a']") == [
            'feed[0].listen: belongs to kind = "eventbridge", not to "audiohook"'
        ]

    def test_keys(self) -> None:
        """Several keys are accepted during a change, and no message repeats one."""
        (feed,) = parsed("[[feed]]\nkind = 'eventbridge'\nlisten = '0.0.0.0:8444'\nkey_env = 'BUS'").feeds
        assert event_keys(feed, {"BUS": "0123456789abcdef, 0123456789ABCDEF"}) == (
            "0123456789abcdef",
            "0123456789ABCDEF",
        )
        for value in ("", "too-short", "0123456789abcdefé"):
            with pytest.raises(ConfigurationError) as caught:
                event_keys(feed, {"BUS": value})
            assert not value or value not in str(caught.value)

    def test_warnings(self) -> None:
        """`check` reports a key that is missing, and clear text."""
        settings = parsed("[[feed]]\nkind = 'eventbridge'\nlisten = '0.0.0.0:8444'\nkey_env = 'BUS'")
        warnings = "\n".join(warnings_of(settings, {}))
        assert "BUS is not set in the environment" in warnings
        assert "cross the network in clear text" in warnings


class TestBudget:
    """Requests a minute."""

    def test_what_can_wait_waits(self) -> None:
        """A reserve is left to what cannot wait, and a minute later there is room again."""
        now = [1000.0]
        budget = RequestBudget(10, now=lambda: now[0])
        for _ in range(8):
            assert budget.wait_s(reserve=2) == 0
            budget.spend()
            now[0] += 1
        assert budget.wait_s(reserve=2) == 52
        assert budget.wait_s() == 0
        now[0] += 52
        assert budget.wait_s(reserve=2) == 0
        budget.hold(5)
        assert budget.wait_s() == 5

    def test_one_for_a_region(self) -> None:
        """API and login host of a region share a budget, and no other does."""
        budget = budget_of("https://api.mypurecloud.ie/api/v2/x")
        assert budget is budget_of("https://login.mypurecloud.ie/oauth/token")
        assert budget is not budget_of("https://api.mypurecloud.de")

    def test_every_request_counts(self) -> None:
        """Whatever asks the platform for something, such as a token, takes it from the budget of its region."""
        with RestServer() as server:
            assert budget_of(server.url).wait_s(reserve=299) == 0
            tokens = TokenProvider(Endpoints.from_base_url(server.url), Credentials("id", "secret"))
            tokens.token()
            tokens.close()
            assert budget_of(server.url).wait_s(reserve=299) > 50
            assert budget_of(server.url).wait_s(reserve=298) == 0


def test_each_feed_has_a_limit_of_stalls() -> None:
    """Off for notifications unless it is set there; 0 turns it off; a feed without one has that of `[alerts]`."""
    toml = (
        "[alerts]\nstalled_after_s = 30\n[[feed]]\nname = 'shared'\n[[feed]]\nname = 'own'\nstalled_after_s = 5\n"
        "[[feed]]\nname = 'off'\nstalled_after_s = 0\n[[feed]]\nkind = 'notifications'\nqueues = ['q']\n"
        "[[feed]]\nkind = 'notifications'\nname = 'chatty'\nqueues = ['q']\nstalled_after_s = 600\n"
    )
    assert parsed(toml).flow_record()["feeds"] == {
        "own": {"stalled_after_s": 5.0},
        "off": {"stalled_after_s": None},
        "notifications": {"stalled_after_s": None},
        "chatty": {"stalled_after_s": 600.0},
    }
    assert "feeds" not in parsed("[feed]\nkind = 'notifications'\nqueues = ['q']\n").flow_record()
    assert mistakes_in("[feed]\nstalled_after_s = 90000") == [
        "feed.stalled_after_s: 90000 is above 86400 (allowed: 0.001 to 86400)"
    ]
