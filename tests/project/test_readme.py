"""Every page under test: each command is run, and the output, files and code shown are the real ones."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import WebhookVerificationError

from connectors.callbacks.signing import sign
from connectors.errors import ConfigurationError
from connectors.genesys.simulator.faults import load_faults
from flows.commands.replay import replay
from flows.settings.loading import load_settings, parse_settings
from tests.flows.analytics.test_late_events import SETTINGS, USER_END, USER_START, journalled
from tests.support.page_session import Result, Session, make_plan, try_commands
from tests.support.pages import COMMANDS, FILES, Command, code_blocks

pytestmark = pytest.mark.timeout(300)  # the first test of a group waits for all its commands

CASES = [Path(__file__).parents[1] / "data" / "cases" / name for name in ("11-media-records.jsonl", "12-ice.jsonl")]
DEMO = Command("README.md", "Demo", -1, "voicewatch demo --seconds 600", ())
QUICK_START = "README.md#Quick start"
REPLAY = "docs/replay-and-simulator.md#Replay"
# The commands of a page share a scratch directory, except for these sections; each group runs beside the others.
GROUPS = {
    "README.md#Demo": "demo",
    QUICK_START: "organisation",
    "docs/operations.md#Cluster": "organisation",
    "docs/replay-and-simulator.md#Try it on the simulator": "simulator",
    REPLAY: "recordings",
    "docs/replay-and-simulator.md#Faults": "recordings",
    "docs/feeds.md#Notifications": "recordings",
}


def group_of(command: Command) -> str:
    return GROUPS.get(f"{command.page}#{command.section}", command.page)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Session]]]:
    """Return a session for each group of sections; up to four groups run concurrently."""
    groups: dict[str, list[Command]] = {}
    for command in COMMANDS:
        groups.setdefault(group_of(command), []).append(command)
    groups["demo"] = [DEMO]
    with ThreadPoolExecutor(4) as pool:
        yield {
            group: pool.submit(
                try_commands, commands, tmp_path_factory.mktemp("page"), simulated=group == GROUPS[QUICK_START]
            )
            for group, commands in groups.items()
        }


def shape(line: str) -> str:
    """Return a line without what differs from run to run: ids, times, numbers, the width of columns."""
    line = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", line)
    return " ".join(re.sub(r"\d[\d,.:]*", "N", line).split())


def missing_lines(shown: tuple[str, ...], result: Result) -> list[str]:
    """Return the lines shown whose shape the command does not print; `...` stands for any."""
    printed = {shape(line) for line in (result.stdout + result.stderr).splitlines()}
    return [line for line in shown if line != "..." and shape(line) not in printed]


def test_the_sections_run_in_groups_exist() -> None:
    """Each section named above has commands, so none of them runs in the wrong group under a new heading."""
    assert GROUPS.keys() <= {f"{command.page}#{command.section}" for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.text[:60])
def test_a_command_does_what_the_page_shows(command: Command, sessions: dict[str, Future[Session]]) -> None:
    """Every command ends as it should, long-running ones after SIGTERM, and prints lines like those shown."""
    session = sessions[group_of(command)].result()
    if command.text == "make demo":
        assert " demo" in make_plan("demo").stdout
        result = session.results[DEMO]
    else:
        result = session.results[command]
    fails = any(line.startswith("voicewatch: ") for line in command.shown)
    assert result.code == (2 if fails else 0), result
    assert not missing_lines(command.shown, result), result


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.text.startswith("voicewatch replay tests/")])
def test_a_replay_shows_its_real_output(command: Command, sessions: dict[str, Future[Session]]) -> None:
    """The counts of a shown replay are those of a real one; only time and speed may differ."""
    lines = sessions[group_of(command)].result().results[command].stdout.splitlines()
    took = ["frames/s" in line for line in command.shown]
    assert sum(took) == 1
    assert len(lines) == len(command.shown)
    for line, shown, may_differ in zip(lines, command.shown, took, strict=True):
        assert (shape(line) == shape(shown)) if may_differ else (line == shown)


def test_the_lines_of_json_are_real(sessions: dict[str, Future[Session]], tmp_path: Path) -> None:
    """Replays write each JSON line that the pages show, or a part of it; another test writes those of the targets."""
    late = tmp_path / "late.jsonl"
    late.write_bytes(b"\n".join([SETTINGS, journalled(61.2, USER_END), journalled(61.21, USER_START)]))
    written = ""
    for number, recording in enumerate([*CASES, late]):
        settings = parse_settings({"alerts": {"unwatched": "default"}}, "the test") if recording in CASES[1:] else None
        out = tmp_path / str(number)
        replay([recording], out, settings=settings, environ={}, speed=None, deliver=False, stop=threading.Event())
        written += (out / "windows.jsonl").read_text() + (out / "alerts.jsonl").read_text()
    for file in (sessions[GROUPS[REPLAY]].result().directory / "replayed").glob("*.jsonl"):
        written += file.read_text()
    lines = [block.strip() for page, _, block in code_blocks("json") if page != "docs/targets.md"]
    assert len(lines) >= 3
    assert [line for line in lines if line not in written] == []


def test_the_receiver_takes_a_callback_once() -> None:
    """The receiver's code in the pages accepts a signed callback, drops its repetition and refuses a forged one."""
    [(_, _, code)] = [block for block in code_blocks("python") if "standardwebhooks" in block[2]]
    names: dict[str, Any] = {}
    exec(code, names)
    secret = "whsec_" + "A" * 32
    headers = sign("id-1", int(time.time()), b"{}", [secret])
    seen: set[str] = set()
    assert names["accept"](b"{}", headers, secret, seen) is True
    assert names["accept"](b"{}", headers, secret, seen) is False
    with pytest.raises(WebhookVerificationError):
        names["accept"](b"{ }", headers, secret, seen)


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_files_shown_can_be_used(name: str, tmp_path: Path) -> None:
    """Each file of the pages is valid, except for the one that shows mistakes."""
    path = tmp_path / name
    path.write_text(FILES[name])
    if name in ("faults.toml", "edges.toml"):
        assert load_faults(path).fault
    elif name == "wrong.toml":
        with pytest.raises(ConfigurationError):
            load_settings(path, {})
    else:
        load_settings(path, {})
