"""The command line as a user meets it: in processes of its own, by what it prints and how it exits."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from connectors.callbacks.outbox import AttemptResult, Callback, Outbox
from connectors.genesys.simulator.connection import Answer
from connectors.genesys.simulator.faults import parse_faults
from connectors.genesys.simulator.notifications import NotificationsSimulator
from connectors.genesys.simulator.organisation import FIRST_QUEUE_ID
from connectors.genesys.simulator.server import running as running_sim
from connectors.genesys.simulator.voice_events import running_simulator
from connectors.state.audit import AuditLog
from connectors.state.files import StateLock
from flows.state import StateLayout
from tests.support.callbacks import eventually
from tests.support.cli import ROOT, SECRET, command, configuration, environ, running, several, voicewatch
from tests.support.receiver import Reply, ScriptedReceiver

# Processes that start while others do everything at once take their time.
pytestmark = pytest.mark.timeout(300)

RECORDING = ROOT / "tests/data/three-minutes.jsonl"
INTERCEPTOR = {
    "conversation_id": "c1",
    "leg_id": "l1",
    "interceptor_address": "sip:qa@monitoring.internal",
    "qa_callback_url": "https://qa.example.com/alerts",
}
COMMANDS = [
    (),
    ("demo",),
    ("check",),
    ("bootstrap",),
    ("run",),
    ("cluster",),
    ("replay",),
    ("simulate",),
    ("outbox",),
    ("outbox", "list"),
    ("outbox", "show"),
    ("outbox", "retry"),
    ("audit",),
    ("audit", "show"),
    ("audit", "verify"),
]
HEAVY = {"bytewax", "httpx", "numpy", "orjson", "pydantic", "PureCloudPlatformClientV2", "websockets"}


def parsed(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def fails(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line that a failed command wrote on standard error."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("voicewatch: ")
    return line.removeprefix("voicewatch: ")


# Help, output, logs


def test_every_command_has_help() -> None:
    """Each command explains itself with exit 0, and costs no import that help does not need."""
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from flows.cli import app\n"
        f"for command in {COMMANDS!r}:\n"
        "    done = CliRunner().invoke(app, [*command, '--help'], prog_name='voicewatch')\n"
        "    modules = {name.partition('.')[0] for name in sys.modules}\n"
        f"    print(done.exit_code, *(modules & {HEAVY!r}), '|', done.output.replace(chr(10), ' '))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ({"COLUMNS": "200"}), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for names, told in zip(COMMANDS, done.stdout.splitlines(), strict=True):
        heavy, _, text = told.partition(" | ")
        assert heavy == "0"
        assert f"Usage: voicewatch {' '.join(names)}".rstrip() in text
        assert "--help" in text


def test_help_and_usage_in_a_process_of_their_own() -> None:
    """Help goes to standard output with exit 0; an unknown command and a missing argument are exit 2."""
    done = voicewatch("--help")
    assert done.returncode == 0
    assert "Usage: voicewatch" in done.stdout
    assert "\x1b" not in done.stdout
    assert "divide the conversations ([shard]); add up their groups." in " ".join(done.stdout.split())
    assert done.stderr == ""
    for done in several([["explode"], ["replay"], ["replay", RECORDING], ["simulate", "--rate", "often"]]):
        assert done.returncode == 2
        assert done.stdout == ""
        assert "Usage: voicewatch" in done.stderr


def test_the_version_is_that_of_the_package() -> None:
    """`--version` prints the name and the version of the installed package."""
    done = voicewatch("--version")
    assert (done.returncode, done.stdout) == (0, f"voicewatch {version('voicewatch')}\n")


def test_completion_is_offered_for_shells() -> None:
    """The completion script of a shell completes commands."""
    done = voicewatch("", _VOICEWATCH_COMPLETE="complete_bash", COMP_WORDS="voicewatch au", COMP_CWORD="1")
    assert done.stdout.split() == ["audit"]


def test_a_variable_names_the_configuration(outbox_config: Path) -> None:
    """VOICEWATCH_CONFIG stands for CONFIG in every command, also before other arguments; a given file wins."""
    fill(outbox_config, "https://qa.example.com/alerts")
    commands: list[list[object]] = [
        ["check"],
        ["outbox", "list"],
        ["outbox", "show", "id-1"],
        ["outbox", "show", outbox_config, "id-2"],
    ]
    checked, listed, shown, given = several(commands, VOICEWATCH_CONFIG=str(outbox_config))
    assert checked.stdout.startswith(f"{outbox_config}: valid")
    assert "2 dead" in listed.stdout
    assert [json.loads(done.stdout)["id"] for done in (shown, given)] == ["id-1", "id-2"]


def test_a_log_never_shows_the_values_of_variables() -> None:
    """A traceback in the log tells where something failed, not what the variables held: those may be secret."""
    script = (
        "import sys\n"
        "from connectors.runtime.logs import get_logger\n"
        "from connectors.runtime.logs import configure_logs\n"
        "configure_logs(as_json=sys.argv[1] == 'json')\n"
        "def fail(token):\n"
        "    raise ValueError('no good')\n"
        "try:\n"
        f"    fail('{SECRET}'[::-1][::-1])\n"
        "except ValueError:\n"
        "    get_logger(__name__).exception('it_failed', where='here')\n"
    ).replace(f"'{SECRET}'[::-1][::-1]", "sys.argv[2]")
    for form in ("json", "text"):
        done = subprocess.run(
            [sys.executable, "-c", script, form, SECRET], env=environ({}), capture_output=True, text=True, timeout=60
        )
        assert done.stdout == ""
        assert "it_failed" in done.stderr
        assert "ValueError: no good" in done.stderr
        assert SECRET not in done.stderr
        assert "\x1b" not in done.stderr
        if form == "json":
            assert json.loads(done.stderr)["where"] == "here"


def test_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A full disk behind standard output is exit 1 and one line, a closed pipe ends a command without a word."""
    for arguments in (["replay", RECORDING, "--out", tmp_path / "out"], ["--version"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                command(*arguments), stdout=full, stderr=subprocess.PIPE, env=environ({}), text=True, timeout=60
            )
        assert (done.returncode, done.stderr) == (
            1,
            "voicewatch: standard output cannot be written: No space left on device\n",
        )
    readable, writable = os.pipe()
    os.close(readable)
    done = subprocess.run(
        command("--version"), stdout=writable, stderr=subprocess.PIPE, env=environ({}), text=True, timeout=60
    )
    os.close(writable)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_bad_directory_of_results_is_bad_usage(tmp_path: Path) -> None:
    """A --out that cannot be a directory is exit 2, and the advice names that option."""
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file/below"):
        told = fails(voicewatch("replay", RECORDING, "--out", out), 2)
        assert "choose another --out" in told


# check


def test_check_says_what_a_configuration_holds(tmp_path: Path) -> None:
    """A valid configuration is exit 0, with its doubts as warnings."""
    config = configuration(tmp_path / "voicewatch.toml", {"interceptor": [INTERCEPTOR]})
    done = voicewatch("check", config)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == f"{config}: valid; 1 interceptor(s)"
    assert "warning: VOICEWATCH_CALLBACK_SECRET is not set: callbacks will not be signed" in done.stdout
    assert done.stderr == ""


def test_check_refuses_a_secret_that_a_run_would_refuse(tmp_path: Path) -> None:
    """What is in the environment is looked at too, and a bad secret is not repeated."""
    config = configuration(tmp_path / "voicewatch.toml", {"interceptor": [INTERCEPTOR]})
    done = voicewatch("check", config, VOICEWATCH_CALLBACK_SECRET="unprefixed")
    assert done.returncode == 2
    assert "whsec_" in done.stderr
    assert "unprefixed" not in done.stderr + done.stdout


def test_a_replay_of_what_is_no_recording_says_so(tmp_path: Path) -> None:
    """When every line is rejected, one line says what the file looks like, with exit 1."""
    text = tmp_path / "notes.txt"
    text.write_text("one\ntwo\n")
    done = voicewatch("replay", text, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        f"voicewatch: {text}: every line was rejected; it looks like plain text: a recording has one JSON object a line"
    )


def test_a_replay_takes_a_directory_and_counts_frames_without_a_latency(tmp_path: Path) -> None:
    """All files in it that are not hidden; an empty segment and a hidden file are passed over."""
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    frame = {"event": "conversation.updated", "entity": {"id": "c"}, "timestamp": 1_700_000_000.0}
    (recorded / "b.jsonl").write_text(json.dumps(frame) + "\n")
    (recorded / "a.json").write_text(json.dumps([{**frame, "receivedAt": 1_700_000_001.0}] * 2, indent=1))
    (recorded / "c.jsonl").write_text("")
    (recorded / ".hidden").write_text("not a recording")
    done = voicewatch("replay", recorded, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["frames", "3"]
    assert "no latency known for 1 frames" in done.stdout
    assert (tmp_path / "out" / "rejected.jsonl").read_text() == ""
    (tmp_path / "none").mkdir()
    assert "there is no file in this directory" in voicewatch("replay", tmp_path / "none", "--out", tmp_path).stderr


def test_check_lists_every_mistake_at_once(tmp_path: Path) -> None:
    """All mistakes of a file come together, each with its key, with exit 2."""
    tables = {
        "windows": {"length_s": 10, "slide_s": 3},
        "alerts": {"polcy": "frame"},
        "interceptor": [{**INTERCEPTOR, "max_latency_ms": 20}, {**INTERCEPTOR, "interceptor_address": "tel:1"}],
    }
    config = configuration(tmp_path / "voicewatch.toml", tables)
    done = voicewatch("check", config)
    assert done.returncode == 2
    assert done.stdout == ""
    first, *mistakes = done.stderr.splitlines()
    assert first == f"voicewatch: {config}:"
    keys = [mistake.strip().partition(":")[0] for mistake in mistakes]
    assert sorted(keys) == [
        "alerts.polcy",
        "interceptor[0].max_latency_ms",
        "interceptor[1].conversation_id",
        "interceptor[1].interceptor_address",
        "windows.slide_s",
    ]


def test_check_online_tries_the_token_and_the_load_check(tmp_path: Path) -> None:
    """Online, the answer of Genesys counts, and credentials have to be there."""
    with running_simulator(active_conversations=3) as simulator:
        config, saturated = (
            configuration(
                tmp_path / f"{allowed}.toml", {"genesys": {"base_url": simulator.base_url, "max_concurrent": allowed}}
            )
            for allowed in (4, 3)
        )
        done, refused = several([["check", config, "--online"], ["check", saturated, "--online"]])
        assert done.returncode == 0
        assert done.stdout.splitlines()[-1] == "online: token received, 3 active voice conversation(s), 4 allowed"
        assert refused.returncode == 1
        assert "bandwidth saturation: 3 voice conversations are active and max_concurrent is 3" in refused.stderr
        done = voicewatch("check", config, "--online", GENESYS_CLIENT_SECRET=None)
        assert done.returncode == 2
        assert "GENESYS_CLIENT_SECRET" in done.stderr.splitlines()[-1]
        assert SECRET not in done.stdout + done.stderr


def test_check_online_looks_up_queues_users_and_the_permission_for_names(tmp_path: Path) -> None:
    """Unknown names and missing permissions are a line each, with the key or feed, and exit status 1."""
    with running_sim(NotificationsSimulator()) as simulator:
        base = f"[genesys]\nbase_url = '{simulator.base_url}'\nresolve_names = true\n"
        feed = "[[feed]]\nkind = 'notifications'\nname = 'desk'\n"
        good, bad, barred = (tmp_path / f"{name}.toml" for name in ("good", "bad", "barred"))
        good.write_text(base + feed + f"queues = ['support', '{FIRST_QUEUE_ID}']\nusers = ['Ada Abel']\n")
        bad.write_text(base + feed + f"queues = ['Nowhere']\nusers = ['Ada Abel', '{FIRST_QUEUE_ID}']\n")
        barred.write_text(base + feed + "queues = ['Support', 'Sales']\nusers = ['Ada Abel']\n")
        done = voicewatch("check", good, "--online")
        assert (done.returncode, done.stdout.splitlines()[-1]) == (
            0,
            "online: token received, 3 queue(s) and user(s) found",
        )
        done = voicewatch("check", bad, "--online")
        assert done.returncode == 1
        assert done.stdout.splitlines()[-3:] == [
            "online: token received, 1 queue(s) and user(s) found",
            'problem: feed "desk": queue "Nowhere" is unknown to Genesys',
            f'problem: feed "desk": user "{FIRST_QUEUE_ID}" is unknown to Genesys',
        ]
        refusal = Answer(403, {"message": "missing permission", "code": "missing.permissions", "status": 403})
        simulator.script("queues", refusal, refusal)
        done = voicewatch("check", barred, "--online")
        remedy = "(403); give the OAuth client a role with the permission routing:queue:view"
        assert done.returncode == 1
        assert done.stdout.splitlines()[-2:] == [
            f'problem: feed "desk": queues cannot be looked up {remedy}',
            f"problem: genesys.resolve_names: names of queues cannot be looked up {remedy}",
        ]
        finding = tmp_path / "finding.toml"
        finding.write_text(f"{good.read_text()}[watch]\nmode = 'discover'\n")
        assert voicewatch("check", finding, "--online").returncode == 0
        simulator.script("activity", refusal)
        done = voicewatch("check", finding, "--online")
        assert done.returncode == 1
        assert done.stdout.splitlines()[-1] == (
            'problem: feed "desk": calls in progress cannot be queried (403); give the OAuth client a role that may '
            "query the activity of conversations in analytics"
        )


# Before anything is created


def test_bootstrap_and_run_need_credentials(tmp_path: Path) -> None:
    """Without credentials nothing starts, and the variable that is missing is named, with exit 2."""
    config = configuration(
        tmp_path / "voicewatch.toml", {"state": {"dir": tmp_path / "state"}, "interceptor": [INTERCEPTOR]}
    )
    commands = [["bootstrap", config], ["run", config], ["cluster", config, "--no-bootstrap"]]
    for done in several(commands, GENESYS_CLIENT_ID=None):
        assert "GENESYS_CLIENT_ID" in fails(done, 2)


@pytest.mark.parametrize("place", ["state", "state/recovery"])
def test_a_state_directory_that_cannot_be_is_told_before_anything_is_created(tmp_path: Path, place: str) -> None:
    """With a file in the place of a directory, no command of those that create interceptors asks Genesys for one."""
    obstacle = tmp_path / place
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.write_bytes(b"")
    with running_simulator() as simulator:
        config = configuration(
            tmp_path / "voicewatch.toml",
            {
                "genesys": {"base_url": simulator.base_url},
                "state": {"dir": tmp_path / "state"},
                "interceptor": [INTERCEPTOR],
            },
        )
        for done in several([["run", config], ["cluster", config]]):
            line = fails(done, 2)  # a supervisor need not start it again
            assert str(obstacle) in line
            assert "; " in line, "it says what to do"
        assert simulator.created == []
        assert simulator.tokens_issued == 0


def test_a_cluster_refuses_what_a_restart_does_not_change(tmp_path: Path) -> None:
    """A port in use or a target without a URL ends it with exit 2, before any process is started again and again."""
    tables = {"state": {"dir": tmp_path / "state"}, "interceptor": [INTERCEPTOR]}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        in_use = {"listen": f"127.0.0.1:{taken.getsockname()[1]}"}
        configs = [
            configuration(tmp_path / "web.toml", {**tables, "web": in_use}),
            configuration(tmp_path / "metrics.toml", {**tables, "metrics": in_use}),
            configuration(
                tmp_path / "notify.toml", {**tables, "notify": [{"name": "a", "kind": "slack", "url_env": "NONE"}]}
            ),
        ]
        done = several([["cluster", config, "--no-bootstrap"] for config in configs])
    assert [each.returncode for each in done] == [2, 2, 2]
    assert "web.listen: 127.0.0.1:" in done[0].stderr
    assert "metrics.listen: 127.0.0.1:" in done[1].stderr
    assert "NONE is not set in the environment" in done[2].stderr
    assert all("cluster_process_died" not in each.stderr for each in done)


def test_bootstrap_creates_once_and_tells(tmp_path: Path) -> None:
    """Bootstrap creates what is missing, reports what Genesys refused with exit 1, and creates nothing twice."""
    faults = parse_faults('[[fault]]\non = "create"\nstatus = 500\n')
    with running_simulator(faults=faults) as simulator:
        config = configuration(
            tmp_path / "voicewatch.toml",
            {
                "genesys": {"base_url": simulator.base_url},
                "state": {"dir": tmp_path / "state"},
                "interceptor": [INTERCEPTOR, {**INTERCEPTOR, "conversation_id": "c2"}],
            },
        )
        bootstrap = ["bootstrap", config]
        done, again, retried = several([bootstrap, bootstrap, [*bootstrap, "--retry-unknown"]])
        assert done.returncode == 1
        failed, created, total = sorted(done.stdout.splitlines(), key=lambda line: line[:1] != "F")[:3]
        assert failed.startswith("FAILED    c1: ")
        assert created == "created   c2"
        assert total == "1 created, 0 existing, 1 failed"
        assert again.returncode == 1
        assert again.stdout.splitlines()[-1] == "0 created, 1 existing, 1 failed"
        assert retried.returncode == 0
        assert retried.stdout.splitlines() == ["created   c1", "existing  c2", "1 created, 1 existing, 0 failed"]
        assert Counter(one.conversation_id for one in simulator.created) == {"c1": 1, "c2": 1}


# replay


def test_replay_writes_and_sums_up(tmp_path: Path) -> None:
    """A replay writes three files and a summary; bad lines come with file and line; nothing is coloured."""
    done = voicewatch("replay", RECORDING, "--out", tmp_path / "[out]")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    shown = {" ".join(name.split()): value for name, value in re.findall(r"(?m)^ *(.+?) {2,}(\d+) *$", done.stdout)}
    windows, alerts, rejected = (
        parsed(tmp_path / "[out]" / f"{name}.jsonl") for name in ("windows", "alerts", "rejected")
    )
    assert shown["windows"] == str(len(windows))
    assert shown["alerts raised"] == str(sum(alert["state"] == "raised" for alert in alerts))
    assert shown["alerts resolved"] == str(sum(alert["state"] == "resolved" for alert in alerts))
    assert shown["rejected lines"] == str(len(rejected)) == "2"
    assert re.search(rf"[\d,]+ frames/s; results in {re.escape(str(tmp_path / '[out]'))}", done.stdout)
    lines = RECORDING.read_text().splitlines()
    for bad in rejected:
        assert bad["file"] == str(RECORDING)
        assert bad["text"] == lines[bad["line"] - 1]
        assert bad["reason"]


def test_replay_imports_only_what_it_needs(tmp_path: Path) -> None:
    """A replay that logs and delivers nothing waits for no import that only logging, delivery or settings need."""
    script = (
        "import sys\n"
        "from flows.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    arguments = ["replay", str(RECORDING), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environ({}), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.splitlines()[-1].split())
    assert {"bytewax", "numpy"} <= modules
    assert not modules & {
        "structlog",
        "rich",
        "pydantic",
        "sqlite3",
        "httpx",
        "websockets",
        "prometheus_client",
        "attr",
    }


def test_replay_takes_limits_from_a_configuration(tmp_path: Path) -> None:
    """A configuration overrides the thresholds of the conversations that it names, and no other's."""
    voicewatch("replay", RECORDING, "--out", tmp_path / "recorded")
    recorded = parsed(tmp_path / "recorded/alerts.jsonl")
    named = Counter(alert["conversationId"] for alert in recorded).most_common(1)[0][0]
    limits = {"max_latency_ms": 500, "packet_loss_threshold": 0.1}
    config = configuration(
        tmp_path / "voicewatch.toml", {"interceptor": [{**INTERCEPTOR, "conversation_id": named, **limits}]}
    )
    done = voicewatch("replay", RECORDING, "--out", tmp_path / "tried", "--config", config)
    assert done.returncode == 0, done.stderr
    tried = parsed(tmp_path / "tried/alerts.jsonl")
    assert [alert for alert in recorded if alert["conversationId"] != named] == [
        alert for alert in tried if alert["conversationId"] != named
    ]
    assert all(alert["threshold"] in (500, 0.1) for alert in tried if alert["conversationId"] == named)
    assert len(tried) < len(recorded)


def test_replay_watches_everybody_if_told_to(tmp_path: Path) -> None:
    """Frames without watch records lead to a hint, and with `unwatched = "default"` to windows and alerts."""
    frames = [
        {"event": "x", "entity": {"id": f"c{n % 3}"}, "timestamp": 100.0 + n, "receivedAt": 100.0 + n + 0.2 * (n > 9)}
        for n in range(20)
    ]
    path = tmp_path / "frames.jsonl"
    path.write_text("".join(f"{json.dumps(frame)}\n" for frame in frames))
    done = voicewatch("replay", path, "--out", tmp_path / "absent")
    assert done.returncode == 0
    assert 'unwatched = "default"' in done.stdout
    assert (tmp_path / "absent/windows.jsonl").read_bytes() == b""
    assert (tmp_path / "absent/alerts.jsonl").read_bytes() == b""
    config = configuration(tmp_path / "voicewatch.toml", {"alerts": {"unwatched": "default"}})
    done = voicewatch("replay", path, "--out", tmp_path / "everybody", "--config", config)
    assert done.returncode == 0
    alerts = parsed(tmp_path / "everybody/alerts.jsonl")
    assert {alert["conversationId"] for alert in alerts} == {"c0", "c1", "c2"}


def test_replay_delivers_if_told_to(tmp_path: Path) -> None:
    """With --deliver every alert arrives at the receiver of its conversation, signed, and the summary says so."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    with ScriptedReceiver(secrets=[secret]) as receiver:
        recording = tmp_path / "recording.jsonl"
        recording.write_text(RECORDING.read_text().replace("https://qa.example.com/alerts", f"{receiver.url}/alerts"))
        config = configuration(tmp_path / "voicewatch.toml", {"delivery": {"allow_private_addresses": True}})
        done = voicewatch(
            "replay",
            recording,
            "--out",
            tmp_path / "out",
            "--deliver",
            "--config",
            config,
            VOICEWATCH_CALLBACK_SECRET=secret,
        )
        received = receiver.received
    assert done.returncode == 0, done.stderr
    alerts = parsed(tmp_path / "out/alerts.jsonl")
    assert sorted(one.id for one in received) == sorted(alert["alertId"] for alert in alerts)
    assert all(one.verified for one in received)
    assert {one.body for one in received} == set((tmp_path / "out/alerts.jsonl").read_bytes().splitlines())
    assert f"{len(alerts)} delivered" in done.stdout


def test_replay_keeps_the_pace_and_stops_on_a_signal(tmp_path: Path) -> None:
    """At a real pace the results grow with time; a signal ends it: summary, place, exit code, and a mark in DIR."""
    out = tmp_path / "out"
    windows = out / "windows.jsonl"
    place = rf"interrupted at \d{{4}}-\d\d-\d\dT[0-9:.]+Z, line \d+ of {re.escape(str(RECORDING))}"
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        with running(tmp_path, "replay", RECORDING, "--out", out, "--speed", "20") as process:
            eventually(lambda: windows.exists() and windows.stat().st_size > 0, 60)
            assert "has not ended" in (out / "PARTIAL").read_text()
            assert process.stop(number) == code, process.log
            shown = re.search(r"(?m)^frames +(\d+) *$", process.output)
        assert shown is not None
        assert 0 < int(shown[1]) < 2224
        assert re.search(rf"(?m)^{place}: the results are partial$", process.output)
        assert re.search(rf"{place}\.$", (out / "PARTIAL").read_text())
        windows.unlink()
    assert voicewatch("replay", RECORDING, "--out", out).returncode == 0
    assert not (out / "PARTIAL").exists()


def test_replay_refuses_in_one_line(tmp_path: Path) -> None:
    """A recording that cannot be used is exit 2 and one clear line that names it, and nothing is written."""
    text = RECORDING.read_bytes()
    contents = {
        "empty": b"",
        "utf16": text[:1000].decode().encode("utf-16"),
        "recording": text,
        "copy": text,
        "cut.gz": gzip.compress(text)[:-20],
    }
    reasons = {
        ("missing",): "missing: cannot be read: No such file or directory",
        ("loop",): "loop: cannot be read: Too many levels of symbolic links",
        ("empty",): "empty: the file is empty; a recording has a JSON object on each line",
        ("utf16",): "utf16: not UTF-8 text; a recording is JSON Lines, plain, gzip (.gz) or Zstandard (.zst)",
        ("recording", "copy"): "overlap in time",
        ("cut.gz",): "cut.gz: cannot be read: Compressed file ended before the end-of-stream marker was reached",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    out = tmp_path / "out"
    commands = [["replay", *(tmp_path / name for name in files), "--out", out] for files in reasons]
    for done, reason in zip(several(commands), reasons.values(), strict=True):
        assert reason in fails(done, 2)
    assert not out.exists()
    no_name = tmp_path / ("x" * 300)
    assert f"looking into {no_name} failed: File name too long" in fails(
        voicewatch("replay", RECORDING, "--out", no_name), 2
    )


def test_replay_leaves_the_results_of_a_run_alone(tmp_path: Path) -> None:
    """A state directory, whether a run uses it now or did once, is refused for the results of a replay."""
    with StateLock(tmp_path / "lock"):
        pass
    (tmp_path / "windows.jsonl").write_text("{}\n")
    done = voicewatch("replay", RECORDING, "--out", tmp_path)
    assert f"{tmp_path} is the state directory of a run" in fails(done, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "windows.jsonl"}
    assert (tmp_path / "windows.jsonl").read_text() == "{}\n"


def test_replay_leaves_its_recording_alone(tmp_path: Path) -> None:
    """A recording that has the name of a result is not written over, by whatever path it is named."""
    recording = tmp_path / "alerts.jsonl"
    recording.write_bytes(RECORDING.read_bytes())
    (tmp_path / "link").symlink_to(recording)
    done = voicewatch("replay", tmp_path / "link", "--out", tmp_path)
    assert f"{tmp_path / 'link'} would be written over by the results" in fails(done, 2)
    assert recording.read_bytes() == RECORDING.read_bytes()


def test_damage_that_shows_only_on_the_way_is_told_as_clearly(tmp_path: Path) -> None:
    """A large file that ends too early is exit 2 and a clear line, though its beginning has been replayed by then."""
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(RECORDING.read_bytes() * 4)[:-5000])
    done = voicewatch("replay", path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stdout == ""
    reason = "Compressed file ended before the end-of-stream marker was reached"
    assert done.stderr == f"voicewatch: {path}: cannot be read: {reason}\n"


def test_a_speed_that_is_none_is_refused(tmp_path: Path) -> None:
    """A speed is max or a number above 0; anything else is exit 2 before a file is opened or written."""
    speeds = ["0", "-1", "fast", "nan", "inf", ""]
    commands = [["replay", RECORDING, "--out", tmp_path / "out", "--speed", speed] for speed in speeds]
    for done, speed in zip(several(commands), speeds, strict=True):
        assert fails(done, 2) == f"--speed {speed}: is neither max nor a number above 0"
    assert not (tmp_path / "out").exists()


# demo and simulate


def test_the_demo_delivers() -> None:
    """The demo does the whole job in a few seconds, says so, and leaves JSON lines on standard error if asked to."""
    done = voicewatch("demo", "--seconds", "6", "--log-json")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    shown = re.search(r"(\d+) callbacks delivered and verified by the receiver, 0 pending", done.stdout)
    assert shown is not None, done.stdout
    assert int(shown[1]) >= 1
    assert re.search(r"^raised: \d+ [A-Z_]+", done.stdout, re.MULTILINE), done.stdout
    greeting, *log = done.stderr.splitlines()
    assert greeting == "Watching simulated calls for 6 seconds ..."
    assert {"feed_changed"} <= {json.loads(line)["event"] for line in log}


def test_simulate_tells_where_it_is_and_stops(tmp_path: Path) -> None:
    """The simulator prints its base URL as one JSON line, answers there, and ends on SIGTERM with exit 0."""
    with running(tmp_path, "simulate", "--conversations", "2", "--rate", "5") as process:
        eventually(lambda: process.output.endswith("\n"), 60)
        [line] = process.output.splitlines()
        base_url = json.loads(line)["base_url"]
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{base_url}/api/v2/conversations/voice?conversationType=voice", timeout=30)
        assert process.stop() == 0
        assert process.log == ""


def test_simulate_refuses_bad_faults(tmp_path: Path) -> None:
    """Mistakes in a faults file are exit 2 and named."""
    (tmp_path / "faults.toml").write_text('[[fault]]\nafter_frames = 1\ndo = "explode"\n')
    done = voicewatch("simulate", "--faults", tmp_path / "faults.toml")
    assert done.returncode == 2
    assert "faults.toml" in done.stderr


def test_simulate_refuses_the_options_of_other_kinds() -> None:
    """An option without effect is an error that names the kind and its options; even with the default value."""
    asked = {
        "voice-events --url ws://localhost/a": "--url",
        "notifications --serve a --url b --seed 2": "--serve, --url",
        "notifications --speed 2": "--speed",
        "audiohook --url ws://localhost/a --port 0 --rate 10 --speed 1": "--port, --rate, --speed",
    }
    commands = [["simulate", "--kind", *options.split()] for options in asked]
    for done, (options, refused) in zip(several(commands), asked.items(), strict=True):
        kind = options.partition(" ")[0]
        assert fails(done, 2).startswith(f"--kind {kind}: does not take {refused}; it takes --")


# outbox


@pytest.fixture
def outbox_config(tmp_path: Path) -> Path:
    """A configuration whose outbox has one pending, two dead and one delivered callback."""
    return configuration(
        tmp_path / "voicewatch.toml",
        {"state": {"dir": tmp_path / "state"}, "delivery": {"allow_private_addresses": True}},
    )


def fill(config: Path, url: str) -> None:
    outbox = Outbox(StateLayout(config.parent / "state").outbox)
    callbacks = [Callback(f"id-{n}", f"[c{n}]", url, b'{"n":%d}' % n) for n in range(4)]
    outbox.insert(callbacks, 1_767_225_600.0)
    outbox.record_results(
        [
            AttemptResult(callbacks[0], "pending", 4e9, 2, "no answer within 5 s", wait_s=4e9),
            AttemptResult(callbacks[1], "dead", 1_767_225_700.0, 8, "500 Internal Server Error"),
            AttemptResult(callbacks[2], "dead", 1_767_225_700.0, 1, "404 Not Found"),
            AttemptResult(callbacks[3], "delivered", 1_767_225_700.0, 1),
        ]
    )
    outbox.close()


def test_outbox_list_and_show(outbox_config: Path) -> None:
    """Pending and dead callbacks are listed with their last error; one of them is shown as JSON with its body."""
    fill(outbox_config, "https://qa.example.com/alerts")
    done, one, absent = several(
        [
            ["outbox", "list", outbox_config],
            ["outbox", "show", outbox_config, "id-1"],
            ["outbox", "show", outbox_config, "absent"],
        ]
    )
    assert done.returncode == 0, done.stderr
    assert "1 pending" in done.stdout
    assert "2 dead" in done.stdout
    for shown in ("id-0", "id-1", "id-2", "[c0]", "no answer within 5 s", "404 Not Found"):
        assert shown in done.stdout
    assert "id-3" not in done.stdout
    shown = json.loads(one.stdout)
    assert (shown["id"], shown["state"], shown["attempts"], shown["body"]) == ("id-1", "dead", 8, {"n": 1})
    assert "there is no callback absent" in fails(absent, 2)


def test_outbox_of_a_directory_that_nothing_ran_in(outbox_config: Path) -> None:
    """Without an outbox there is nothing to look at: exit 2, and no outbox is made by looking."""
    commands = [["outbox", "list", outbox_config], ["outbox", "show", outbox_config, "x"]]
    for done in several([*commands, ["outbox", "retry", outbox_config]]):
        assert "nothing has run yet" in fails(done, 2)
    assert not (outbox_config.parent / "state").exists()


def test_outbox_retry_sends_dead_callbacks_again(outbox_config: Path) -> None:
    """Named dead callbacks are sent, the others stay; then all of them; then there are none."""
    with ScriptedReceiver() as receiver:
        fill(outbox_config, f"{receiver.url}/alerts")
        done = voicewatch("outbox", "retry", outbox_config, "id-2")
        assert done.returncode == 0, done.stderr
        assert done.stdout == "1 queued, 1 delivered, 1 pending, 1 dead\n"
        receiver.script("/alerts", [Reply(status=404)])
        done = voicewatch("outbox", "retry", outbox_config)
        assert done.stdout == "1 queued, 0 delivered, 1 pending, 1 dead\n"
        assert [one.id for one in receiver.received] == ["id-2", "id-1"]
        done = voicewatch("outbox", "retry", outbox_config, "id-2")
        assert done.stdout == "nothing to send again: no dead callback with that id\n"


# audit


def test_audit_show_and_verify(tmp_path: Path) -> None:
    """An intact log is shown and verified with exit 0; a changed line, a removed one or none at all is exit 1."""
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    for number in range(5):
        log.append("INTERCEPTOR_CREATED", conversation=f"[c{number}]", outcome="ok", interceptor_id=f"i-{number}")
    log.close()
    verified, done = several([["audit", "verify", path], ["audit", "show", path]])
    assert (verified.returncode, verified.stdout) == (0, f"{path}: intact, 5 lines\n")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 5
    assert "INTERCEPTOR_CREATED    [c3]  ok  interceptor_id=i-3" in done.stdout.splitlines()[3]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1].replace(b"[c1]", b"[cX]"), *lines[2:]]))
    done = voicewatch("audit", "verify", path)
    assert done.returncode == 1
    assert f"{path}: NOT intact: 1 fault(s) in 5 lines" in done.stdout
    assert "line 2" in done.stdout
    path.write_bytes(b"".join([b'{"prev":"0","time":"yesterday"}\n', *lines[:-1]]))
    done, missing = several([["audit", "show", path], ["audit", "verify", tmp_path / "nothing"]])
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5
    assert "No such file" in fails(missing, 1)


def test_audit_show_refuses_what_is_no_audit_log(tmp_path: Path) -> None:
    """A journal, a text and other JSON are bad input, reported in one line; lines of a log are shown."""
    contents = {"journal": RECORDING.read_bytes(), "text": b"hello\nworld", "list": b'["prev"]\n'}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    commands = [["audit", verb, tmp_path / name] for verb in ("show", "verify") for name in contents]
    for done, name in zip(several(commands), [*contents, *contents], strict=True):
        told = fails(done, 2)
        assert told.startswith(f"{tmp_path / name}: line 1 is not a line of an audit log")
        assert told.endswith("such as state/audit.jsonl")
    path = tmp_path / "audit.jsonl"
    AuditLog(path).append("FEED_UP", conversation=None, outcome="listening")
    path.write_bytes(b"\xff\n" + path.read_bytes() + b'{"time":1,"act')
    done = voicewatch("audit", "show", path)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    path.write_bytes(b"")
    done = voicewatch("audit", "show", path)
    assert (done.returncode, done.stdout) == (0, "")
