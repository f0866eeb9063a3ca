"""README and operations page under test: every command is run, and what is shown and listed is what there is."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo
from standardwebhooks import WebhookVerificationError
from typer.main import get_command

from connectors.callbacks.signing import sign
from connectors.errors import ConfigurationError
from connectors.genesys.simulator.faults import load_faults
from connectors.genesys.simulator.voice_events import running_simulator
from flows.cli import app
from flows.settings import models
from flows.settings.feeds import FeedDefaults
from flows.settings.loading import load_settings
from flows.settings.metrics import MetricsSettings
from flows.settings.values import Between
from tests.project.test_deployment import known_metrics

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
PAGES = {"README.md": README, "CONTRIBUTING.md": (ROOT / "CONTRIBUTING.md").read_text()}
DEADLINE_S = 90.0
LONG_RUNNING = ("voicewatch run ", "voicewatch cluster ", "voicewatch simulate ", "python -m bytewax.run ")
# Sections that build on each other share a scratch directory; each group runs beside the others.
GROUPS = (
    ("Quick start for an organisation", "Cluster"),
    ("Try it on the simulator",),
    ("Feeds", "Replay", "Commands", "Faults"),
    ("Health and metrics", "Runbook", "Backup and restore", "Upgrades", "Rescaling"),
)


@dataclass(frozen=True)
class Command:
    """A line after `$ ` in a console block, with the lines shown below it."""

    section: str
    block: int
    text: str
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What a command came to."""

    code: int
    stdout: str
    stderr: str


def code_blocks(language: str) -> Iterator[tuple[str, str]]:
    """The section and the text of each block in a language, without the indentation of a list."""
    for section in re.split(r"^## ", README + OPERATIONS, flags=re.MULTILINE)[1:]:
        for found in re.finditer(rf"^( *)```{language}\n(.*?)^\1```$", section, re.MULTILINE | re.DOTALL):
            yield section.partition("\n")[0], textwrap.dedent(found[2])


def console_commands() -> Iterator[Command]:
    for number, (section, block) in enumerate([*code_blocks("console"), *code_blocks("bash")]):
        for text in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = text.rstrip().splitlines()
            yield Command(section, number, command, tuple(line for line in shown if line))


COMMANDS = list(console_commands())
DEMO = Command("The demo", -1, "voicewatch demo --seconds 4", ())
FILES = {
    name: text for _, block in code_blocks("toml") for name, text in re.findall(r"\A# (\S+\.toml)\n(.*)\Z", block, re.S)
}


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def environment(scratch: Path) -> dict[str, str]:
    """That of a new user who has `voicewatch` and `python` on the path."""
    commands = scratch / "bin"
    commands.mkdir()
    voicewatch = commands / "voicewatch"
    voicewatch.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "from flows.cli import main; main()" "$@"\n')
    voicewatch.chmod(0o700)
    kept = {name: os.environ[name] for name in ("HOME", "TMPDIR", "LANG") if name in os.environ}
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    return kept | {"PATH": path, "PYTHONPATH": str(ROOT)}


class Process:
    """A command that runs until it is stopped; its output is in files."""

    def __init__(self, command: str, exports: list[str], scratch: Path, environ: dict[str, str]) -> None:
        self._out, self._err = (scratch / f".{time.monotonic_ns()}.{kind}" for kind in ("out", "err"))
        script = "\n".join([*exports, f"exec {command}"])
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.popen = subprocess.Popen(["bash", "-c", script], cwd=scratch, env=environ, stdout=out, stderr=err)

    def stdout(self) -> str:
        return self._out.read_text()

    def result(self) -> Result:
        return Result(self.popen.wait(DEADLINE_S), self.stdout(), self._err.read_text())


def eventually(happened: Callable[[], bool], what: str, running: Iterable[Process]) -> None:
    """Wait until something has happened; fail at once if a process that is needed for it ends before."""
    deadline = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}"
        for process in running:
            assert process.popen.poll() is None, f"ended before {what}: {process.result()}"
        time.sleep(0.02)


class Session:
    """One user in one directory, who types the commands of some sections, one after the other."""

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        self.directory = directory
        self.results: dict[Command, Result] = {}
        self._environ = environ
        self._exports: list[str] = []
        self._audited_before = ""
        self._ports: dict[str, str] = {}
        (directory / "tests").mkdir()
        (directory / "tests" / "data").symlink_to(ROOT / "tests" / "data")
        for name, text in FILES.items():
            (directory / name).write_text(self._with_free_ports(text))

    def type(self, commands: list[Command]) -> None:
        """Run the commands of one block. What runs on is stopped by SIGTERM: before the next command, or at the end of
        the block if the README puts it into the background.
        """
        running: dict[Command, Process] = {}
        try:
            for command in commands:
                text = self._with_free_ports(command.text)
                if not text.startswith(LONG_RUNNING):
                    self.results[command] = self._run(text)
                    continue
                self._audited_before = self._audit_log()
                running[command] = Process(text.removesuffix("&"), self._exports, self.directory, self._environ)
                self._await_ready(text, list(running.values()))
                if not text.endswith("&") and command is not commands[-1]:
                    self._stop({command: running.pop(command)})
        finally:
            self._stop(running)

    def _with_free_ports(self, text: str) -> str:
        # Chosen when first needed: the longer a port lies idle, the likelier it is that somebody else takes it.
        return re.sub(
            r"\b(8080|9090|9464|2101|2102)\b", lambda port: self._ports.setdefault(port[0], free_port()), text
        )

    def _run(self, text: str) -> Result:
        if text.startswith("make "):
            return make_plan(*shlex.split(text)[1:])
        script = "\n".join([*self._exports, text])
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.directory,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        if text.startswith("export "):
            self._exports.append(text)
        return Result(done.returncode, done.stdout, done.stderr)

    def _await_ready(self, text: str, running: list[Process]) -> None:
        def audited(action: str) -> bool:
            return self._audit_log().count(action) > self._audited_before.count(action)

        if "simulate" in text:
            eventually(lambda: running[-1].stdout().endswith("}\n"), "the simulator is ready", running)
        elif "local.toml" in text:  # the README goes on with what is in the outbox
            eventually(lambda: audited("CALLBACK_FAILED"), "a callback is refused", running)
        elif not text.endswith("&"):  # a process of a cluster in the background waits for the others
            eventually(lambda: audited("FEED_UP"), "the feed is up", running)

    def _audit_log(self) -> str:
        path = self.directory / "state" / "audit.jsonl"
        return path.read_text() if path.exists() else ""

    def _stop(self, processes: dict[Command, Process]) -> None:
        for process in processes.values():
            process.popen.send_signal(signal.SIGTERM)
        for command, process in processes.items():
            try:
                self.results[command] = process.result()
            finally:
                process.popen.kill()


def make_plan(*targets: str) -> Result:
    """What `make` would do, without doing it; it fails for a target that does not exist."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "-n", *targets], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=DEADLINE_S
    )
    return Result(done.returncode, done.stdout, done.stderr)


def try_sections(sections: tuple[str, ...], scratch: Path) -> Session:
    """Type what some sections tell. Where they mean Genesys itself, its place is taken by a simulator."""
    environ = environment(scratch)
    with ExitStack() as stack:
        if "Cluster" in sections:
            environ["VOICEWATCH_GENESYS__BASE_URL"] = stack.enter_context(running_simulator()).base_url
        session = Session(scratch, environ)
        for section in sections:
            mine = [command for command in COMMANDS if command.section == section]
            for block in dict.fromkeys(command.block for command in mine):
                session.type([command for command in mine if command.block == block])
        return session


def try_demo(scratch: Path) -> Session:
    """Run the command behind `make demo`, for a shorter time."""
    session = Session(scratch, environment(scratch))
    session.type([DEMO])
    return session


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Session]]]:
    """A session for each section; the groups are tried side by side."""
    with ThreadPoolExecutor(len(GROUPS) + 1) as pool:
        futures: dict[str, Future[Session]] = {}
        for group in GROUPS:
            future = pool.submit(try_sections, group, tmp_path_factory.mktemp("readme"))
            futures |= dict.fromkeys(group, future)
        futures[DEMO.section] = pool.submit(try_demo, tmp_path_factory.mktemp("demo"))
        yield futures


def shape(line: str) -> str:
    """A line without what differs from run to run: ids, times, numbers, the width of columns."""
    line = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", line)
    return " ".join(re.sub(r"\d[\d,.:]*", "N", line).split())


def missing_lines(shown: tuple[str, ...], result: Result) -> list[str]:
    """The lines shown whose like the command does not print; `...` stands for any."""
    printed = {shape(line) for line in (result.stdout + result.stderr).splitlines()}
    return [line for line in shown if line != "..." and shape(line) not in printed]


def test_every_section_with_commands_is_tried() -> None:
    """No command of the README is left out below."""
    assert {command.section for command in COMMANDS} == {DEMO.section, *(name for group in GROUPS for name in group)}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.text[:60])
def test_a_command_does_what_the_readme_shows(command: Command, sessions: dict[str, Future[Session]]) -> None:
    """Every command ends as it should, long-running ones after SIGTERM, and prints lines like those shown."""
    session = sessions[command.section].result()
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
    lines = sessions[command.section].result().results[command].stdout.splitlines()
    *counts, took = command.shown
    assert tuple(lines[:-1]) == tuple(counts)
    assert shape(lines[-1]) == shape(took)


def test_the_lines_of_json_are_real(sessions: dict[str, Future[Session]]) -> None:
    """Each JSON line in the README is one that the replay of the shipped recording has written."""
    results = sessions["Replay"].result().directory / "replayed"
    written = {line for file in results.glob("*.jsonl") for line in file.read_text().splitlines()}
    lines = [block.strip() for _, block in code_blocks("json")]
    assert len(lines) == 3
    assert set(lines) <= written


def test_the_receiver_takes_a_callback_once() -> None:
    """The receiver's code in the README accepts a signed callback, drops its repetition and refuses a forged one."""
    [(_, code)] = code_blocks("python")
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
    """Each file of the README is without mistakes, but for the one that shows them."""
    path = tmp_path / name
    path.write_text(FILES[name])
    if name == "faults.toml":
        assert load_faults(path).fault
    elif name == "wrong.toml":
        with pytest.raises(ConfigurationError):
            load_settings(path, {})
    else:
        load_settings(path, {})


TABLES: dict[str, type[BaseModel]] = {
    "[genesys]": models.GenesysSettings,
    "[genesys.interceptor]": models.InterceptorTexts,
    "[windows]": models.WindowSettings,
    "[alerts]": models.AlertSettings,
    "[delivery]": models.DeliverySettings,
    "[state]": models.StateSettings,
    "[metrics]": MetricsSettings,
    "[[feed]]": models.FeedSettings,
    "[feed.defaults]": FeedDefaults,
    "[audiohook]": models.AudioHookSettings,
    "[[interceptor]]": models.InterceptorSettings,
}


def table_rows(text: str, title: str) -> dict[str, list[str]]:
    """The rows below a line that begins with a title in backticks, by the name in their first cell."""
    found = re.search(rf"^`{re.escape(title)}`.*\n\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert found is not None, title
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in found[1].splitlines()[2:]]
    return {row[0].strip("`"): row[1:] for row in rows}


def as_toml(field: FieldInfo) -> str:
    """A field's default as the table writes it."""
    if field.is_required():
        return "required"
    value = field.get_default()
    if value is None:
        return "none"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    value = str(value) if isinstance(value, Path) else value
    return f"`{json.dumps(value)}`"


def limits(field: FieldInfo) -> list[str]:
    """What the table must say of a field's limits."""
    checks = [each.func for each in field.metadata if isinstance(each, AfterValidator)]
    said = [f"{check.low:g} to {int(check.high)}" for check in checks if isinstance(check, Between) and check.high >= 1]
    said += [f"{check.low:g} to {check.high:g}" for check in checks if isinstance(check, Between) and check.high < 1]
    if get_origin(field.annotation) is Literal:
        said += [f'`"{word}"`' for word in get_args(field.annotation)]
    return said


def test_every_table_of_the_configuration_is_listed() -> None:
    """There is no table of settings that the README does not have."""
    nested = {"[genesys.interceptor]", "[feed.defaults]"}
    names = {f"[[{f.alias}]]" if f.alias else f"[{name}]" for name, f in models.Settings.model_fields.items()}
    assert names | nested == TABLES.keys() | {"[defaults]"}
    assert models.InterceptorDefaults.model_fields.keys() == (
        models.InterceptorSettings.model_fields.keys() - {"conversation_id"}
    )


@pytest.mark.parametrize("title", TABLES)
def test_the_configuration_table_is_that_of_the_models(title: str) -> None:
    """A table lists exactly the keys of its model, each with its default and its limits."""
    rows = table_rows(README, title)
    nested = ("interceptor", "defaults")
    fields = {name: field for name, field in TABLES[title].model_fields.items() if name not in nested}
    assert rows.keys() == fields.keys()
    for name, field in fields.items():
        default, allowed, meaning = rows[name]
        assert default == as_toml(field), name
        assert all(limit in allowed for limit in limits(field)), name
        assert meaning


def all_commands(group: Any, names: tuple[str, ...] = ("voicewatch",)) -> Iterator[tuple[str, set[str]]]:
    """The commands of the Typer app, each with the long options that are its own."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from all_commands(command, (*names, name))
        else:
            options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
            yield " ".join((*names, name)), options - {"--help", "--log-json"}


def test_the_command_table_is_that_of_the_program() -> None:
    """The table lists exactly the commands that there are, each with exactly its options."""
    rows = re.findall(r"^\| `(voicewatch .*?)` \|", README, re.MULTILINE)
    listed = {}
    for row in rows:
        name = re.match(r"[a-z]+( [a-z]+)*", row)
        assert name is not None
        listed[name[0]] = set(re.findall(r"--[a-z-]+", row))
    assert listed == dict(all_commands(get_command(app)))


@pytest.mark.parametrize("page", PAGES)
def test_the_make_targets_exist(page: str) -> None:
    """Every `make` command that a page names is one that make knows."""
    targets = set(re.findall(r"[`$] ?make ([a-z-]+)", PAGES[page]))
    assert {"demo", "test", "check"} <= targets
    plan = make_plan(*sorted(targets))
    assert plan.code == 0, plan


def test_the_readme_lists_every_make_target() -> None:
    """The table of targets is that of the Makefile."""
    makefile = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    listed = re.findall(r"^\| `make ([a-z-]+)` \|", README, re.MULTILINE)
    assert set(listed) == set(makefile) - {"help"}


def test_the_links_lead_somewhere() -> None:
    """Links within the README lead to its sections, links to files to files that are there."""
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("https://"):
            assert (ROOT / target).is_file(), target


def test_the_operations_page_lists_every_metric() -> None:
    """Its table is that of the program, and its links and files are there."""
    listed = set(re.findall(r"`(voicewatch_[a-z_]+)`", "".join(re.findall(r"^\|.*$", OPERATIONS, re.MULTILINE))))
    assert listed == {name for name in known_metrics() if name.startswith("voicewatch_")}
    headings = re.findall(r"^#+ (.*)$", OPERATIONS, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", OPERATIONS):
        path, _, anchor = target.partition("#")
        assert (ROOT / "docs" / path).is_file() if path else anchor in anchors, target
    for path in re.findall(r"`?(docker/[a-zA-Z0-9_./-]+)", OPERATIONS):
        assert (ROOT / path).exists(), path
