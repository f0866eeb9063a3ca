"""The configuration: what is accepted, what each mistake is called, and how the environment overrides it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from connectors.errors import ConfigurationError
from flows.settings.environment import tables_of
from flows.settings.loading import load_settings, parse_settings
from flows.settings.models import InterceptorSettings, Settings
from flows.settings.warnings import warnings_of

CONTRACT_EXAMPLE = """
[genesys]
base_url = "https://api.mypurecloud.com"
max_concurrent = 50

[windows]
length_s = 10
slide_s = 5

[alerts]
policy = "incident"
raise_n = 1
raise_m = 1
clear_ratio = 0.9
clear_after_s = 10
unwatched = "ignore"

[delivery]
timeout_s = 5
max_attempts = 8
allow_private_addresses = false   # callbacks to loopback or private ranges are refused unless true

[state]
dir = "state"                     # journal/, outbox/, recovery/, audit.jsonl

[defaults]                        # for every interceptor that does not say otherwise
qa_callback_url = "https://qa.example.com/alerts"

[[interceptor]]
conversation_id = "1a2b3c4d-5e6f-7g8h-9i0j-1k2l3m4n5o6p"
leg_id = "leg-9876543210"
interceptor_address = "sip:qa@monitoring.internal"
max_latency_ms = 120
packet_loss_threshold = 0.015
"""

CREDENTIALS_ADVICE = "is read from GENESYS_CLIENT_ID and GENESYS_CLIENT_SECRET in the environment, and nowhere else"

TOO_MANY_WINDOWS = "0.001 makes every frame part of 10000 windows (allowed: 1000); raise it, or lower length_s"

INTERCEPTOR = {
    "conversation_id": "c-1",
    "leg_id": "leg-1",
    "interceptor_address": "sip:qa@example.com",
    "qa_callback_url": "https://qa.example.com/alerts",
}


def parsed(toml: str, environ: Mapping[str, str] | None = None) -> Settings:
    return parse_settings(tomllib.loads(toml), "test", environ or {})


def mistakes_in(toml: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parsed(toml, environ)
    return list(caught.value.mistakes)


def interceptor_mistakes(**changes: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse_settings({"interceptor": [{**INTERCEPTOR, **changes}]}, "test")
    return list(caught.value.mistakes)


def test_contract_example() -> None:
    """The example of the contract is a valid configuration, and its values arrive."""
    config = parsed(CONTRACT_EXAMPLE)
    [interceptor] = config.interceptors
    assert interceptor.watch_record() == {
        "conversation_id": "1a2b3c4d-5e6f-7g8h-9i0j-1k2l3m4n5o6p",
        "leg_id": "leg-9876543210",
        "interceptor_address": "sip:qa@monitoring.internal",
        "audio_sampling_rate": 16000,
        "channel_matrix": ["mono", "stereo"],
        "transcription_enabled": False,
        "transcription_language": "en-US",
        "max_latency_ms": 120.0,
        "packet_loss_threshold": 0.015,
        "qa_callback_url": "https://qa.example.com/alerts",
    }
    assert config.state.dir == Path("state")
    assert warnings_of(config) == []


def test_an_empty_file_holds_the_defaults_of_the_contract() -> None:
    """Everything but the interceptors has a default, and the example shows exactly these."""
    example = tomllib.loads(CONTRACT_EXAMPLE)
    del example["interceptor"], example["defaults"]
    assert parsed("") == parse_settings(example, "test")


def test_flow_record() -> None:
    """The `settings` record holds windows and alerts as JSON, what is optional if it is set, defaults if they watch."""
    ignoring = parsed("").flow_record()
    assert ignoring == {
        "windows": {"length_s": 10.0, "slide_s": 5.0},
        "alerts": {
            "policy": "incident",
            "raise_n": 1,
            "raise_m": 1,
            "clear_ratio": 0.9,
            "clear_after_s": 10.0,
            "unwatched": "ignore",
        },
        "watch": {"forget_after_s": 21600.0},
    }
    watching = parsed('[alerts]\nunwatched = "default"\n[defaults]\nmax_latency_ms = 90').flow_record()
    assert watching["defaults"] == {
        "max_latency_ms": 90.0,
        "packet_loss_threshold": 0.02,
        "qa_callback_url": None,
    }
    assert json.loads(json.dumps(watching)) == watching
    optional = parsed('[windows]\ncodec = "g729a"\n[alerts]\nmos_below = 3.6\nstalled_after_s = 5').flow_record()
    assert optional["windows"] == ignoring["windows"] | {"codec": "g729a"}
    assert optional["alerts"] == ignoring["alerts"] | {"mos_below": 3.6, "stalled_after_s": 5.0}


def test_override_record() -> None:
    """It holds what the configuration sets, and the default of a key that is checked against one that it sets."""
    assert parsed("[defaults]\npacket_loss_threshold = 0.05").override_record() == {}
    given = parsed(
        "[windows]\nlength_s = 20\n[alerts]\nraise_m = 3\nclear_ratio = 0.5\n[groups]\nmin_conversations = 2"
    )
    assert given.override_record() == {
        "windows": {"length_s": 20.0, "slide_s": 5.0},
        "alerts": {"raise_n": 1, "raise_m": 3, "clear_ratio": 0.5},
        "groups": {"min_conversations": 2},
    }
    everybody = parsed('[alerts]\nunwatched = "default"\n[defaults]\nmax_latency_ms = 90\n[watch]\nforget_after_s = 60')
    assert everybody.override_record() == {
        "alerts": {"unwatched": "default"},
        "defaults": {"max_latency_ms": 90.0},
        "watch": {"forget_after_s": 60.0},
    }


def test_settings_are_immutable() -> None:
    """Nothing can be changed behind the back of who reads it."""
    config = parsed(CONTRACT_EXAMPLE)
    with pytest.raises(ValidationError):
        config.windows.length_s = 20.0  # type: ignore[misc]
    assert isinstance(config.interceptors, tuple)


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("[genesys]\nbas_url = 'x'", "genesys.bas_url: unknown key (did you mean base_url?)"),
        ("[genesis]\n", "genesis: unknown table (did you mean genesys?)"),
        ("raise_n = 1", "raise_n: unknown key"),
        ("[genesys]\n'base url' = 1", 'genesys."base url": unknown key (did you mean base_url?)'),
        ("genesys = 3", "genesys: must be a table, not 3"),
        (
            "[genesys]\nclient_id = 'abc'",
            f"genesys.client_id: {CREDENTIALS_ADVICE}",
        ),
        (
            "[delivery]\nsecret = 'whsec_abc'",
            "delivery.secret: is read from VOICEWATCH_CALLBACK_SECRET in the environment, and nowhere else",
        ),
        ("[genesys]\nmax_concurrent = 0", "genesys.max_concurrent: 0 is below 1 (allowed: 1 to 1000000)"),
        ("[genesys]\nmax_concurrent = '50'", 'genesys.max_concurrent: must be a whole number, not "50"'),
        ("[genesys]\nmax_concurrent = true", "genesys.max_concurrent: must be a whole number, not true"),
        ("[genesys]\nmax_concurrent = 50.5", "genesys.max_concurrent: must be a whole number, not 50.5"),
        (
            "[genesys]\nmax_concurrent = 0x" + "f" * 9000,
            "genesys.max_concurrent: a huge number is above 1000000 (allowed: 1 to 1000000)",
        ),
        ("[genesys]\nbase_url = 'api.example.com'", "genesys.base_url: must begin with http:// or https://"),
        ("[genesys]\nbase_url = 'https://'", "genesys.base_url: must name a host"),
        ("[genesys]\nbase_url = 'https://h/?a=1'", "genesys.base_url: must have neither a query nor a fragment"),
        ("[genesys]\nbase_url = 'https://h:http'", "genesys.base_url: is no URL: look at its host and its port"),
        ("[genesys]\nbase_url = 'https://300.1.1.1'", "genesys.base_url: is no URL: look at its host and its port"),
        ("[genesys]\nevents_url = 'https://h/events'", "genesys.events_url: must begin with ws:// or wss://"),
        (
            "[genesys]\nload_path = 'api/v2'",
            "genesys.load_path: must be a path that begins with /, without spaces, ? and #",
        ),
        (
            "[genesys]\ninterceptor_path = '/x'",
            "genesys.interceptor_path: must hold {conversationId} once: the id is put there",
        ),
        ("[genesys.interceptor]\nskil = 'x'", "genesys.interceptor.skil: unknown key (did you mean skill?)"),
        ("[genesys.interceptor]\ntitle = ''", "genesys.interceptor.title: must not be empty"),
        ("[windows]\nslide_s = 3", "windows.slide_s: 3 must divide length_s, which is 10"),
        ("[windows]\nlength_s = 7", "windows.slide_s: 5 must divide length_s, which is 7"),
        ("[windows]\nslide_s = 20", "windows.slide_s: 20 must divide length_s, which is 10"),
        ("[windows]\nslide_s = 0", "windows.slide_s: 0 is below 0.001 (allowed: 0.001 to 3600)"),
        ("[windows]\nlength_s = -10", "windows.length_s: -10 is below 0.001 (allowed: 0.001 to 3600)"),
        ("[windows]\nlength_s = 86400", "windows.length_s: 86400 is above 3600 (allowed: 0.001 to 3600)"),
        ("[windows]\nlength_s = nan", "windows.length_s: must be a number, not nan"),
        ("[windows]\nlength_s = inf", "windows.length_s: must be a number, not inf"),
        ("[windows]\nlength_s = 10:00:00", "windows.length_s: must be a number, not 10:00:00"),
        ("[windows]\nslide_s = 2.0005", "windows.slide_s: 2.0005 is not a whole number of milliseconds"),
        ("[windows]\nslide_s = 0.001", f"windows.slide_s: {TOO_MANY_WINDOWS}"),
        ("[alerts]\npolicy = 'all'", 'alerts.policy: must be "incident" or "frame", not "all"'),
        (
            "[alerts]\nraise_n = 3\nraise_m = 2",
            "alerts.raise_n: 3 must not exceed raise_m, which is 2",
        ),
        ('[windows]\ncodec = "opus"', 'windows.codec: must be "g711", "g711-no-plc" or "g729a", not "opus"'),
        ("[alerts]\nmos_below = 5", "alerts.mos_below: 5 is above 4.5 (allowed: 1 to 4.5)"),
        ("[alerts]\nstalled_after_s = 0", "alerts.stalled_after_s: 0 is below 0.001 (allowed: 0.001 to 86400)"),
        ("[alerts]\nclear_ratio = 1.5", "alerts.clear_ratio: 1.5 is above 1 (allowed: 0 to 1)"),
        ("[alerts]\nunwatched = true", 'alerts.unwatched: must be "ignore" or "default", not true'),
        ("[delivery]\nallow_private_addresses = 1", "delivery.allow_private_addresses: must be true or false, not 1"),
        ("[delivery]\ntimeout_s = 0", "delivery.timeout_s: 0 is below 0.1 (allowed: 0.1 to 120)"),
        ("[state]\ndir = ''", "state.dir: must not be empty"),
        ("[state]\ndir = 'a\tb'\nd = 1", "state.d: unknown key"),
        ("[state]\ndir = 3", "state.dir: must be a text in quotes, not 3"),
        ('[state]\ndir = "a\\u0000b"', "state.dir: must hold no NUL character"),
        ("[defaults]\nconversation_id = 'x'", "defaults.conversation_id: unknown key"),
        ("[defaults]\nmax_latency_ms = 20", "defaults.max_latency_ms: 20 is below 50 (allowed: 50 to 500)"),
        ("[interceptor]\nleg_id = 'x'", "interceptor: must be a list, not a table"),
        ("interceptor = [3]", "interceptor[0]: must be a table, not 3"),
        ("interceptors = []", "interceptors: unknown key (did you mean interceptor?)"),
    ],
)
def test_a_mistake_names_its_key_and_what_is_allowed(toml: str, expected: str) -> None:
    """Each mistake is one line: the key in the file's notation, the value, and what is allowed."""
    assert mistakes_in(toml) == [expected]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("conversation_id", "", "must not be empty"),
        ("conversation_id", " ", "must not be empty"),
        ("conversation_id", 7, "must be a text in quotes, not 7"),
        ("leg_id", "", "must not be empty"),
        (
            "interceptor_address",
            "qa@example.com",
            'must be a SIP address like sip:qa@example.com, not "qa@example.com"',
        ),
        ("interceptor_address", "sip:", 'must be a SIP address like sip:qa@example.com, not "sip:"'),
        ("audio_sampling_rate", 7999, "7999 is below 8000 (allowed: 8000 to 48000)"),
        ("audio_sampling_rate", 48001, "48001 is above 48000 (allowed: 8000 to 48000)"),
        ("channel_matrix", [], 'must name a channel: "mono", "stereo" or both'),
        ("channel_matrix", ["mono", "mono"], "must not name a channel twice"),
        ("channel_matrix", "mono", 'must be a list, not "mono"'),
        ("transcription_enabled", "yes", 'must be true or false, not "yes"'),
        ("transcription_language", "en_US", 'must be a BCP 47 language tag like en-US, not "en_US"'),
        ("max_latency_ms", 20, "20 is below 50 (allowed: 50 to 500)"),
        ("max_latency_ms", 500.5, "500.5 is above 500 (allowed: 50 to 500)"),
        ("max_latency_ms", "fast", 'must be a number, not "fast"'),
        ("packet_loss_threshold", 2, "2 is above 0.1 (allowed: 0 to 0.1)"),
        ("packet_loss_threshold", -0.01, "-0.01 is below 0 (allowed: 0 to 0.1)"),
        ("qa_callback_url", "ftp://qa.example.com", "must begin with http:// or https://"),
        (
            "qa_callback_url",
            "https://qa example.com",
            "must be an ASCII URL without spaces: percent-encode what is not",
        ),
        ("qa_callback_url", "https://[::1", "is no URL: look at its host and its port"),
        ("qa_callback_url", "https:///alerts", "must name a host"),
        ("max_latency", 100, "unknown key (did you mean max_latency_ms?)"),
    ],
)
def test_a_mistake_in_an_interceptor(key: str, value: object, expected: str) -> None:
    """Mistakes in the list of interceptors name its element."""
    assert interceptor_mistakes(**{key: value}) == [f"interceptor[0].{key}: {expected}"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("interceptor_address", "sips:qa@example.com"),
        ("audio_sampling_rate", 8000),
        ("audio_sampling_rate", 48000),
        ("channel_matrix", ["stereo"]),
        ("transcription_language", "zh-Hant-TW"),
        ("max_latency_ms", 50),
        ("max_latency_ms", 500),
        ("packet_loss_threshold", 0),
        ("packet_loss_threshold", 0.1),
        ("qa_callback_url", "http://[::1]:8080/a?b=c"),
        ("qa_callback_url", "http://localhost"),
        ("conversation_id", "not a UUID / at all ✓"),
    ],
)
def test_limits_are_inclusive(key: str, value: object) -> None:
    """What the contract allows is taken as it is."""
    config = parse_settings({"interceptor": [{**INTERCEPTOR, key: value}]}, "test")
    assert config.interceptors[0].watch_record()[key] == value


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    """URLs end up in logs, so a URL with credentials is a mistake, and no URL is ever shown in one."""
    for url in ("https://qa:hunter2@example.com/a", "https://qa:hunter2/@example.com", "x://qa:hunter2@h"):
        [line] = interceptor_mistakes(qa_callback_url=url)
        assert "hunter2" not in line
    assert "no user name or password" in interceptor_mistakes(qa_callback_url="https://qa:x@example.com")[0]


def test_an_invalid_international_name_is_a_mistake() -> None:
    """A label xn--… that does not decode cannot be looked up; one that does is fine."""
    for url in ("http://xn--a/", "https://qa.xn--a.example/x"):
        [line] = interceptor_mistakes(qa_callback_url=url)
        assert "is no URL: look at its host" in line
    url = "https://xn--mnchen-3ya.de/x"
    config = parse_settings({"interceptor": [{**INTERCEPTOR, "qa_callback_url": url}]}, "test")
    assert config.interceptors[0].qa_callback_url == url


def test_patterns_of_bodies_are_checked() -> None:
    """A pattern that is not a regular expression is a mistake of the file; lists may be empty."""
    with pytest.raises(ConfigurationError, match=r"delivery\.failure_body.*not a regular expression"):
        parsed("[delivery]\nfailure_body = ['(']")
    assert parsed("[delivery]\nfailure_body = []").delivery.failure_body == ()
    assert parsed("[delivery]\nsuccess_body = ['^ok$']").delivery.success_body == ("^ok$",)


def test_a_secret_in_the_file_is_not_repeated() -> None:
    """A credential in the file is a mistake that says where it belongs, without its value."""
    [line] = mistakes_in("[genesys]\nclient_secret = 'hunter2'")
    assert "GENESYS_CLIENT_SECRET" in line
    assert "hunter2" not in line


def test_all_mistakes_at_once() -> None:
    """One run shows every mistake of the file and of the environment, whatever kind it is of."""
    toml = """
        [genesys]
        bas_url = "https://api.mypurecloud.com"
        [windows]
        slide_s = 3
        [alerts]
        raise_n = 2
        [[interceptor]]
        conversation_id = "a"
        leg_id = "l"
        interceptor_address = "sip:x@y"
        qa_callback_url = "https://q"
        max_latency_ms = 20
        [[interceptor]]
        conversation_id = "a"
        leg_id = ""
        interceptor_address = "sip:x@y"
    """
    assert mistakes_in(toml, {"VOICEWATCH_GENSYS__BASE_URL": "x", "VOICEWATCH_DELIVERY_TIMEOUT_S": "soon"}) == [
        "VOICEWATCH_GENSYS__BASE_URL: unknown variable (did you mean VOICEWATCH_GENESYS__BASE_URL?)",
        "genesys.bas_url: unknown key (did you mean base_url?)",
        "windows.slide_s: 3 must divide length_s, which is 10",
        "alerts.raise_n: 2 must not exceed raise_m, which is 1",
        'delivery.timeout_s: must be a number, not "soon" [from VOICEWATCH_DELIVERY_TIMEOUT_S]',
        "interceptor[0].max_latency_ms: 20 is below 50 (allowed: 50 to 500)",
        "interceptor[1].leg_id: must not be empty",
        "interceptor[1].qa_callback_url: required key is missing",
        "interceptor[1].conversation_id: is the id of interceptor[0] already",
    ]


def test_required_keys() -> None:
    """An empty interceptor lacks four keys, and each of them is named."""
    assert sorted(mistakes_in("[[interceptor]]\n")) == [
        "interceptor[0].conversation_id: required key is missing",
        "interceptor[0].interceptor_address: required key is missing",
        "interceptor[0].leg_id: required key is missing",
        "interceptor[0].qa_callback_url: required key is missing",
    ]


def test_defaults_fill_in_what_an_interceptor_does_not_say() -> None:
    """A default holds for every interceptor without the key, and an interceptor's own value wins."""
    shared = {"max_latency_ms": 90, "qa_callback_url": "https://q.example", "channel_matrix": ["mono"]}
    own = {"conversation_id": "b", "leg_id": "l", "interceptor_address": "sip:b@y"}
    config = parse_settings({"defaults": shared, "interceptor": [{**INTERCEPTOR, "max_latency_ms": 200}, own]}, "test")
    first, second = config.interceptors
    assert (first.max_latency_ms, first.qa_callback_url) == (200, INTERCEPTOR["qa_callback_url"])
    assert (second.max_latency_ms, second.qa_callback_url) == (90, "https://q.example")
    assert second.channel_matrix == ("mono",)
    assert second.packet_loss_threshold == 0.02


def test_a_mistake_in_the_defaults_is_reported_once() -> None:
    """Forty interceptors with a bad default are one mistake, under `defaults`."""
    rows = [{**INTERCEPTOR, "conversation_id": f"c-{n}"} for n in range(40)]
    with pytest.raises(ConfigurationError) as caught:
        parse_settings({"defaults": {"max_latency_ms": 20, "leg_id": ""}, "interceptor": rows}, "test")
    assert caught.value.mistakes == (
        "defaults.leg_id: must not be empty",
        "defaults.max_latency_ms: 20 is below 50 (allowed: 50 to 500)",
    )


def test_windows_are_exact_in_milliseconds() -> None:
    """Divisibility is that of the numbers as written, not of their binary approximations."""
    config = parsed("[windows]\nlength_s = 2.3\nslide_s = 0.1")
    assert (config.windows.length_s, config.windows.slide_s) == (2.3, 0.1)


def test_a_base_url_loses_its_trailing_slash() -> None:
    """Paths are appended to it, and a double slash is another path."""
    assert parsed("[genesys]\nbase_url = 'http://127.0.0.1:8080/'").genesys.base_url == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("VOICEWATCH_GENESYS__BASE_URL", "http://127.0.0.1:1", "genesys.base_url", "http://127.0.0.1:1"),
        ("VOICEWATCH_GENESYS_BASE_URL", "http://127.0.0.1:1", "genesys.base_url", "http://127.0.0.1:1"),
        ("VOICEWATCH_GENESYS__INTERCEPTOR__SKILL", "x", "genesys.interceptor.skill", "x"),
        ("VOICEWATCH_GENESYS_INTERCEPTOR_SKILL", "x", "genesys.interceptor.skill", "x"),
        (
            "VOICEWATCH_GENESYS_INTERCEPTOR_PATH",
            "/{conversationId}",
            "genesys.interceptor_path",
            "/{conversationId}",
        ),
        ("VOICEWATCH_GENESYS__MAX_CONCURRENT", "7", "genesys.max_concurrent", 7),
        ("VOICEWATCH_WINDOWS__SLIDE_S", "2.5", "windows.slide_s", 2.5),
        ("VOICEWATCH_ALERTS__POLICY", "frame", "alerts.policy", "frame"),
        ("VOICEWATCH_DELIVERY__ALLOW_PRIVATE_ADDRESSES", "true", "delivery.allow_private_addresses", True),
        ("VOICEWATCH_STATE_DIR", "/var/lib/voicewatch", "state.dir", Path("/var/lib/voicewatch")),
        ("VOICEWATCH_DEFAULTS__CHANNEL_MATRIX", '["mono"]', "defaults.channel_matrix", ("mono",)),
        ("VOICEWATCH_DEFAULTS__TRANSCRIPTION_ENABLED", "1", "defaults.transcription_enabled", True),
        ("VOICEWATCH_GENESYS__BASE_URL", "", "genesys.base_url", "https://api.mypurecloud.com"),
    ],
)
def test_the_environment_overrides_the_file(variable: str, text: str, key: str, value: object) -> None:
    """A variable sets its key, with the key's type, over what the file says; an empty one does not."""
    found: Any = parsed(CONTRACT_EXAMPLE, {variable: text, "PATH": "/bin"})
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value


def test_a_default_from_the_environment_reaches_the_interceptors() -> None:
    """Defaults from a variable are filled in like those of the file."""
    environ = {"VOICEWATCH_DEFAULTS__QA_CALLBACK_URL": "https://other.example"}
    assert parsed(CONTRACT_EXAMPLE, environ).interceptors[0].qa_callback_url == "https://other.example"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"VOICEWATCH_GENESYS__MAX_CONCURRENT": "0"},
            "genesys.max_concurrent: 0 is below 1 (allowed: 1 to 1000000) [from VOICEWATCH_GENESYS__MAX_CONCURRENT]",
        ),
        (
            {"VOICEWATCH_DEFAULTS__CHANNEL_MATRIX": "mono"},
            'VOICEWATCH_DEFAULTS__CHANNEL_MATRIX: must be JSON, like ["mono", "stereo"]',
        ),
        (
            {"VOICEWATCH_GENESYS__CLIENT_SECRET": "hunter2"},
            f"VOICEWATCH_GENESYS__CLIENT_SECRET: {CREDENTIALS_ADVICE}",
        ),
        ({"VOICEWATCH_REGION": "eu"}, "VOICEWATCH_REGION: unknown variable"),
        (
            {"VOICEWATCH_WINDOW_SLIDE_S": "1"},
            "VOICEWATCH_WINDOW_SLIDE_S: unknown variable (did you mean VOICEWATCH_WINDOWS__SLIDE_S?)",
        ),
        (
            {"VOICEWATCH_STATE_DIR": "a", "VOICEWATCH_STATE__DIR": "b"},
            "VOICEWATCH_STATE__DIR: VOICEWATCH_STATE_DIR sets the same key to another value",
        ),
    ],
)
def test_a_mistake_in_a_variable_names_the_variable(environ: dict[str, str], expected: str) -> None:
    """An error of a variable names the variable."""
    assert mistakes_in("", environ) == [expected]


def test_other_variables_are_no_settings() -> None:
    """The two variables that are read elsewhere are not taken for misspelt settings."""
    parsed("", {"VOICEWATCH_CONFIG": "x.toml", "VOICEWATCH_CALLBACK_SECRET": "whsec_x", "VOICE": "x"})


def test_every_key_has_one_variable() -> None:
    """Joining table and key with one underscore names no two keys."""
    names = [
        "_".join(map(str, (*key, name))) for key, model in tables_of(Settings).items() for name in model.model_fields
    ]
    assert len(names) == len(set(names))


def test_a_file_is_loaded(tmp_path: Path) -> None:
    """A file is read with its variables, and a byte order mark does not disturb."""
    path = tmp_path / "voicewatch.toml"
    path.write_bytes(b"\xef\xbb\xbf" + CONTRACT_EXAMPLE.replace("\n", "\r\n").encode())
    assert load_settings(path, {"VOICEWATCH_STATE_DIR": "s"}).state.dir == Path("s")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"[genesys]\nbase_url =\n", "line 2, column 11: is no TOML: Invalid value"),
        (b"a = 1\na = 2\n", "line 2, column 6: is no TOML: Cannot overwrite a value"),
        (b'a = "x', "line 1, end of file: is no TOML: Unterminated string"),
        (b"[windows]\nlength_s = \xe9\n", "line 2: is not UTF-8 (byte 0xe9)"),
        (b"a = " + b"[" * 100_000, "is nested too deeply"),
    ],
)
def test_an_unreadable_text_says_where(tmp_path: Path, raw: bytes, expected: str) -> None:
    """What is no TOML at all is one mistake, with its place."""
    path = tmp_path / "bad.toml"
    path.write_bytes(raw)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path, {})
    assert caught.value.where == str(path)
    assert caught.value.mistakes == (expected,)
    assert caught.value.exit_code == 2


def test_an_integer_that_python_refuses(tmp_path: Path) -> None:
    """A number of thousands of digits is a mistake in the file, not a crash."""
    path = tmp_path / "huge.toml"
    path.write_text("a = " + "9" * 5000)
    with pytest.raises(ConfigurationError, match="is no TOML"):
        load_settings(path, {})


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    """A path that holds no file is named with the reason."""
    for path, reason in ((tmp_path / "none.toml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigurationError) as caught:
            load_settings(path, {})
        assert str(caught.value) == f"{path}:\n  cannot be read: {reason}"


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        (
            "[defaults]\naudio_sampling_rate = 44100",
            "defaults.audio_sampling_rate: media servers send 8000 or 16000 Hz, not 44100",
        ),
        (
            "[defaults]\nqa_callback_url = 'http://qa.example.com'",
            "defaults.qa_callback_url: http:// sends callbacks to qa.example.com in clear text",
        ),
        (
            "[defaults]\nqa_callback_url = 'http://127.0.0.1:9/x'",
            "defaults.qa_callback_url: 127.0.0.1 is a private address: set delivery.allow_private_addresses",
        ),
        (
            "[defaults]\nqa_callback_url = 'https://192.0.0.8/x'",
            "defaults.qa_callback_url: 192.0.0.8 is a private address: set delivery.allow_private_addresses",
        ),
        (
            "[defaults]\nqa_callback_url = 'https://[3fff::1]/x'",
            "defaults.qa_callback_url: 3fff::1 is a private address: set delivery.allow_private_addresses",
        ),
        (
            "[defaults]\nqa_callback_url = 'https://a.example.com'\n[alerts]\nplatform_callback_url = 'http://10.1.1.1/'",
            "alerts.platform_callback_url: 10.1.1.1 is a private address: set delivery.allow_private_addresses",
        ),
        (
            "[defaults]\nqa_callback_url='https://a.b'\n[groups]\nby=['queue']\nqa_callback_url='http://qa.example.com/'",
            "groups.qa_callback_url: http:// sends callbacks to qa.example.com in clear text",
        ),
        (
            "[defaults]\npacket_loss_threshold = 0",
            "defaults.packet_loss_threshold: 0 raises an alert for every lost packet",
        ),
        (
            "[genesys]\nbase_url = 'http://api.example.com'",
            "genesys.base_url: http:// sends the client's credentials in clear text",
        ),
    ],
)
def test_a_warning_names_its_key(toml: str, expected: str) -> None:
    """What is allowed and probably not meant is said, once, and stops nothing."""
    rows = "".join(
        f"\n[[interceptor]]\nconversation_id = 'c{n}'\nleg_id = 'l'\ninterceptor_address = 'sip:a@b'\n"
        + ("" if "qa_callback_url" in toml else "qa_callback_url = 'https://qa.example.com'\n")
        for n in range(3)
    )
    assert warnings_of(parsed(toml + rows)) == [expected]


def test_warnings_about_what_is_missing() -> None:
    """No interceptor and no callback secret are worth a word; the secret only if there is an environment to ask."""
    nothing = "interceptor: there is none, so nothing is watched"
    unsigned = "VOICEWATCH_CALLBACK_SECRET is not set: callbacks will not be signed"
    assert warnings_of(parsed("")) == [nothing]
    client = {"GENESYS_CLIENT_ID": "client", "GENESYS_CLIENT_SECRET": "secret"}
    assert warnings_of(parsed(""), client) == [nothing, unsigned]
    assert warnings_of(parsed(""), client | {"VOICEWATCH_CALLBACK_SECRET": "whsec_x"}) == [nothing]
    nowhere = "defaults.qa_callback_url: is missing, so alerts of unwatched conversations go nowhere"
    assert warnings_of(parsed("[alerts]\nunwatched = 'default'")) == [nowhere]


def _keys(model: type[Any]) -> st.SearchStrategy[str]:
    return st.sampled_from(sorted(model.model_fields)) | st.text(max_size=8)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**400, 10**401)
    | st.floats()
    | st.text()
    | st.sampled_from(["http://[", "https://a:b", "sip:x", "en-US", "incident", "//", "http://h", "wss://h/\0"])
    | st.dates()
    | st.binary(max_size=4)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
ANY_TABLES = st.dictionaries(
    st.sampled_from([*Settings.model_fields, "interceptor"]) | st.text(max_size=8),
    VALUES
    | st.dictionaries(_keys(InterceptorSettings), VALUES, max_size=6)
    | st.lists(st.dictionaries(_keys(InterceptorSettings), VALUES, max_size=10) | VALUES, max_size=4),
    max_size=6,
) | st.fixed_dictionaries(
    {},
    optional={
        ".".join(map(str, key)): st.dictionaries(_keys(model), VALUES, max_size=6)
        for key, model in tables_of(Settings).items()
        if len(key) == 1
    },
)


@settings(deadline=None, max_examples=150)
@given(
    tables=ANY_TABLES, environ=st.dictionaries(st.text(max_size=6).map("VOICEWATCH_".__add__), st.text(), max_size=2)
)
def test_anything_gives_settings_or_a_configuration_error(tables: Any, environ: dict[str, str]) -> None:
    """Whatever is in a file, the answer is settings or lines that name keys; never another exception."""
    try:
        config = parse_settings(tables, "test", environ)
    except ConfigurationError as error:
        lines = error.mistakes
    else:
        lines = ("fine: no mistakes",)
        json.dumps([config.flow_record(), *(row.watch_record() for row in config.interceptors)])
        warnings_of(config, {})
    assert lines
    assert all(": " in line and "\n" not in line for line in lines)


def test_importing_costs_little() -> None:
    """The schema imports neither Bytewax nor the SDK nor anything that opens sockets."""
    code = "import sys, flows.settings.models; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    heavy = {"bytewax", "PureCloudPlatformClientV2", "httpx", "websockets", "numpy", "pydantic_settings"}
    assert not heavy & set(done.stdout.split())


def test_a_key_of_very_many_parts_is_refused_at_once(tmp_path: Path) -> None:
    """A dotted key of 100,000 parts, which the parser would take minutes for, is one mistake with its line."""
    path = tmp_path / "voicewatch.toml"
    for key in ("a" + ".a" * 100_000, '"a"' + ' . "b"' * 100_000):
        path.write_text(f"[state]\n{key} = 1\n")
        began = time.monotonic()
        with pytest.raises(ConfigurationError, match="line 2: a key has more than 200 parts"):
            load_settings(path, {})
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("host", ["apps.mypurecloud.de", "apps.usw2.pure.cloud"])
def test_the_address_of_the_web_application_is_doubted(host: str) -> None:
    """People copy the address of their browser; the warning gives that of the API."""
    [warning] = [each for each in warnings_of(parsed(f'[genesys]\nbase_url = "https://{host}"')) if "base_url" in each]
    assert f"https://{host.replace('apps.', 'api.')}" in warning
