"""`voicewatch init`: what it writes is valid, what it asks is answered, and what exists stays."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from flows.commands.init import FEED_KINDS
from flows.settings.loading import load_settings, parse_settings
from tests.support.cli import command, environ, voicewatch

URL = "https://qa.example.com/alerts"
OPTIONS: dict[str, list[str]] = {
    "voice-events": ["--interceptor-address", "sip:qa@monitoring.internal"],
    "notifications": ["--queue", "Support", "--queue", "Sales"],
    "audiohook": ["--api-key", "key-1"],
    "eventbridge": ["--listen", "127.0.0.1:8444"],
    "kafka": ["--broker", "kafka-1:9092", "--broker", "kafka-2:9092", "--topic", "frames"],
}


def test_every_kind_of_feed_is_known() -> None:
    """A new kind of feed needs options here, and questions in the command."""
    assert set(FEED_KINDS) == set(OPTIONS)


@pytest.mark.parametrize("kind", OPTIONS)
def test_what_is_written_is_valid(tmp_path: Path, kind: str) -> None:
    """The file has what was given, and stays valid with any commented key put into force."""
    config = tmp_path / "new.toml"
    done = voicewatch("init", config, "--kind", kind, "--callback-url", URL, *OPTIONS[kind])
    assert done.returncode == 0, done.stderr
    settings = load_settings(config, {})
    assert [feed.kind for feed in settings.feeds] == [kind]
    assert settings.defaults.qa_callback_url == URL
    text = config.read_text()
    commented = re.findall(r"^# (\w+ = \S.*)$", text, re.MULTILINE)
    assert len(commented) > 5
    for line in commented:
        parse_settings(tomllib.loads(text.replace(f"# {line}", line)), "new.toml")
    assert tomllib.loads(re.sub(r"^# (\w+ = \S.*)$", r"\1", text, flags=re.MULTILINE)) != tomllib.loads(text)


# The variables that each kind needs, with values of the right form.
VARIABLES: dict[str, dict[str, Any]] = {
    "voice-events": {"GENESYS_CLIENT_ID": "id", "GENESYS_CLIENT_SECRET": "secret"},
    "notifications": {"GENESYS_CLIENT_ID": "id", "GENESYS_CLIENT_SECRET": "secret"},
    "audiohook": {"VOICEWATCH_AUDIOHOOK_SECRETS": "key-1=c2VjcmV0c2VjcmV0c2VjcmV0"},
    "eventbridge": {"EVENTBRIDGE_API_KEY": "a-key-of-the-connection"},
    "queue": {"AWS_PROFILE": "local"},
    "kafka": {},
}
QUEUE = ["--queue-url", "https://sqs.eu-central-1.amazonaws.com/123456789012/voice-events"]


@pytest.mark.parametrize("what", VARIABLES)
def test_check_accepts_what_is_written(tmp_path: Path, what: str) -> None:
    """With the variables that `init` names, `check` finds the file valid, and warns of nothing but clear text."""
    config = tmp_path / "new.toml"
    kind, options = ("eventbridge", QUEUE) if what == "queue" else (what, OPTIONS[what])
    done = voicewatch("init", config, "--kind", kind, "--callback-url", URL, *options)
    assert done.returncode == 0, done.stderr
    variables = VARIABLES[what] | {"VOICEWATCH_CALLBACK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    assert variables.keys() <= {line.split()[0] for line in done.stdout.splitlines()}
    checked = voicewatch("check", config, **variables)
    assert (checked.returncode, checked.stderr) == (0, "")
    said, *warnings = checked.stdout.splitlines()
    assert said == f"{config}: valid; 0 interceptor(s), 1 feed(s)"
    assert [warning for warning in warnings if "clear text" not in warning] == []


def test_conversations_are_listed(tmp_path: Path) -> None:
    """Named conversations are watched instead of those that are found, hard texts too."""
    config = tmp_path / "new.toml"
    ids = ['c"1\\', "c2"]
    options = [option for id_ in ids for option in ("--conversation", id_)]
    done = voicewatch(
        "init", config, "--kind", "voice-events", "--callback-url", URL, *OPTIONS["voice-events"], *options
    )
    assert done.returncode == 0, done.stderr
    settings = load_settings(config, {})
    assert settings.watch.mode == "listed"
    assert [interceptor.conversation_id for interceptor in settings.interceptors] == ids


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A file that exists is exit 2 and stays as it is."""
    config = tmp_path / "new.toml"
    config.write_text("# mine\n")
    done = voicewatch("init", config, "--kind", "audiohook", "--callback-url", URL, "--api-key", "key-1")
    assert done.returncode == 2
    assert done.stderr == f"voicewatch: {config} exists; name another file, or move it away\n"
    assert config.read_text() == "# mine\n"


def test_without_a_terminal_every_missing_option_is_named(tmp_path: Path) -> None:
    """An error names every option that a script forgot, and nothing is written."""
    done = voicewatch("init", tmp_path / "new.toml", "--kind", "voice-events")
    assert done.returncode == 2
    assert "--callback-url, --interceptor-address" in done.stderr
    assert voicewatch("init", tmp_path / "new.toml").stderr == "voicewatch: --kind is missing\n"
    wrong = voicewatch("init", tmp_path / "new.toml", "--kind", "fax")
    assert "--kind fax: must be one of voice-events" in wrong.stderr
    assert list(tmp_path.iterdir()) == []


def test_answers_that_are_not_valid_write_nothing(tmp_path: Path) -> None:
    """A bad answer is named by the key that it would have, with exit 2."""
    config = tmp_path / "new.toml"
    options = ["--kind", "notifications", "--callback-url", "qa.example.com", "--queue", "Support"]
    done = voicewatch("init", config, *options)
    assert done.returncode == 2
    assert "defaults.qa_callback_url: " in done.stderr
    assert not config.exists()


def test_a_terminal_is_asked(tmp_path: Path) -> None:
    """On a terminal what is missing is asked for; Enter takes what the question shows."""
    ours, theirs = pty.openpty()
    arguments = command("init", tmp_path / "new.toml")
    with subprocess.Popen(
        arguments, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environ({}), text=True
    ) as process:
        os.close(theirs)
        os.write(ours, f"notifications\n{URL}\n\nSupport, Sales\nwatch-state\n".encode())
        assert process.stdout is not None
        output = process.stdout.read()
        assert process.wait(60) == 0, output
    os.close(ours)
    settings = load_settings(tmp_path / "new.toml", {})
    assert settings.feeds[0].queues == ("Support", "Sales")
    assert settings.genesys.base_url == "https://api.mypurecloud.com"
    assert settings.state.dir == Path("watch-state")
