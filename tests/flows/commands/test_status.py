"""`voicewatch status` on made-up state directories, and on a real one while a run uses it and after."""

from __future__ import annotations

import json
import pickle
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from connectors.errors import UnusableStateError
from connectors.genesys.simulator.voice_events import running_simulator
from connectors.kafka.spool import Line, Spool
from connectors.state.files import StateLock
from connectors.state.recovery import make_recovery_store
from flows.commands.status import as_json, read_status
from flows.state import JOURNAL_STEP, StateLayout
from tests.support.callbacks import eventually
from tests.support.cli import voicewatch
from tests.support.live import Live
from tests.support.receiver import ScriptedReceiver
from tests.support.state_dirs import BEGAN, StateDir


def status_of(directory: Path, at: float = 100.0) -> dict[str, Any]:
    return as_json(read_status(directory, BEGAN + at))


def test_feeds_have_their_last_state_and_when_it_began(tmp_path: Path) -> None:
    """A segment restates the state of each feed; the time is that of the change, not of the restatement."""
    state = StateDir(tmp_path / "state")
    state.feed(1, "up", "connected")
    state.feed(5, "down", "closed with 1011")
    state.feed(9, "down", "as in the segment before")
    status = status_of(state.dir)
    expected = {"name": "voice-events", "state": "down", "since": BEGAN + 5, "reason": "closed with 1011"}
    assert status["feeds"] == [expected]
    assert status["journal"]["last_record_at"] == BEGAN + 9
    assert status["journal"]["age_s"] == 91.0
    assert status["attention"] == []  # without a run, a feed is expected to be down


def test_open_incidents_are_those_without_a_resolve(tmp_path: Path) -> None:
    """A resolved incident and an alert that stands for itself are not open; a group and an empty id are."""
    state = StateDir(tmp_path / "state")
    state.alert(1, "c1", "raised", 1)
    state.alert(2, "", "raised", 2)
    state.alert(3, "c1", "resolved", 1)
    state.alert(4, "c3", "raised", 3, alertType="CALL_FAILED")
    state.alert(4, "c3", "raised", 5, alertType="LOW_MOS", evidence={"minMos": 2.1})
    state.alert(5, None, "raised", 4, alertType="GROUP_DEGRADED", group={"queue": "support"})
    incidents = status_of(state.dir)["incidents"]
    shown = [(one["incidentId"], one["conversationId"]) for one in incidents]
    assert shown == [("incident-2", ""), ("incident-4", None)]
    assert incidents[1]["group"] == {"queue": "support"}
    text = voicewatch("status", state.dir).stdout
    assert "incidents  2 open" in text
    assert "Group degraded: queue support for " in text


def test_incidents_are_worded_as_in_top(tmp_path: Path) -> None:
    """With the rule's name, units and how long they last, until the last record after a run; none drives a terminal."""
    state = StateDir(tmp_path / "state")
    state.alert(5, "c1", "raised", 1, metricValue=180.644)
    state.alert(
        6, None, "raised", 2, alertType="GROUP_DEGRADED", group={"queue": "a\x1b[2J"}, metricValue=0.6, threshold=0.3
    )
    state.record(80, tick=True)
    text = voicewatch("status", state.dir).stdout
    since = "2026-11-29 08:47:05.000Z"
    assert f"           Latency above limit: c1 for 1 min 15 s since {since}, 181 ms (limit 150 ms)\n" in text
    assert " for 1 min 14 s since 2026-11-29 08:47:06.000Z, 60 % (limit 30 %)\n" in text
    assert "\x1b" not in text


def test_without_a_directory_it_is_that_of_the_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`voicewatch status` reads `state`, as `top` and `report` do."""
    state = StateDir(tmp_path / "state")
    state.feed(1, "up", "connected")
    monkeypatch.chdir(tmp_path)
    done = voicewatch("status")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "state      state: no run uses it")


def test_alerts_of_single_frames_are_not_open(tmp_path: Path) -> None:
    """With the policy `frame` only the incidents that are resolved under it, too, are open."""
    state = StateDir(tmp_path / "state")
    state.record(0, settings={"alerts": {"policy": "frame"}})
    for number in range(3):
        state.alert(1 + number, "c1", "raised", number)
    state.alert(5, "c1", "raised", 4, alertType="DEAD_AIR")
    state.alert(6, None, "raised", 5, alertType="GROUP_DEGRADED", group={"queue": "support"})
    state.alert(7, None, "resolved", 5, alertType="GROUP_DEGRADED", group={"queue": "support"})
    assert [one["incidentId"] for one in status_of(state.dir)["incidents"]] == ["incident-4"]


def test_what_needs_attention_is_named(tmp_path: Path) -> None:
    """A feed that is down while a run goes on, dead callbacks, and a callback that has waited for hours."""
    state = StateDir(tmp_path / "state")
    state.feed(1, "down", "refused")
    state.outbox(pending=2, dead=1, delivered=1)
    with StateLock(state.dir / "lock"):
        status = status_of(state.dir, at=7200.0)
    assert status["running"]["process"] > 0
    assert status["outbox"] == {"pending": 2, "dead": 1, "oldest_s": 7200.0}
    assert [text.partition(":")[0] for text in status["attention"]] == [
        "feed voice-events is down",
        "1 callback(s) are dead",
        "the oldest pending callback has waited for 2.0 h",
    ]
    assert status_of(state.dir)["running"] is None


def test_a_label_may_look_like_a_resolve(tmp_path: Path) -> None:
    """Also where a label looks like a resolve; under the policy `frame`, most alerts open nothing."""
    state = StateDir(tmp_path / "state")
    state.feed(1, "up", "connected")
    lines = [
        {"incidentId": "i1", "state": "raised", "labels": {"state": "resolved"}},
        {"incidentId": "i2", "state": "raised", "labels": {}},
        {"incidentId": "i2", "state": "resolved", "labels": {}},
        {"incidentId": "i3", "state": "raised", "labels": {}, "alertType": "CALL_FAILED"},
        {"incidentId": "i4", "state": "raised", "labels": {}, "alertType": "DEAD_AIR"},
    ]
    common = {"alertType": "LOW_MOS", "alertId": "a", "timestamp": 1.0}
    text = b"".join(orjson.dumps({**common, **line}) + b"\n" for line in lines)
    (state.dir / "alerts.jsonl").write_bytes(text + b'{"incidentId":"torn')
    assert [one["incidentId"] for one in status_of(state.dir)["incidents"]] == ["i1", "i4"]
    state.record(2, settings={"windows": {}, "alerts": {"policy": "frame"}})
    assert [one["incidentId"] for one in status_of(state.dir)["incidents"]] == ["i4"]


def test_lines_that_wait_for_kafka_are_counted(tmp_path: Path) -> None:
    """Only those that are not sent; without a topic, there is no line."""
    state = StateDir(tmp_path / "state")
    state.feed(1, "up", "connected")
    assert "\nkafka" not in voicewatch("status", state.dir).stdout
    path = StateLayout(state.dir).spool("windows")
    spool = Spool(path)
    lines = [Line(str(number), b"c1", b"{}") for number in range(5)]
    spool.add(lines)
    spool.mark_sent({1: lines[0], 2: lines[1]})
    status = status_of(state.dir)
    assert status["kafka"] == {"windows": 3}
    assert status["disk"]["kafka_bytes"] >= path.stat().st_size > 0
    assert status["attention"] == []
    text = voicewatch("status", state.dir).stdout
    assert "kafka      3 lines of windows wait" in text
    assert ", kafka " in text.split("\ndisk")[1]
    spool.close()


def test_lines_that_kafka_will_not_get_need_attention(tmp_path: Path) -> None:
    """A spool without room is shown while its lines wait, also of a file that an older version made."""
    state = StateDir(tmp_path / "state")
    state.feed(1, "up", "connected")
    spool = Spool(StateLayout(state.dir).spool("alerts"), max_bytes=10)
    spool.add([Line(str(number), b"c1", b"{}") for number in range(5)])
    status = status_of(state.dir)
    assert status["kafka_left_out"] == {"alerts": 3}
    assert status["attention"] == [
        "3 line(s) of alerts did not reach Kafka: they had no room to wait (kafka.spool_mib)"
    ]
    with spool._store.use() as db:
        db.execute("DROP TABLE left_out")
    assert status_of(state.dir)["kafka_left_out"] == {"alerts": 0}
    spool.close()


def test_another_directory_is_refused(tmp_path: Path) -> None:
    """A directory that is not a state directory, or not there, is exit 2 with one line."""
    for directory in (tmp_path, tmp_path / "missing"):
        done = voicewatch("status", directory)
        assert (done.returncode, done.stdout) == (2, "")
        [line] = done.stderr.splitlines()
        assert line.startswith(f"voicewatch: {directory} is not a state directory")


def test_a_damaged_outbox_is_a_failure(tmp_path: Path) -> None:
    """A file that cannot be read is exit 1 and named."""
    state = StateDir(tmp_path / "state")
    (state.dir / "outbox").mkdir()
    (state.dir / "outbox/outbox.sqlite3").write_bytes(b"not a database" * 100)
    done = voicewatch("status", state.dir)
    assert done.returncode == 1
    assert "outbox.sqlite3 cannot be read" in done.stderr


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_in_a_state_directory_is_run(tmp_path: Path) -> None:
    """A snapshot of the journal's place that would run something as it is unpickled is an error that names it."""
    state, proof = StateDir(tmp_path / "state"), tmp_path / "it-ran"
    state.feed(1, "up", "connected")
    recovery = StateLayout(state.dir).recovery
    make_recovery_store(recovery)
    with closing(sqlite3.connect(recovery / "part-0.sqlite3")) as store, store:
        crafted = pickle.dumps(_Touch(proof))
        row = (JOURNAL_STEP, "journal", 1, crafted)
        store.execute("INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES (?, ?, ?, ?)", row)
    with pytest.raises(UnusableStateError, match="which is not plain data"):
        status_of(state.dir)
    assert not proof.exists()
    pickle.loads(crafted)
    assert proof.exists()


def test_a_run_is_seen_while_it_goes_on_and_after(tmp_path: Path) -> None:
    """While a run goes on: its process, its feed, its snapshot. After it: nothing behind the last snapshot."""
    with running_simulator(conversations=2, rate=20) as simulator, ScriptedReceiver() as receiver:
        live = Live(tmp_path, simulator.base_url, receiver.url, conversations=2)
        with live.running() as process:

            def seen() -> bool:
                if not live.state.journal.exists():
                    return False
                status = as_json(read_status(live.state.dir, 0.0))
                return bool(status["lag"] is not None and status["running"] and status["feeds"])

            eventually(seen, 60)
            status = as_json(read_status(live.state.dir, 0.0))
            assert status["running"] == {"process": process.process.pid}
            assert status["feeds"][0]["state"] == "up"
            assert process.stop() == 0, process.log
        done = voicewatch("status", live.state.dir, "--json")
        after = json.loads(done.stdout)
        assert done.returncode == 0, done.stderr
        assert after["running"] is None
        assert after["lag"] == {"bytes": 0, "seconds": 0.0}
        assert after["feeds"][0]["state"] == "down"
        assert after["disk"]["journal_bytes"] > 0
