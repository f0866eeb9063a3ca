"""The bootstrap, from settings over a scripted Genesys to registry, journal and audit log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.errors import StateError
from connectors.genesys.auth import Credentials, TokenProvider
from connectors.genesys.client import Clock, GenesysClient, RetryPolicy
from connectors.genesys.endpoints import Endpoints
from connectors.genesys.interceptors import GenesysPlatform
from connectors.state.interceptors import InterceptorEntry, InterceptorRegistry
from flows.commands.bootstrap import BootstrapReport, bootstrap
from flows.interceptors import DiscoveredInterceptors, InterceptorCreator, create_body
from flows.settings.models import Settings
from tests.support.genesys_server import CREATE, DROP, LOAD, TOKEN, Answer, RestServer

URL = "https://qa.example.com/alerts"


def interceptor(conversation_id: str, **more: object) -> dict[str, object]:
    return {
        "conversation_id": conversation_id,
        "leg_id": f"leg-{conversation_id}",
        "interceptor_address": "sip:qa@monitoring.internal",
        "qa_callback_url": URL,
        **more,
    }


class Journal:
    """Remembers watch records; a conversation is watched from its first one until it is `ended`."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.ended: set[str] = set()

    def watch(self, record: dict[str, Any]) -> None:
        self.records.append(record)

    def is_watching(self, conversation_id: str) -> bool:
        return conversation_id not in self.ended and any(
            record["conversation_id"] == conversation_id for record in self.records
        )


class Audit:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def append(self, action: str, *, conversation: str | None, outcome: str, **details: object) -> None:
        self.lines.append({"action": action, "conversation": conversation, "outcome": outcome, **details})

    def actions(self) -> list[tuple[str, str | None]]:
        return [(line["action"], line["conversation"]) for line in self.lines]


class Bench:
    """Everything around a bootstrap; what is on the disk stays from one run to the next."""

    def __init__(self, server: RestServer, directory: Path) -> None:
        self.server = server
        self.path = directory / "interceptors.json"
        self.journal = Journal()
        self.audit = Audit()
        endpoints = Endpoints.from_base_url(server.url)
        waits: dict[str, Any] = {"policy": RetryPolicy(attempts=2), "clock": Clock(sleep=lambda _: None)}
        tokens = TokenProvider(endpoints, Credentials("id", "client-secret"), **waits)
        self.platform = GenesysPlatform(GenesysClient(endpoints, tokens, **waits))

    def run(self, *interceptors: dict[str, object], retry_unknown: bool = False, **genesys: object) -> BootstrapReport:
        settings = Settings.model_validate({"interceptor": list(interceptors), "genesys": genesys})
        registry = InterceptorRegistry(self.path)
        return bootstrap(settings, self.platform, registry, self.journal, self.audit, retry_unknown=retry_unknown)

    def entry(self, conversation_id: str) -> InterceptorEntry:
        entry = InterceptorRegistry(self.path).get(conversation_id)
        assert entry is not None
        return entry


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with RestServer() as server:
        yield Bench(server, tmp_path)


class TestCreating:
    def test_body(self) -> None:
        """The body of a create is the contract's, to the letter."""
        settings = Settings.model_validate({"interceptor": [interceptor("1a2b3c4d-5e6f")]})
        assert create_body(settings.interceptors[0], settings.genesys.interceptor) == {
            "interceptorType": "SIP",
            "interceptorAddress": "sip:qa@monitoring.internal",
            "interceptorExtension": "QA_MONITOR",
            "interceptorName": "QA-1a2b3c4d",
            "interceptorSkill": "quality-assurance",
            "interceptorDepartment": "QA",
            "interceptorTitle": "QA Specialist",
            "interceptorEmail": "qa@monitoring.internal",
            "metadata": {
                "legId": "leg-1a2b3c4d-5e6f",
                "audioSamplingRate": 16000,
                "channelMatrix": ["mono", "stereo"],
                "transcriptionDirective": {"enabled": False, "language": "en-US"},
            },
        }

    def test_fixed_texts(self) -> None:
        """The fixed texts come from the configuration."""
        texts = {
            "extension": "E", "name_prefix": "N", "skill": "S", "department": "D", "title": "T", "email": "M"
        }  # fmt: skip
        settings = Settings.model_validate({"interceptor": [interceptor("abc")], "genesys": {"interceptor": texts}})
        body = create_body(settings.interceptors[0], settings.genesys.interceptor)
        keys = ("Extension", "Name", "Skill", "Department", "Title", "Email")
        assert [body[f"interceptor{key}"] for key in keys] == ["E", "Nabc", "S", "D", "T", "M"]

    def test_all_new(self, bench: Bench) -> None:
        """Each interceptor is created, journaled and audited, after one load check."""
        report = bench.run(interceptor("a"), interceptor("b", max_latency_ms=120))
        assert report == BootstrapReport(created=("a", "b"), existing=(), failed=(), watched=("a", "b"))
        assert [json.loads(r.body)["interceptorName"] for r in bench.server.requests if r.route == CREATE] == [
            "QA-a",
            "QA-b",
        ]
        assert [(r["conversation_id"], r["max_latency_ms"]) for r in bench.journal.records] == [("a", 150), ("b", 120)]
        assert len(bench.journal.records[0]) == 10
        assert bench.audit.actions() == [
            ("INTERCEPTOR_VALIDATION", None),
            ("INTERCEPTOR_CREATED", "a"),
            ("INTERCEPTOR_CREATED", "b"),
        ]
        assert bench.audit.lines[0]["active_load"] == 0
        assert bench.server.count(LOAD) == 1

    def test_again(self, bench: Bench) -> None:
        """The second run sends, journals and audits nothing."""
        bench.run(interceptor("a"))
        requests, audited = len(bench.server.requests), len(bench.audit.lines)
        report = bench.run(interceptor("a"))
        assert report == BootstrapReport(created=(), existing=("a",), failed=(), watched=("a",))
        assert len(bench.server.requests) == requests
        assert len(bench.audit.lines) == audited
        assert len(bench.journal.records) == 1

    def test_changed_thresholds(self, bench: Bench) -> None:
        """Changed settings are journaled once, without a request."""
        bench.run(interceptor("a"))
        for _ in range(2):
            bench.run(interceptor("a", max_latency_ms=99))
        assert [record["max_latency_ms"] for record in bench.journal.records] == [150, 99]
        assert bench.server.count(CREATE) == 1

    def test_one_more(self, bench: Bench) -> None:
        """A conversation added to the configuration is the only one created."""
        bench.run(interceptor("a"))
        report = bench.run(interceptor("a"), interceptor("b"))
        assert (report.created, report.existing) == (("b",), ("a",))
        assert bench.server.count(CREATE) == 2

    def test_ended(self, bench: Bench) -> None:
        """A conversation that ended is neither created nor watched again."""
        bench.run(interceptor("a"))
        bench.journal.ended.add("a")
        assert bench.run(interceptor("a")) == BootstrapReport((), ("a",), (), ())
        assert len(bench.journal.records) == 1

    def test_crash_before_the_watch(self, bench: Bench) -> None:
        """A crash between creating and journaling is made good by the next run."""
        InterceptorRegistry(bench.path).put("a", InterceptorEntry(phase="created", interceptor_id="i"))
        assert bench.run(interceptor("a")).watched == ("a",)
        assert bench.server.count(CREATE) == 0

    def test_written_down_before_it_is_sent(self, bench: Bench) -> None:
        """While the request is under way the registry on the disk says so."""
        seen: list[InterceptorEntry] = []

        class Watching:
            def check_load(self, max_concurrent: int) -> int:
                return 0

            def create_interceptor(self, conversation_id: str, body: dict[str, Any]) -> dict[str, Any]:
                seen.append(bench.entry(conversation_id))
                return {"id": 7}

        bench.platform = Watching()  # type: ignore[assignment]
        bench.run(interceptor("a"))
        assert seen == [InterceptorEntry(phase="creating")]
        assert bench.entry("a").interceptor_id == "7"


class TestFailing:
    def test_saturated(self, bench: Bench) -> None:
        """At the limit nothing is created, both numbers are reported and audited, and what exists is watched."""
        bench.run(interceptor("a"))
        bench.server.script(LOAD, Answer(body={"entities": [{}] * 3}))
        report = bench.run(interceptor("a", max_latency_ms=99), interceptor("b"), interceptor("c"), max_concurrent=3)
        assert report.existing == report.watched == ("a",)
        assert [failure.conversation_id for failure in report.failed] == ["b", "c"]
        assert "bandwidth saturation: 3 " in report.failed[0].reason
        validation = [line for line in bench.audit.lines if line["action"] == "INTERCEPTOR_VALIDATION"][-1]
        assert (validation["outcome"], validation["active_load"], validation["max_concurrent"]) == ("refused", 3, 3)
        assert bench.audit.actions()[-2:] == [("INTERCEPTOR_FAILED", "b"), ("INTERCEPTOR_FAILED", "c")]
        assert bench.server.count(CREATE) == 1
        assert bench.journal.records[-1]["max_latency_ms"] == 99

    def test_load_check_fails(self, bench: Bench) -> None:
        """Without a load check nothing is created, and everything is reported."""
        bench.server.script(LOAD, Answer(503), Answer(503))
        report = bench.run(interceptor("a"))
        assert "Genesys failed (503)" in report.failed[0].reason
        assert bench.audit.lines[0]["outcome"] == "failed"
        assert bench.audit.lines[0]["active_load"] is None

    def test_refused_one_of_three(self, bench: Bench) -> None:
        """A refusal does not stop the others, and is tried again by the next run."""
        bench.server.script(CREATE, Answer(201), Answer(400, {"message": "bad leg"}))
        settings = [interceptor("a"), interceptor("b"), interceptor("c")]
        report = bench.run(*settings)
        assert (report.created, report.watched) == (("a", "c"), ("a", "c"))
        assert "bad leg" in report.failed[0].reason
        assert bench.entry("b").phase == "failed"
        assert ("INTERCEPTOR_FAILED", "b") in bench.audit.actions()
        assert bench.run(*settings).created == ("b",)

    @pytest.mark.parametrize("answer", [Answer(500), DROP])
    def test_unknown_outcome(self, bench: Bench, answer: Answer | str) -> None:
        """What may exist is not created again until the operator says so, and does not stop the others."""
        bench.server.script(CREATE, answer)
        settings = [interceptor("a"), interceptor("b")]
        for _ in range(2):
            report = bench.run(*settings)
            assert report.failed[0].conversation_id == "a"
            assert "may have taken effect" in report.failed[0].reason
            assert "--retry-unknown" in report.failed[0].reason
            assert report.watched == ("b",)
        assert bench.server.count(CREATE) == 2
        assert bench.run(*settings, retry_unknown=True).created == ("a",)

    def test_crash_while_creating(self, bench: Bench) -> None:
        """What was under way when the process died is treated as one that may exist."""
        InterceptorRegistry(bench.path).put("a", InterceptorEntry(phase="creating"))
        report = bench.run(interceptor("a"))
        assert "it may exist: an earlier bootstrap ended before" in report.failed[0].reason
        assert bench.server.requests == []
        assert bench.run(interceptor("a"), retry_unknown=True).created == ("a",)

    @pytest.mark.parametrize(
        ("script", "words"), [([Answer(403)], "access denied"), ([Answer(401), Answer(401)], "does not accept")]
    )
    def test_no_access(self, bench: Bench, script: list[Answer], words: str) -> None:
        """What would hit all others too stops the creating, and each one is reported."""
        bench.server.script(CREATE, *script)
        report = bench.run(interceptor("a"), interceptor("b"), interceptor("c"))
        assert [failure.conversation_id for failure in report.failed] == ["a", "b", "c"]
        assert all(words in failure.reason for failure in report.failed)
        assert report.failed[1].reason.startswith("not attempted")
        assert bench.server.count(CREATE) == len(script)
        assert len(bench.run(interceptor("a"), interceptor("b"), interceptor("c")).created) == 3

    def test_bad_credentials(self, bench: Bench) -> None:
        """Credentials that are refused are reported for each interceptor; no secret is written anywhere."""
        bench.server.script(TOKEN, Answer(400, {"error": "invalid_client"}))
        report = bench.run(interceptor("a"), interceptor("b"))
        assert len(report.failed) == 2
        assert "GENESYS_CLIENT_ID" in report.failed[0].reason
        assert "client-secret" not in repr(report) + repr(bench.audit.lines)

    @pytest.mark.parametrize(
        "echo",
        [
            {"metadata": {"audioSamplingRate": 8000}},
            {"metadata": {"audioSamplingRate": 16000, "mediaSamplingRate": 8000}},
            {"mediaSamplingRate": 8000.0},
        ],
    )
    @pytest.mark.parametrize("named", [{"id": "i-1"}, {}])
    def test_sampling_rate(self, bench: Bench, echo: dict[str, object], named: dict[str, object]) -> None:
        """An interceptor at another rate than asked is a failure that names both, and is not created twice."""
        bench.server.script(CREATE, Answer(201, {**named, **echo}))
        for _ in range(2):
            (failure,) = bench.run(interceptor("a")).failed
            assert "sampling-rate mismatch" in failure.reason
            assert "16000 Hz" in failure.reason
            assert "8000 Hz" in failure.reason
        assert bench.server.count(CREATE) == 1
        assert bench.journal.records == []
        assert bench.run(interceptor("a", audio_sampling_rate=8000), retry_unknown=True).created == ("a",)

    def test_damaged_registry(self, bench: Bench) -> None:
        """With a damaged registry nothing is created at all."""
        bench.path.write_text("{")
        with pytest.raises(StateError, match="damaged"):
            bench.run(interceptor("a"))
        assert bench.server.requests == []


def test_a_discovered_call_whose_watch_has_ended_is_watched_again(bench: Bench) -> None:
    """Without another interceptor: Genesys lists the call, so that it is in progress and was only silent."""
    settings = Settings.model_validate({"defaults": {"interceptor_address": "sip:a@b", "qa_callback_url": URL}})
    creator = InterceptorCreator(settings, bench.platform, InterceptorRegistry(bench.path), bench.journal, bench.audit)
    found = DiscoveredInterceptors(creator, bench.platform)
    assert found.create("c1", {}) is None
    assert found.create("c1", {}) is None
    assert len(bench.journal.records) == 1
    bench.journal.ended.add("c1")
    assert found.create("c1", {}) is None
    assert bench.journal.records == [bench.journal.records[0]] * 2
    assert bench.server.count(CREATE) == 1
