"""A partitioned deployment: real instances that divide the conversations, killed, started again and rescaled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from connectors.callbacks.receiver import CallbackReceiver
from connectors.format.owners import Share
from connectors.genesys.simulator.calls import conversation_ids
from connectors.genesys.simulator.voice_events import VoiceEventsSimulator, running_simulator
from flows.commands.bootstrap import BootstrapReport, run_bootstrap
from flows.settings.instance import of_instance
from flows.settings.loading import load_settings
from tests.support.callbacks import eventually
from tests.support.cli import environ, voicewatch
from tests.support.live import Live
from tests.support.simulators import duplicate_creates

pytestmark = pytest.mark.timeout(300)

CONVERSATIONS = 12
IDS = conversation_ids(1, CONVERSATIONS)


class Instance:
    """One of several instances: a live run with its own state directory."""

    def __init__(self, directory: Path, index: int, base_url: str, receiver_url: str) -> None:
        directory.mkdir()
        self.index = index
        self.live = Live(directory, base_url, receiver_url, conversations=CONVERSATIONS)

    def variables(self, count: int) -> dict[str, str]:
        return {"VOICEWATCH_SHARD_INDEX": str(self.index), "VOICEWATCH_SHARD_COUNT": str(count)}

    def bootstrap(self, count: int) -> BootstrapReport:
        """Create the interceptors from here, which saves the time that a process takes to load the SDK."""
        settings = load_settings(self.live.config, self.variables(count))
        return run_bootstrap(of_instance(settings, ""), environ({}))

    @contextmanager
    def running(self, count: int) -> Iterator[None]:
        with self.live.running("run", **self.variables(count)):
            yield

    def own(self, count: int) -> set[str]:
        return set(filter(Share(self.index, count).owns_text, IDS))

    def hears_only_its_own(self, count: int) -> bool:
        """Tell whether all frames in the journal, of which there are some, are of its own conversations."""
        heard = {record["frame"]["entity"]["id"] for record in self.live.records() if "frame" in record}
        return bool(heard) and all(map(Share(self.index, count).owns_text, heard))


@pytest.fixture
def platform() -> Iterator[tuple[VoiceEventsSimulator, CallbackReceiver]]:
    with running_simulator(conversations=CONVERSATIONS, rate=10.0) as simulator, CallbackReceiver() as receiver:
        yield simulator, receiver


def test_instances_divide_the_conversations(
    platform: tuple[VoiceEventsSimulator, CallbackReceiver], tmp_path: Path
) -> None:
    """Each creates the interceptors of its own conversations and records no others; while one is dead, the other goes
    on. A rolling restart to three instances neither loses nor doubles an alert of a conversation that stays.
    """
    simulator, receiver = platform
    instances = [Instance(tmp_path / f"{index}", index, simulator.base_url, receiver.url) for index in range(3)]
    zero, one, two = instances
    for each in (zero, one):
        assert set(each.bootstrap(2).created) == each.own(2)
    assert zero.own(2) | one.own(2) == set(IDS)
    assert duplicate_creates(simulator) == 0
    with ExitStack() as stack:
        stack.enter_context(zero.running(2))
        with one.running(2):
            zero.live.wait_for_frames(30)
            one.live.wait_for_frames(30)
            assert one.live.process is not None
            one.live.process.process.kill()
        zero.live.wait_for_frames(30)
        assert zero.hears_only_its_own(2)
        stack.enter_context(one.running(2))
        one.live.wait_for_frames(30)
        assert one.hears_only_its_own(2)
        for each in instances:  # a rolling restart
            if each.live.process is not None:
                assert each.live.process.stop() == 0, each.live.process.log
            each.bootstrap(3)
            stack.enter_context(each.running(3))
            each.live.wait_for_frames(30)
        for each in instances:
            each.live.wait_for_frames(20)
            assert each.live.process is not None
            assert each.live.process.stop() == 0, each.live.process.log
    stays = {id_ for each in (zero, one) for id_ in each.own(2) & each.own(3)}
    assert len(stays) >= 4
    assert two.hears_only_its_own(3)
    of_stays: list[str] = []
    for each in instances:
        each.live.assert_equals_its_replay()
        each.live.assert_audit_is_intact()
        of_stays += [alert["alertId"] for alert in each.live.alerts() if alert["conversationId"] in stays]
        assert {alert["conversationId"] for alert in each.live.alerts()} <= each.own(2) | each.own(3)
        eventually(lambda each=each: each.live.pending() == 0, 60)  # type: ignore[misc]
    assert len(set(of_stays)) == len(of_stays) > 0
    assert set(of_stays) <= {got.id for got in receiver.received}
    merged = voicewatch("merge", *(each.live.state.dir for each in instances), "--out", tmp_path / "merged")
    assert merged.returncode == 0, merged.stderr
    windows = [json.loads(line) for line in (tmp_path / "merged/windows.jsonl").read_bytes().splitlines()]
    # On a slow machine some calls have ended before their instance was there.
    assert {window["conversation_id"] for window in windows} <= set(IDS)
    assert windows == sorted(windows, key=lambda window: (window["end"], window["conversation_id"]))
