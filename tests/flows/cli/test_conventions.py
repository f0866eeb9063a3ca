"""What holds for every command: CONFIG from the environment, JSON in place of tables, completion, exit codes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperArgument, TyperGroup
from typer.main import get_command

from flows.cli import app
from flows.commands.init import FEED_KINDS
from flows.data.schemas import NAMES
from tests.support.callbacks import eventually
from tests.support.cli import ROOT, configuration, running, several, voicewatch

RECORDING = ROOT / "tests/data/three-minutes.jsonl"
# Commands that print a table, or another form that a program cannot read.
WITH_TABLES = {
    "demo", "bootstrap", "replay", "inspect", "backtest", "merge", "top", "status", "outbox list", "notify test",
    "audit show", "audit verify",
}  # fmt: skip
# Those that print a line or two, JSON already, or what they say as they go on.
WITHOUT = {
    "init", "check", "run", "cluster", "simulate", "export", "report", "schema", "outbox show", "outbox retry",
    "notify listen", "recovery init", "probe",
}  # fmt: skip
WITH_CONFIG: dict[str, list[object]] = {
    "check": [],
    "bootstrap": [],
    "run": [],
    "cluster": [],
    "outbox list": [],
    "outbox show": ["id-1"],
    "outbox retry": ["id-1"],
    "notify test": ["oncall"],
}


def commands() -> Iterator[tuple[str, Any]]:
    """Every command of the program with its name, those of groups included."""
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    for name, command in group.commands.items():
        inner = command.commands if isinstance(command, TyperGroup) else {"": command}
        yield from ((f"{name} {sub}".strip(), one) for sub, one in inner.items())


def test_a_command_that_prints_a_table_prints_json() -> None:
    """Every command is of one kind or the other; exactly those with tables have `--json`."""
    names = {name for name, _ in commands()}
    assert names == WITH_TABLES | WITHOUT
    assert {
        name for name, command in commands() if any("--json" in each.opts for each in command.params)
    } == WITH_TABLES


def test_every_command_that_takes_config_takes_it_from_the_environment() -> None:
    """VOICEWATCH_CONFIG stands for CONFIG: each command reads that file, and says so if it is not there."""
    taking = {
        name: [each.envvar for each in command.params if isinstance(each, TyperArgument) and each.name == "config"]
        for name, command in commands()
    }
    assert {name for name, variables in taking.items() if variables} == {*WITH_CONFIG, "init"}
    assert all(variables == ["VOICEWATCH_CONFIG"] for variables in taking.values() if variables)
    calls: list[list[object]] = [[*name.split(), *arguments] for name, arguments in WITH_CONFIG.items()]
    for call, done in zip(calls, several(calls, VOICEWATCH_CONFIG="/nowhere/named.toml"), strict=True):
        assert (done.returncode, done.stdout) == (2, ""), call
        assert "/nowhere/named.toml" in done.stderr, call


def test_a_new_file_is_named_by_the_environment_too(tmp_path: Path) -> None:
    """`init` writes the file of VOICEWATCH_CONFIG."""
    path = tmp_path / "named.toml"
    options = ["--kind", "eventbridge", "--callback-url", "https://qa.example.com/a"]
    done = voicewatch("init", *options, VOICEWATCH_CONFIG=str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert path.exists()


def test_files_and_figures_as_json(tmp_path: Path) -> None:
    """`inspect`, `backtest` and `top` print one JSON value on standard output and nothing else there."""
    out = tmp_path / "out"
    assert voicewatch("replay", RECORDING, "--out", out).returncode == 0
    inspected, compared, figures = several(
        [
            ["inspect", RECORDING, "--json"],
            ["backtest", RECORDING, "--sweep", "alerts.clear_after_s=5:10:5", "--json"],
            ["top", out, "--json"],
        ]
    )
    for done in (inspected, compared, figures):
        assert done.returncode == 0, done.stderr
        assert isinstance(json.loads(done.stdout), dict)


@pytest.mark.parametrize(
    ("shell", "words", "expected"),
    [
        ("bash", ["out"], {"outbox"}),
        ("bash", ["replay", "--form"], {"--format"}),
        ("bash", ["schema", ""], {*NAMES}),
        ("zsh", ["outbox", ""], {"list", "show", "retry"}),
        ("fish", ["init", "--kind", ""], {*FEED_KINDS}),
        ("fish", ["simulate", "--kind", "event"], {"eventbridge"}),
    ],
)
def test_shells_complete_commands_options_and_names(shell: str, words: list[str], expected: set[str]) -> None:
    """Commands, those of a group, options, kinds of feeds and names of schemas, in the shells that Typer knows."""
    line = " ".join(["voicewatch", *words])
    variables: dict[str, Any] = {"COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    if shell != "bash":
        variables = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = voicewatch(_VOICEWATCH_COMPLETE=f"complete_{shell}", **variables)
    offered = done.stdout.replace('"', " ").replace("\t", " ").replace(":", " ").split()
    assert expected <= {*offered}, done.stderr


def test_exit_codes_are_those_of_the_page(tmp_path: Path) -> None:
    """Success, a failure while running, and a wrong call, configuration or recording, as `docs/cli.md` lists them."""
    valid = configuration(tmp_path / "valid.toml", {"state": {"dir": str(tmp_path / "state")}})
    wrong = configuration(tmp_path / "wrong.toml", {"windows": {"slide_s": 7}})
    target = tmp_path / "target.toml"
    target.write_text("[[notify]]\nname = 'ours'\nkind = 'webhook'\nurl_env = 'HOOK'\nallow_private_addresses = true\n")
    (tmp_path / "audit.jsonl").write_text('{"prev":"0"}\n')
    (tmp_path / "no.txt").write_text("not a recording\n")
    expected: list[tuple[list[object], int]] = [
        (["check", valid], 0),
        (["check", wrong], 2),
        (["check", tmp_path / "absent.toml"], 2),
        (["outbox", "list", valid], 2),
        (["audit", "verify", tmp_path / "audit.jsonl"], 1),
        (["notify", "test", target], 1),
        (["replay", tmp_path / "absent.jsonl", "--out", tmp_path / "out"], 2),
        (["replay", tmp_path / "no.txt", "--out", tmp_path / "out"], 1),
        (["status", tmp_path / "absent"], 2),
        (["schema", "other"], 2),
        (["probe", "livez"], 2),
    ]
    calls = [call for call, _ in expected]
    for (call, code), done in zip(expected, several(calls, HOOK="http://127.0.0.1:9/x"), strict=True):
        assert done.returncode == code, (call, done.stdout, done.stderr)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_server_has_succeeded(tmp_path: Path, number: signal.Signals) -> None:
    """SIGINT and SIGTERM end a command that serves until then with exit 0."""
    with running(tmp_path, "notify", "listen", "--port", "0") as listener:
        listener.wait_for_log("listening on ")
        os.kill(listener.process.pid, number)
        assert listener.process.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["demo"], 0),
        (["run", "CONFIG"], 0),
        (["cluster", "CONFIG"], 0),
        (["simulate"], 0),
        (["notify", "listen", "--port", "0"], 0),
        (["replay", RECORDING, "--out", "OUT", "--speed", "1"], 143),
        (["backtest", RECORDING, "--sweep", "alerts.max_latency_ms=100:300:4"], 143),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
def test_sigterm_before_the_work_has_begun(tmp_path: Path, arguments: list[object], code: int) -> None:
    """A signal that comes while a long command is still importing ends it as one that comes later."""
    config = configuration(tmp_path / "voicewatch.toml", {"state": {"dir": str(tmp_path / "state")}})
    places = {"CONFIG": config, "OUT": tmp_path / "out"}
    with running(tmp_path, *(places.get(str(each), each) for each in arguments)) as process:
        eventually(lambda: catches_sigterm(process.process.pid) or process.process.poll() is not None, 30)
        assert process.stop() == code, process.log
        assert "Traceback" not in process.log


def catches_sigterm(pid: int) -> bool:
    """Whether a process has set a handler of SIGTERM."""
    [caught] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:")]
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
