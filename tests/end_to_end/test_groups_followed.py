"""Groups over instances, live: `voicewatch merge --follow` beside real instances, killed, and with one that dies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from connectors.callbacks.outbox import Outbox
from connectors.callbacks.receiver import CallbackReceiver
from connectors.format.owners import Share
from connectors.genesys.simulator.voice_events import VoiceEventsSimulator, running_simulator
from flows.commands.bootstrap import run_bootstrap
from flows.settings.instance import of_instance
from flows.settings.loading import load_settings
from tests.support.callbacks import eventually
from tests.support.cli import Running, environ, running, voicewatch
from tests.support.live import Live
from tests.support.page_session import free_port

pytestmark = pytest.mark.timeout(300)

CONVERSATIONS = 12
COUNT = 2
GROUPS = {"by": ["queue"], "min_conversations": 2, "raise_ratio": 0.5, "clear_ratio": 0.4, "clear_after_s": 2}


@pytest.fixture
def platform() -> Iterator[tuple[VoiceEventsSimulator, CallbackReceiver]]:
    with running_simulator(conversations=CONVERSATIONS, rate=5.0) as simulator, CallbackReceiver() as receiver:
        yield simulator, receiver


class Deployment:
    """Two instances and a follower of their groups."""

    def __init__(self, directory: Path, base_url: str, receiver_url: str) -> None:
        self.directory = directory
        self.out = directory / "followed"
        self.pages: list[str] = []
        groups = {**GROUPS, "qa_callback_url": f"{receiver_url}/groups"}
        self.instances: list[Live] = []
        for index in range(COUNT):
            (directory / f"{index}").mkdir()
            live = Live(directory / f"{index}", base_url, receiver_url, conversations=CONVERSATIONS, groups=groups)
            self.instances.append(live)
            settings = load_settings(live.config, self.variables(index))
            assert not run_bootstrap(of_instance(settings, ""), environ({})).failed

    def variables(self, index: int) -> dict[str, str]:
        page = {"VOICEWATCH_WEB__LISTEN": self.pages[index]} if self.pages else {}
        return {"VOICEWATCH_SHARD_INDEX": str(index), "VOICEWATCH_SHARD_COUNT": str(COUNT), **page}

    def start(self, stack: ExitStack, index: int) -> Running:
        return stack.enter_context(self.instances[index].running("run", **self.variables(index)))

    def follow(self, stack: ExitStack, *options: str) -> Running:
        """Start the follower, once more."""
        sources = [f"http://{page}" for page in self.pages] or [str(live.state.dir) for live in self.instances]
        arguments = ["merge", *sources, "--out", self.out, "--config", self.instances[0].config, "--follow", *options]
        return stack.enter_context(running(self.directory, *arguments))

    def ends(self) -> list[float]:
        """Return the ends of the windows of groups that the follower has written."""
        path = self.out / "groups.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line)["end"] for line in lines if line.endswith(b"\n")]

    def wait_for_ends(self, more: int, follower: Running) -> None:
        wanted = len(set(self.ends())) + more
        eventually(lambda: len(set(self.ends())) >= wanted or follower.process.poll() is not None, 60)
        assert follower.process.poll() is None, follower.log

    def joined(self) -> Path:
        """Return the journals of all instances as one of an instance that watches everything."""
        records: list[dict[str, Any]] = []
        for live in self.instances:
            records += [one for one in live.records() if "settings" not in one and "tick" not in one]
        settings = next(one for one in self.instances[0].records() if "settings" in one)
        del settings["settings"]["groups"]["part"]
        records.sort(key=lambda one: one["received_at"])
        settings["received_at"] = records[0]["received_at"]
        path = self.directory / "joined.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in (settings, *records)))
        return path


def incidents(path: Path) -> list[dict[str, Any]]:
    alerts = map(json.loads, path.read_bytes().splitlines())
    return [alert for alert in alerts if alert["alertType"] == "GROUP_DEGRADED"]


@pytest.mark.parametrize("by_page", [False, True], ids=["directories", "pages"])
def test_followed_groups_are_those_of_one_process(
    platform: tuple[VoiceEventsSimulator, CallbackReceiver], tmp_path: Path, *, by_page: bool
) -> None:
    """The follower is killed twice; windows and incidents are those of one process's replay of all journals joined.

    Each incident reaches its receiver while the calls go on.
    """
    simulator, receiver = platform
    deployment = Deployment(tmp_path, simulator.base_url, receiver.url)
    if by_page:
        deployment.pages = [f"127.0.0.1:{free_port()}" for _ in range(COUNT)]
    with ExitStack() as stack:
        follower = deployment.follow(stack)
        for index in range(COUNT):
            deployment.start(stack, index)
        for _ in range(2):
            deployment.wait_for_ends(3, follower)
            follower.process.kill()
            follower.wait()
            follower = deployment.follow(stack)
        deployment.wait_for_ends(8, follower)
        eventually(lambda: any(got.path == "/groups" for got in receiver.received), 30)
        assert follower.stop() == 0, follower.log
        for live in deployment.instances:
            assert live.process is not None
            assert live.process.stop() == 0, live.process.log
    for index, live in enumerate(deployment.instances):
        watched = {json.loads(line)["conversation_id"] for line in live.state.windows.read_bytes().splitlines()}
        assert watched
        assert all(map(Share(index, COUNT).owns_text, watched))
        assert not incidents(live.state.alerts)
    replayed = voicewatch("replay", deployment.joined(), "--out", tmp_path / "replayed")
    assert replayed.returncode == 0, replayed.stderr
    found = (deployment.out / "groups.jsonl").read_bytes().splitlines()
    assert found == (tmp_path / "replayed/groups.jsonl").read_bytes().splitlines()[: len(found)]
    upto = json.loads(found[-1])["end"]
    raised = incidents(deployment.out / "alerts.jsonl")
    assert raised == [one for one in incidents(tmp_path / "replayed/alerts.jsonl") if one["timestamp"] <= upto]
    assert raised
    outbox = Outbox(deployment.out / "outbox/outbox.sqlite3")
    pending = outbox.counts()["pending"]
    outbox.close()
    got = {one.id for one in receiver.received if one.path == "/groups"}
    assert len({one["alertId"] for one in raised} - got) <= pending


def test_others_go_on_without_a_dead_instance(
    platform: tuple[VoiceEventsSimulator, CallbackReceiver], tmp_path: Path
) -> None:
    """It is left out after a while, which is logged, and counted again when it is back."""
    simulator, receiver = platform
    deployment = Deployment(tmp_path, simulator.base_url, receiver.url)
    with ExitStack() as stack:
        follower = deployment.follow(stack, "--leave-out-after", "6")
        first, second = (deployment.start(stack, index) for index in range(COUNT))
        deployment.wait_for_ends(3, follower)
        second.process.kill()
        follower.wait_for_log("instance_left_out")
        deployment.wait_for_ends(3, follower)
        deployment.start(stack, 1)
        follower.wait_for_log("instance_is_back")
        deployment.wait_for_ends(3, follower)
        assert follower.stop() == 0, follower.log
        assert first.process.poll() is None
    decisions = list(map(json.loads, (deployment.out / "decisions.jsonl").read_bytes().splitlines()))
    dead = str(deployment.instances[1].state.dir)
    of_dead = [one["is_waited_for"] for one in decisions if one["instance"] == dead]
    # On a slow machine one instance may also start that much later than the other.
    assert of_dead == [False, True] * (len(of_dead) // 2)
    assert of_dead
    ends = deployment.ends()
    assert ends == sorted(ends)
