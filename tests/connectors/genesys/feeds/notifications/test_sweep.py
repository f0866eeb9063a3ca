"""The sweep over ended calls: every page, each call once, across failures, restarts and kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from connectors.genesys.auth import Credentials, TokenProvider
from connectors.genesys.client import Clock, GenesysClient, RequestBudget, RetryPolicy
from connectors.genesys.endpoints import Endpoints
from connectors.genesys.feeds.base import FeedLimits
from connectors.genesys.feeds.notifications.sweep import Sweeper, SweepStore, SweepTiming
from connectors.genesys.names import NameBook, Names
from connectors.genesys.simulator.connection import Answer
from connectors.genesys.simulator.notifications import NotificationsSimulator
from connectors.genesys.simulator.organisation import FIRST_AGENT_ID, FIRST_QUEUE_ID
from connectors.genesys.simulator.server import running
from connectors.journal.segments import segments
from tests.support.callbacks import eventually
from tests.support.tape import Tape

NOW = 1_767_225_600.0
LIMITS = FeedLimits("calls", qa_callback_url="https://qa.example.com/alerts", labels={"region": "eu"})
POLICY = RetryPolicy(timeout_s=5, attempts=1, base_s=0.001, cap_s=0.01)


def ended_call(id_: str, *, mos: float = 4.2, end: str | None = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    session = {
        "sessionId": f"s-{id_}",
        "mediaType": "voice",
        "provider": "Edge",
        "segments": [{"segmentType": "interact", "queueId": "q"}],
        "mediaEndpointStats": [{"codecs": ["audio/opus"], "minMos": mos, "receivedPackets": 100}],
    }
    agent = {"participantId": "p", "purpose": "agent", "userId": "u", "sessions": [session]}
    call = {"conversationId": id_, "conversationStart": "2026-01-01T00:00:00Z", "participants": [agent]}
    return call if end is None else call | {"conversationEnd": end}


def page(*calls: dict[str, Any]) -> Answer:
    return Answer(200, {"totalHits": 7, **({"conversations": list(calls)} if calls else {})})


@contextmanager
def sweeping(
    simulator: NotificationsSimulator, tape: Any, path: Path, *, budget: RequestBudget | None = None, **more: Any
) -> Iterator[Sweeper]:
    """A sweeper that runs."""
    endpoints = Endpoints.from_base_url(simulator.base_url)
    tokens = TokenProvider(endpoints, Credentials("id", "secret"), policy=POLICY)
    timing = SweepTiming(interval_s=0.01, retry_s=0.01)
    sweeper = Sweeper(
        SweepStore(path),
        GenesysClient(endpoints, tokens, policy=POLICY),
        tape,
        budget or RequestBudget(100_000),
        name="calls",
        limits=LIMITS,
        leaves_watched=more.get("leaves_watched", False),
        names=more.get("names", Names()),
        timing=timing,
        clock=Clock(now=more.get("now", lambda: NOW)),
    )
    sweeper.start()
    try:
        yield sweeper
    finally:
        sweeper.stop(15)
        tokens.close()
    assert sweeper.failure is None


def ends(tape: Tape) -> list[str]:
    return [frame["conversationId"] for frame in tape.of("frame") if frame.get("ended")]


def test_every_page_is_read_and_each_call_recorded_once(tmp_path: Path) -> None:
    """Unwatched calls get a watch with labels, their media and an end; an overlapping sweep adds only what is new."""
    tape = Tape()
    with running(NotificationsSimulator(calls=False)) as simulator:
        simulator.script("details-query", page(ended_call("a"), ended_call("b")), page(ended_call("c")), page())
        simulator.script("details-query", page(ended_call("b"), ended_call("d"), ended_call("on", end=None)), page())
        with sweeping(simulator, tape, tmp_path / "sweep.sqlite3"):
            simulator.wait_for(lambda s: s.requests["details-query"] >= 7)
    assert ends(tape) == ["a", "b", "c", "d"]
    media = [frame for frame in tape.of("frame") if frame["mediaEndpointStats"]]
    assert [frame["conversationId"] for frame in media] == ["a", "b", "c", "d"]
    assert tape.of("watch")[0]["qa_callback_url"] == LIMITS.qa_callback_url
    assert tape.of("watch")[0]["labels"] == {"agent": "u", "provider": "Edge", "queue": "q", "region": "eu"}
    assert not any(map(tape.is_watching, "abcd"))


def test_media_that_is_known_late_is_recorded_then(tmp_path: Path) -> None:
    """A call without statistics is looked at again within the overlap, and gets those of a second leg, too."""
    tape, bare = Tape(), ended_call("a")
    bare["participants"][0]["sessions"][0]["mediaEndpointStats"] = []
    with running(NotificationsSimulator(calls=False)) as simulator:
        simulator.script("details-query", page(bare), page(), page(ended_call("a")), page())
        simulator.script("details-query", page(ended_call("a"), ended_call("a", mos=2.9)), page())
        with sweeping(simulator, tape, tmp_path / "sweep.sqlite3"):
            simulator.wait_for(lambda s: s.requests["details-query"] >= 7)
    scores = [one["mediaEndpointStats"]["minMos"] for one in tape.of("frame") if one["mediaEndpointStats"]]
    assert scores == [4.2, 2.9]


def test_a_failed_page_is_asked_for_again_from_the_same_time(tmp_path: Path) -> None:
    """The interval moves on only when all pages were read; what was recorded is not recorded again."""
    tape = Tape()
    path = tmp_path / "sweep.sqlite3"
    with running(NotificationsSimulator(calls=False)) as simulator:
        simulator.script("details-query", page(ended_call("a")), Answer(500, {}), page(ended_call("a")))
        simulator.script("details-query", page(ended_call("b")), page())
        with sweeping(simulator, tape, path):
            simulator.wait_for(lambda s: s.requests["details-query"] >= 6)
    assert ends(tape) == ["a", "b"]
    store = SweepStore(path)
    assert store.until() == NOW
    store.close()


def test_a_restart_asks_from_the_last_sweep_on(tmp_path: Path) -> None:
    """With the overlap, and no further back than a day; what was recorded before is known."""
    asked: list[str] = []
    closed: list[Any] = []
    path = tmp_path / "sweep.sqlite3"

    class Client:
        endpoints = None

        def ask(self, method: str, path: str, *, what: str, body: Any) -> Any:
            asked.append(body["interval"])
            return {}

        def close(self) -> None:
            closed.append(self)

    def once(now: float) -> None:
        store = SweepStore(path)
        client: Any = Client()
        options: dict[str, Any] = {"name": "calls", "limits": LIMITS, "leaves_watched": False}
        sweeper = Sweeper(store, client, Tape(), RequestBudget(), clock=Clock(now=lambda: now), **options)
        before = len(asked)
        sweeper.start()
        eventually(lambda: store.until() == now)
        sweeper.stop(15)
        assert (len(asked), closed[-1]) == (before + 1, client)

    once(NOW)
    once(NOW + 600)
    once(NOW + 10 * 86_400)
    once(NOW + 86_400)  # the clock was a wrong one before, and what it asked for is not known
    assert asked == [
        "2025-12-31T23:25:00.000Z/2026-01-01T00:00:00.000Z",
        "2025-12-31T23:30:00.000Z/2026-01-01T00:10:00.000Z",
        "2026-01-10T00:00:00.000Z/2026-01-11T00:00:00.000Z",
        "2026-01-01T00:00:00.000Z/2026-01-02T00:00:00.000Z",
    ]


def test_a_clock_that_is_wrong_forgets_no_recorded_call(tmp_path: Path) -> None:
    """The last marks stay whatever the time, so that a sweep after it records no call again."""
    store = SweepStore(tmp_path / "sweep.sqlite3")
    store.add("a", ["mark"], NOW)
    store.finish(4_102_444_800.0, 4_102_000_000.0)
    assert store.known("a") == {"mark"}
    store.close()


def test_watched_calls_are_left_to_the_enricher(tmp_path: Path) -> None:
    """While they are watched, and after all of their media has been recorded."""
    tape = Tape()
    tape.watch({"conversation_id": "a"})
    with (
        running(NotificationsSimulator(calls=False)) as simulator,
        sweeping(simulator, tape, tmp_path / "sweep.sqlite3", leaves_watched=True) as sweeper,
    ):
        sweeper.enriched("b")
        simulator.script("details-query", page(ended_call("a"), ended_call("b"), ended_call("c")), page())
        tape.wait_for(lambda tape: "c" in ends(tape))
    assert ends(tape) == ["c"]


def test_no_request_is_made_without_budget(tmp_path: Path) -> None:
    """A stop ends the wait."""
    budget = RequestBudget()
    budget.hold(3600)
    with running(NotificationsSimulator(calls=False)) as simulator:
        with sweeping(simulator, Tape(), tmp_path / "sweep.sqlite3", budget=budget):
            assert budget.wait_s(60) > 3000
        assert simulator.requests["details-query"] == 0


def test_simulated_calls_are_swept_up(tmp_path: Path) -> None:
    """The simulator answers the query that is sent: ended calls only, with the statistics of their legs."""
    tape = Tape()
    with running(NotificationsSimulator(conversations=6, now=lambda: NOW, analytics_after_s=1.0)) as simulator:
        book = simulator.traffic.book
        over = sorted(call.id for call in book.calls)[:4]
        for id_ in over:
            book.end(id_, NOW + 60)
        with sweeping(simulator, tape, tmp_path / "sweep.sqlite3", now=lambda: NOW + 600):
            simulator.wait_for(lambda s: s.requests["details-query"] >= 2)
    assert ends(tape) == []  # analytics does not know them yet
    with running(NotificationsSimulator(conversations=6, now=lambda: NOW + 100, analytics_after_s=1.0)) as simulator:
        for call in simulator.traffic.book.calls:
            call.began_at = NOW
        for id_ in over:
            simulator.traffic.book.end(id_, NOW + 60)
        with sweeping(simulator, tape, tmp_path / "sweep.sqlite3", now=lambda: NOW + 600):
            tape.wait_for(lambda tape: len(ends(tape)) == 4)
    assert sorted(ends(tape)) == over
    assert {watch["labels"]["direction"] for watch in tape.of("watch")} <= {"inbound", "outbound"}
    assert all(one["mediaEndpointStats"] for one in tape.of("frame") if not one.get("ended"))


def test_labels_have_the_names_that_are_found(tmp_path: Path) -> None:
    """A swept call is in the same groups as one that was watched: its queue and its agent have names."""
    tape = Tape()
    with running(NotificationsSimulator(calls=False)) as simulator:
        call = ended_call("a")
        [agent] = call["participants"]
        agent["userId"], agent["sessions"][0]["segments"][0]["queueId"] = FIRST_AGENT_ID, FIRST_QUEUE_ID
        simulator.script("details-query", page(call), page())
        endpoints = Endpoints.from_base_url(simulator.base_url)
        tokens = TokenProvider(endpoints, Credentials("id", "secret"), policy=POLICY)
        names = NameBook(tmp_path / "names.json", endpoints, tokens, RequestBudget(100_000))
        names.start()
        try:
            with sweeping(simulator, tape, tmp_path / "sweep.sqlite3", names=names):
                tape.wait_for(lambda tape: ends(tape) == ["a"])
        finally:
            names.stop()
            tokens.close()
    [watch] = tape.of("watch")
    assert watch["labels"] == {"agent": "Ada Abel", "provider": "Edge", "queue": "Support", "region": "eu"}


def test_a_sweep_that_is_not_permitted_is_logged_once_and_ends(tmp_path: Path) -> None:
    """The thread ends, the feed goes on, and analytics is not asked again."""
    with capture_logs() as logs, running(NotificationsSimulator(calls=False)) as simulator:
        simulator.script("details-query", Answer(403, {"message": "no", "status": 403}), page(ended_call("a")))
        with sweeping(simulator, Tape(), tmp_path / "sweep.sqlite3"):
            eventually(lambda: not any(one.name == "sweep-calls" for one in threading.enumerate()))
        assert simulator.requests["details-query"] == 1
    [warning] = [one for one in logs if one["log_level"] == "warning"]
    assert (warning["event"], warning["worker"]) == ("worker_not_permitted", "sweep-calls")


def test_kill_9_loses_no_call(tmp_path: Path) -> None:
    """Killed again and again in the middle of a sweep: every call is in the journal, at most one twice a kill."""
    names = [f"c{number}" for number in range(60)]
    kills = 3
    with running(NotificationsSimulator(calls=False)) as simulator:
        for attempt in range(kills + 1):
            simulator.clear_scripts()
            pages = [page(*map(ended_call, names[at : at + 20])) for at in range(0, 60, 20)]
            simulator.script("details-query", *pages, page())
            asked = simulator.requests["details-query"]
            command = [sys.executable, "-m", "tests.support.sweeping", simulator.base_url, str(tmp_path)]
            child = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[5])})
            try:
                wanted = asked + (4 if attempt == kills else 1 + attempt)
                simulator.wait_for(lambda s, wanted=wanted: s.requests["details-query"] >= wanted, 60)  # type: ignore[misc]
                if attempt < kills:
                    child.send_signal(signal.SIGKILL)
                else:
                    assert child.wait(60) == 0
            finally:
                child.kill()
                child.wait()
    counts = Counter(journalled(tmp_path / "journal"))
    assert set(counts) == set(names)
    assert sum(counts.values()) - len(names) <= kills


def journalled(directory: Path) -> list[str]:
    """The conversations that ended in a journal."""
    frames = [
        json.loads(line)["frame"]
        for path in segments(directory)
        for line in path.read_bytes().rpartition(b"\n")[0].splitlines()
        if b'"ended":true' in line
    ]
    return [frame["conversationId"] for frame in frames]
