"""The simulated platform over real sockets: look-ups, activity, details, refused topics, stories, 300 agents."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from connectors.genesys.simulator.faults import parse_faults
from connectors.genesys.simulator.notifications import QUEUE_ID, USER_ID, NotificationsSimulator
from connectors.genesys.simulator.server import running
from connectors.genesys.simulator.telephony import ORGANISATION_ID, trunk_id
from connectors.genesys.simulator.voice_events import running_simulator

ACTIVITY = "/api/v2/analytics/conversations/activity/query"
DETAILS_QUERY = "/api/v2/analytics/conversations/details/query"
INTERACTING = {"metrics": [{"metric": "oInteracting", "details": True}]}
VOICE = {"type": "dimension", "dimension": "mediaType", "operator": "matches", "value": "voice"}


@contextmanager
def api(base_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base_url, timeout=10) as client:
        answer = client.post("/oauth/token", data={"grant_type": "client_credentials"}, auth=("id", "secret"))
        client.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
        yield client


@pytest.fixture(scope="module")
def simulator() -> Iterator[NotificationsSimulator]:
    """A simulator whose calls have been in progress for four seconds, as its clock says."""
    began = time.time()
    clock = iter([began])
    simulator = NotificationsSimulator(conversations=18, now=lambda: next(clock, began + 4.0))
    with running(simulator):
        yield simulator


@pytest.fixture
def client(simulator: NotificationsSimulator) -> Iterator[httpx.Client]:
    with api(simulator.base_url) as client:
        yield client


def entities(client: httpx.Client, path: str, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(path, params=query).raise_for_status().json()["entities"]
    return found


def test_queues_and_divisions_are_found_by_id_and_name(client: httpx.Client) -> None:
    """Names may have asterisks and any case; what does not exist is an empty page, or 404 for one id."""
    queues = "/api/v2/routing/queues"
    assert [q["name"] for q in entities(client, queues)] == ["Support", "Sales", "Billing"]
    assert [q["id"] for q in entities(client, queues, name="support")] == [QUEUE_ID]
    assert [q["name"] for q in entities(client, queues, name="*l*")] == ["Sales", "Billing"]
    assert [q["name"] for q in entities(client, queues, pageSize=2, pageNumber=2)] == ["Billing"]
    assert entities(client, queues, name="Nowhere") == []
    assert client.get(f"{queues}/{QUEUE_ID}").json()["division"]["name"] == "Home"
    assert client.get(f"{queues}/gone").status_code == 404
    assert client.get(queues, params={"pageSize": 501}).status_code == 400
    assert [d["name"] for d in entities(client, "/api/v2/authorization/divisions", name="North")] == ["North"]


def test_users_are_found_by_id_and_by_search(client: httpx.Client) -> None:
    """An exact search finds one; without a hit the list is missing, as at Genesys."""
    search = "/api/v2/users/search"
    assert client.get(f"/api/v2/users/{USER_ID}").json()["name"] == "Ada Abel"
    assert len(entities(client, "/api/v2/users", id=f"{USER_ID},absent")) == 1
    query = [{"type": "EXACT", "fields": ["name"], "value": "ada abel"}]
    assert [u["id"] for u in client.post(search, json={"query": query}).json()["results"]] == [USER_ID]
    several = [{"type": "EXACT", "fields": ["name", "email"], "values": ["Ada Abel", "ben.abel@example.com"]}]
    assert client.post(search, json={"query": several}).json()["total"] == 2
    none = client.post(search, json={"query": [{"type": "EXACT", "fields": ["name"], "value": "Ada"}]}).json()
    assert "results" not in none
    assert none["total"] == 0
    assert client.post(search, json={"query": "Ada"}).status_code == 400


def test_the_activity_query_finds_the_calls_in_progress(client: httpx.Client) -> None:
    """Each connected agent is an entity; filters, groups and pages hold, and what is not known is refused."""
    whole = client.post(ACTIVITY, json={**INTERACTING, "filter": {"type": "and", "predicates": [VOICE]}}).json()
    (result,) = whole["results"]
    assert result["truncated"] is False
    assert result["data"] == [{"metric": "oInteracting", "count": len(result["entities"])}]
    assert 14 <= len({entity["conversationId"] for entity in result["entities"]}) <= 18
    assert set(result["entities"][0]) >= {"activityDate", "sessionId", "queueId", "userId", "mediaType", "ani"}
    queue = {"dimension": "queueId", "value": QUEUE_ID}
    both = {"type": "and", "clauses": [{"type": "or", "predicates": [queue]}], "predicates": [VOICE]}
    support = client.post(ACTIVITY, json={**INTERACTING, "filter": both}).json()["results"][0]["entities"]
    assert {entity["queueId"] for entity in support} == {QUEUE_ID}
    assert 0 < len(support) < len(result["entities"])
    small = client.post(ACTIVITY, params={"pageSize": 4, "pageNumber": 2}, json=INTERACTING).json()["results"][0]
    assert small["entities"] == result["entities"][4:8]
    assert small["truncated"] is True
    grouped = client.post(ACTIVITY, json={**INTERACTING, "groupBy": ["queueId"]}).json()["results"]
    assert sum(one["data"][0]["count"] for one in grouped) == len(result["entities"])
    assert client.post(ACTIVITY, json={"metrics": [{"metric": "oAlerting"}]}).json()["results"][0]["entities"] == []
    assert client.post(ACTIVITY, json={"metrics": [{"metric": "tTalk"}]}).status_code == 400
    assert client.post(ACTIVITY, json={**INTERACTING, "filter": {"type": "and"}}).status_code == 400


def test_details_of_a_call_in_progress_name_its_edge(simulator: NotificationsSimulator, client: httpx.Client) -> None:
    """Sessions have edge, provider and segments; there is no end and no media yet."""
    call = next(iter(simulator.traffic.book.in_progress()))
    details = client.get(f"/api/v2/analytics/conversations/{call.id}/details").json()
    assert "conversationEnd" not in details
    sessions = [session for participant in details["participants"] for session in participant["sessions"]]
    assert {session["edgeId"] for session in sessions} == {call.story.edge.id}
    assert all(session["segments"] and "mediaEndpointStats" not in session for session in sessions)


def test_refused_topics_are_reported_and_the_rest_subscribed(client: httpx.Client) -> None:
    """With `ignoreErrors=true` a deleted queue is rejected alone; without, all is refused. Topics may be combined."""
    channel = client.post("/api/v2/notifications/channels").json()["id"]
    path = f"/api/v2/notifications/channels/{channel}/subscriptions"
    good, gone = f"v2.routing.queues.{QUEUE_ID}.conversations.calls", "v2.routing.queues.gone.conversations.calls"
    combined = "v2.detail.events.conversation.c?customer.start&customer.end"
    body = [{"id": good}, {"id": gone}, {"id": combined}]
    assert client.post(path, json=body).status_code == 400
    assert client.get(path).json()["entities"] == []
    states = client.post(path, params={"ignoreErrors": "true"}, json=body).json()["entities"]
    assert [entity["state"] for entity in states] == ["Permitted", "Rejected", "Permitted"]
    assert states[1]["rejectionReason"] == "there is no such queue or user"
    assert [entity["id"] for entity in client.get(path).json()["entities"]] == [good, combined]
    long = {"id": "v2.users.u?" + "&".join(["presence"] * 40)}
    assert client.post(path, params={"ignoreErrors": "true"}, json=[long]).json()["entities"][0]["state"] == "Rejected"


def test_requests_of_every_kind_can_fail(client: httpx.Client) -> None:
    """A fault of activity queries strikes those alone."""
    faults = parse_faults('[[fault]]\non = "activity"\nstatus = 403\n[[fault]]\non = "queues"\nstatus = 429')
    with running(NotificationsSimulator(faults=faults)) as simulator, api(simulator.base_url) as other:
        assert other.post(ACTIVITY, json=INTERACTING).status_code == 403
        assert other.get("/api/v2/routing/queues").status_code == 429
        assert other.post(ACTIVITY, json=INTERACTING).status_code == 200
        assert simulator.requests["activity"] == 2


def test_the_load_check_lists_participants_with_queue_agent_and_edge() -> None:
    """Entities name what a call is labelled by; `edge`, provider and region are those of its calls."""
    with running_simulator(conversations=6, rate=50) as simulator, api(simulator.base_url) as client:
        listed = entities(client, "/api/v2/conversations/voice", conversationType="voice")
        assert len(listed) == 6
        first = listed[0]
        assert first["divisions"][0]["division"]["name"] == "Home"
        customer, acd = first["participants"][:2]
        assert (acd["purpose"], acd["queueId"], acd["queueName"]) == ("acd", QUEUE_ID, "Support")
        (call,) = customer["calls"]
        assert (call["edgeName"], call["provider"], call["mediaRegion"]) == ("edge-frankfurt-1", "Edge", "eu-central-1")
        assert client.get("/api/v2/users/" + USER_ID).json()["id"] == USER_ID


def subscribed(client: httpx.Client, topics: list[str]) -> str:
    channel = client.post("/api/v2/notifications/channels").json()
    path = f"/api/v2/notifications/channels/{channel['id']}/subscriptions"
    client.put(path, json=[{"id": topic} for topic in topics]).raise_for_status()
    uri: str = channel["connectUri"]
    return uri


def test_a_requeued_call_looks_over_before_it_is() -> None:
    """With premature snapshots a queue's topic shows the unanswered leg alone; then the next agent answers."""
    simulator = NotificationsSimulator(conversations=1, rate=20, kinds=("requeue",), premature=True)
    with running(simulator), api(simulator.base_url) as client:
        call = next(iter(simulator.traffic.book.calls))
        detail = f"v2.detail.events.conversation.{call.id}?user.start&user.end&acd.start"
        metrics = f"v2.analytics.conversation.{call.id}.metrics"
        uri = subscribed(client, [f"v2.routing.queues.{QUEUE_ID}.conversations.calls", detail, metrics])
        seen, snapshots = [], []
        with connect(uri) as socket:
            while "user.start" not in seen:
                message = json.loads(socket.recv(timeout=10))
                kind = message["topicName"].partition(call.id)[2].removeprefix(".")
                seen.append(kind)
                if not kind:
                    snapshots.append([p["state"] for p in message["eventBody"]["participants"]])
    assert [kind for kind in seen if kind] == ["acd.start", "user.end", "metrics", "user.start"]
    assert ["terminated"] in snapshots
    assert snapshots[-1].count("connected") >= 1


def test_details_are_queried_by_pages_once_calls_have_ended() -> None:
    """The query finds ended calls of low MOS; fields of segments are ignored among the filters of conversations."""
    faults = parse_faults('[[fault]]\non = "edge"\nname = "edge-frankfurt-1"\ndo = "loss"\nloss = 0.2')
    simulator = NotificationsSimulator(conversations=9, rate=20, analytics_after_s=0.0, faults=faults)
    interval = "2020-01-01T00:00:00Z/2120-01-01T00:00:00Z"
    with running(simulator), api(simulator.base_url) as client:
        began = time.time() - 150
        for frame, _ in simulator.traffic.frames(began):
            if frame.due_s > 145:
                break
        ended = {call.id for call in simulator.traffic.book.calls if call.ended_at is not None}
        low = {"type": "and", "predicates": [{"dimension": "mediaStatsMinConversationMos", "range": {"lt": 3.5}}]}
        over = {"type": "and", "predicates": [{"dimension": "conversationEnd", "operator": "exists"}]}
        queue = {"type": "and", "predicates": [{"dimension": "queueId", "value": "no such queue"}]}
        found, number = [], 1
        while page := client.post(
            DETAILS_QUERY,
            json={"interval": interval, "conversationFilters": [over], "paging": {"pageSize": 2, "pageNumber": number}},
        ).json().get("conversations"):  # fmt: skip
            found += page
            number += 1
        assert {one["conversationId"] for one in found} == ended
        assert len(found) >= 3
        bad = client.post(DETAILS_QUERY, json={"interval": interval, "conversationFilters": [low, queue]}).json()
        edges = {call.id: call.story.edge.name for call in simulator.traffic.book.calls}
        assert {edges[one["conversationId"]] for one in bad["conversations"]} == {"edge-frankfurt-1"}
        none = client.post(DETAILS_QUERY, json={"interval": interval, "segmentFilters": [queue]}).json()
        assert none == {"totalHits": 0}
        assert client.post(DETAILS_QUERY, json={"interval": "today"}).status_code == 400
        stats = [s for p in found[0]["participants"] for s in p["sessions"][0].get("mediaEndpointStats", [])]
        assert all({"minMos", "minRFactor", "maxLatencyMs", "underrunPackets"} <= set(one) for one in stats)
        assert found[0]["mediaStatsMinConversationMos"] == min(one["minMos"] for one in stats)


def test_media_statistics_are_cumulative_and_tell_client_and_server_apart(
    simulator: NotificationsSimulator, client: httpx.Client
) -> None:
    """A trunk's and a softphone's readings name where they come from; an unknown conversation is 404."""
    path = "/api/v2/telephony/providers/edges/mediastatistics/conversations/"
    call = next(call for call in simulator.traffic.book.in_progress() if call.story.kind == "plain")
    customer, agent = client.get(path + call.id).json()["entities"]
    (trunk,), (station,) = customer["mediaStatistics"], agent["mediaStatistics"]
    assert (trunk["sourceType"], trunk["rtp"]["packetsReceived"]) == ("Server", 200)
    assert "trunk" in trunk
    assert station["user"]["name"]
    assert 0 < station["rtp"]["averageJitter"] < 0.1
    assert 4 < station["rtp"]["estimatedAverageMos"] <= 4.9
    assert customer["effectiveRegion"] == call.story.edge.region
    assert client.get(path + "nothing").status_code == 404


def test_the_platform_publishes_operational_events_and_trunk_metrics() -> None:
    """A fault of the platform becomes a notification; trunks count the calls of their edge."""
    faults = parse_faults('[[fault]]\non = "platform"\nevent = "AUDIOHOOK-0001"\nafter_s = 0.2')
    simulator = NotificationsSimulator(conversations=6, rate=1, faults=faults, metrics_s=0.2)
    with running(simulator), api(simulator.base_url) as client:
        edge = simulator.traffic.book.organisation.edges[0]
        trunk = f"v2.telephony.providers.edges.trunks.{trunk_id(edge.id)}.metrics"
        operations = f"v2.operations.events.{ORGANISATION_ID}"
        heard: dict[str, dict[str, Any]] = {}
        with connect(subscribed(client, [trunk, operations])) as socket:
            while set(heard) != {trunk, operations}:
                message = json.loads(socket.recv(timeout=10))
                heard[message["topicName"]] = message["eventBody"]
    assert heard[operations]["eventEntity"]["id"] == "AUDIOHOOK-0001"
    assert sum(heard[trunk]["calls"].values()) == 2


def test_an_edge_goes_offline_and_online_again() -> None:
    """Its topic has one message for each change; an edge without a fault has none."""
    faults = parse_faults('[[fault]]\non = "edge"\nname = "edge-dublin-1"\ndo = "offline"\nafter_s = 0.2\nfor_s = 0.4')
    simulator = NotificationsSimulator(conversations=6, rate=1, faults=faults)
    with running(simulator), api(simulator.base_url) as client:
        edges = {edge.id: edge.name for edge in simulator.traffic.book.organisation.edges}
        topics = [f"v2.telephony.providers.edges.{id_}" for id_ in edges]
        heard: list[tuple[str, str]] = []
        with connect(subscribed(client, topics)) as socket:
            while len(heard) < 2:
                message = json.loads(socket.recv(timeout=10))
                if message["topicName"] in topics:
                    heard.append((edges[message["eventBody"]["id"]], message["eventBody"]["onlineStatus"]))
    assert heard == [("edge-dublin-1", "OFFLINE"), ("edge-dublin-1", "ONLINE")]


def test_300_agents_on_three_queues() -> None:
    """300 calls at a time, found by activity query, and their detail events on three channels, within 20 s."""
    simulator = NotificationsSimulator(conversations=300, rate=1, seed=3)
    with running(simulator), api(simulator.base_url) as client:
        began = time.monotonic()
        queues = [queue["id"] for queue in entities(client, "/api/v2/routing/queues")]
        uri = subscribed(client, [f"v2.routing.queues.{id_}.conversations.calls" for id_ in queues])
        calls = [call.id for call in simulator.traffic.book.calls]
        topics = [f"v2.detail.events.conversation.{id_}?customer.start&user.start&flow.start" for id_ in calls]
        heard, users, agents = Counter[str](), set[str](), set[str]()
        other = subscribed(client, topics)
        with connect(uri, close_timeout=0) as snapshots, connect(other, close_timeout=0) as details:
            while len(heard) < 300:
                heard[json.loads(details.recv(timeout=10))["eventBody"]["conversationId"]] += 1
            while len(users) < 290:
                body = json.loads(snapshots.recv(timeout=10))["eventBody"]
                users |= {p["user"]["id"] for p in body["participants"] if "user" in p}
            assert time.monotonic() < began + 20
            for number in (1, 2):
                found = client.post(ACTIVITY, params={"pageSize": 200, "pageNumber": number}, json=INTERACTING).json()
                agents |= {entity["userId"] for entity in found["results"][0]["entities"]}
        assert set(heard) == set(calls)
        assert len(agents) >= 200  # those who were offered a call that another did not answer may still be alerted
