"""Commands that answer at once load only what they need; JSON is what their tables say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from flows.cli import program
from tests.support.cli import ROOT, configuration, environ, several, voicewatch
from tests.support.state_dirs import StateDir

INTERCEPTOR = {
    "conversation_id": "c1",
    "leg_id": "l1",
    "interceptor_address": "sip:qa@monitoring.internal",
    "qa_callback_url": "https://qa.example.com/alerts",
}
# Each takes 20 to 500 ms to import.
HEAVY = {
    "PureCloudPlatformClientV2",
    "apprise",
    "asyncio",
    "bytewax",
    "httpx",
    "jinja2",
    "numpy",
    "prometheus_client",
    "pydantic_settings",
    "ssl",
    "standardwebhooks",
    "starlette",
    "structlog",
    "uvicorn",
    "websockets",
}
TABLES_AND_SETTINGS = {"rich", "pydantic"}
SCRIPT = """
import json, sys
sys.argv = ["voicewatch", *json.loads(sys.argv[1])]
from flows.cli import main
code = 0
try:
    main()
except SystemExit as exit:
    code = exit.code or 0
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    state = StateDir(tmp_path / "state")
    state.feed(1, "up", "connected")
    state.alert(2, "c1", "raised", 1)
    state.outbox(pending=2, dead=1, delivered=1)
    return state


@pytest.fixture
def config(tmp_path: Path, state: StateDir) -> Path:
    tables = {"state": {"dir": state.dir}, "interceptor": [INTERCEPTOR]}
    return configuration(tmp_path / "voicewatch.toml", tables)


def loaded(*arguments: object) -> set[str]:
    """The top-level modules that a command has loaded when it ends."""
    return {name.partition(".")[0] for name in loaded_modules(*arguments)}


def loaded_modules(*arguments: object) -> set[str]:
    """All modules that a command has loaded when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([str(argument) for argument in arguments])],
        env=environ({}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    code, names = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    return set(names)


def commands_of(name: str | None) -> set[str]:
    """The commands of the program that is started for a first argument."""
    group = get_command(program(name))
    assert isinstance(group, TyperGroup)
    return set(group.commands)


def test_help_needs_neither_settings_nor_rich() -> None:
    """The help of the program and of a group is plain text."""
    for arguments in (["--help"], ["outbox", "--help"]):
        assert loaded(*arguments) & (HEAVY | TABLES_AND_SETTINGS) == set()


def test_check_loads_the_settings_only(config: Path) -> None:
    """Checking a file imports Pydantic, and neither the flow nor anything that opens a connection."""
    assert loaded("check", config) & (HEAVY | {"rich"}) == set()


def test_the_outbox_is_listed_without_what_sends(config: Path) -> None:
    """Listing callbacks imports neither the flow nor delivery, and no settings: the state directory is all it needs."""
    assert loaded("outbox", "list", config) & (HEAVY | {"pydantic"}) == set()
    assert loaded("outbox", "list", config, "--json") & (HEAVY | TABLES_AND_SETTINGS) == set()


def test_status_needs_no_settings(state: StateDir) -> None:
    """The status of a directory is plain text from plain files: no configuration is read and no table is drawn."""
    for options in ([], ["--json"]):
        assert loaded("status", state.dir, *options) & (HEAVY | TABLES_AND_SETTINGS) == set()


def test_a_replay_loads_neither_what_delivers_nor_what_runs_live(tmp_path: Path) -> None:
    """A replay with alerts loads no audit log, no writer of a journal, and not NumPy's masked arrays."""
    modules = loaded_modules("replay", ROOT / "tests/data/three-minutes.jsonl", "--out", tmp_path / "out")
    assert (tmp_path / "out/alerts.jsonl").stat().st_size > 0
    unneeded = {"connectors.state.audit", "connectors.callbacks", "connectors.journal.writer", "csv", "numpy.ma"}
    assert modules & {*unneeded, "tempfile", "pydantic"} == set()


def test_only_the_command_that_is_called_is_inspected() -> None:
    """A command or group comes alone; without a name, with an option or a mistake in its place, all of them do."""
    everything = commands_of(None)
    assert {"check", "outbox", "status", "schema"} < everything
    assert commands_of("check") == {"check"}
    assert commands_of("outbox") == {"outbox"}
    assert commands_of("--help") == commands_of("bogus") == everything


def test_tables_are_printed_as_json(config: Path, state: StateDir, tmp_path: Path) -> None:
    """`--json` prints what a table shows, as JSON on standard output and nothing else there."""
    state.attempt(3, "c0", "CALLBACK_FAILED", "503")
    commands: list[list[object]] = [
        ["outbox", "list", config, "--json"],
        ["audit", "show", state.dir / "audit.jsonl", "--json"],
        ["audit", "verify", state.dir / "audit.jsonl", "--json"],
        ["replay", ROOT / "tests/data/three-minutes.jsonl", "--out", tmp_path / "out", "--json"],
    ]
    outbox, shown, verified, replayed = several(commands)
    listed = json.loads(outbox.stdout)
    assert listed["counts"] == {"pending": 2, "delivered": 1, "dead": 1}
    assert [entry["state"] for entry in listed["callbacks"]] == ["pending", "pending", "dead"]
    assert {entry["url"] for entry in listed["callbacks"]} == {"https://qa.example.com"}  # its key stays secret
    assert listed["oldest_s"] is not None
    assert [json.loads(line)["action"] for line in shown.stdout.splitlines()] == ["CALLBACK_FAILED"]
    verdict = json.loads(verified.stdout)
    assert (verified.returncode, verdict["intact"], verdict["lines"], verdict["faults"]) == (0, True, 1, [])
    summary = json.loads(replayed.stdout)
    assert summary["counts"]["windows"] == len((tmp_path / "out/windows.jsonl").read_bytes().splitlines())
    assert summary["out"] == str(tmp_path / "out")
    assert summary["outbox"] is None


def test_a_log_that_is_not_intact_is_a_failure_in_json_too(state: StateDir) -> None:
    """`audit verify --json` has exit 1 for a log that was changed, with its faults."""
    for number in range(2):
        state.attempt(3 + number, "c0", "CALLBACK_FAILED", "503")
    log = state.dir / "audit.jsonl"
    log.write_text(log.read_text().replace("503", "200", 1))
    done = voicewatch("audit", "verify", log, "--json")
    assert done.returncode == 1
    assert [fault["line"] for fault in json.loads(done.stdout)["faults"]] == [2]
