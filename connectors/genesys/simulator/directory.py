"""Look-ups of the simulated platform by id and by name: queues, users and divisions."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from connectors.genesys.endpoints import DIVISIONS_PATH, EDGES_PATH, QUEUES_PATH, USERS_PATH, USERS_SEARCH_PATH
from connectors.genesys.simulator.connection import Answer, HttpRequest
from connectors.genesys.simulator.organisation import Agent, Division, Organisation, Queue
from connectors.genesys.simulator.rest import Responder, Route, error_answer, parse_json, route

__all__ = ["Directory", "page"]

_DEFAULT_SIZE = 25
_MAX_SIZE = 500


class Directory:
    """Answer look-ups in an organisation."""

    def __init__(self, organisation: Organisation) -> None:
        self._organisation = organisation

    def routes(self) -> list[Route]:
        """Return the routes of all look-ups; `users/search` comes before the route of one user."""
        here = self._organisation
        queues = [_queue(queue) for queue in here.queues]
        users = [_user(agent) for agent in here.agents]
        edges = [{"id": edge.id, "name": edge.name} for edge in here.edges]
        divisions = [_division(division) for division in here.divisions]
        return [
            route("queues", QUEUES_PATH, {"GET": _listing(queues)}),
            route("queues", QUEUES_PATH + "/{queueId}", {"GET": _one(queues)}),
            route("users", USERS_SEARCH_PATH, {"POST": _search(users)}),
            route("users", USERS_PATH, {"GET": _listing(users)}),
            route("users", USERS_PATH + "/{userId}", {"GET": _one(users)}),
            route("edges", EDGES_PATH + "/{edgeId}", {"GET": _one(edges)}),
            route("divisions", DIVISIONS_PATH, {"GET": _listing(divisions)}),
            route("divisions", DIVISIONS_PATH + "/{divisionId}", {"GET": _one(divisions)}),
        ]

    def has_topic(self, topic: str) -> bool:
        """Tell whether the queue or user that a topic names exists; topics of other kinds always do."""
        ids = {queue.id for queue in self._organisation.queues} | {agent.id for agent in self._organisation.agents}
        for prefix in ("v2.routing.queues.", "v2.users."):
            if topic.startswith(prefix):
                return topic.removeprefix(prefix).partition(".")[0] in ids
        return True


def page(items: Sequence[Any], size: int, number: int) -> Sequence[Any]:
    """Cut out a page; pages count from 1.

    >>> page("abcde", 2, 3), page("abcde", 2, 4)
    ('e', '')
    """
    return items[(number - 1) * size : number * size]


def _listing(items: Sequence[dict[str, Any]]) -> Callable[[HttpRequest], Answer]:
    def answer(request: HttpRequest) -> Answer:
        query = parse_qs(urlsplit(request.target).query)
        found = [item for item in items if "id" not in query or item["id"] in _values(query["id"])]
        for name in query.get("name", []):  # asterisks at both ends, upper and lower case alike
            found = [item for item in found if fnmatch.fnmatchcase(item["name"].lower(), name.lower())]
        paging = _paging(query.get("pageSize", ["25"])[0], query.get("pageNumber", ["1"])[0])
        if paging is None:
            return error_answer(400, "bad.request", f"pageSize must be 1 to {_MAX_SIZE}, pageNumber at least 1")
        size, number = paging
        return Answer(200, {"entities": page(found, size, number), **_totals(len(found), size, number)})

    return answer


def _one(items: Sequence[dict[str, Any]]) -> Responder:
    def answer(request: HttpRequest, id_: str) -> Answer:  # noqa: ARG001
        found = next((item for item in items if item["id"] == id_), None)
        return error_answer(404, "not.found", f"{id_} does not exist") if found is None else Answer(200, found)

    return answer


def _search(users: Sequence[dict[str, Any]]) -> Callable[[HttpRequest], Answer]:
    """Answer `users/search`: of every criterion one of its values must match one of its fields."""

    def answer(request: HttpRequest) -> Answer:
        try:
            asked = parse_json(request)
            criteria = [(one["fields"], one.get("values", [one.get("value")]), one["type"]) for one in asked["query"]]
            paging = _paging(asked.get("pageSize", _DEFAULT_SIZE), asked.get("pageNumber", 1))
        except (ValueError, TypeError, KeyError, AttributeError):
            return error_answer(400, "bad.request", "the body is not a search")
        if paging is None:
            return error_answer(400, "bad.request", f"pageSize must be 1 to {_MAX_SIZE}, pageNumber at least 1")
        found = list(users)
        for fields, values, kind in criteria:
            found = [user for user in found if any(_matches(user.get(f), v, kind) for f in fields for v in values)]
        size, number = paging
        body = {"types": ["users"], **_totals(len(found), size, number)}
        if found:  # without a hit, Genesys leaves `results` out
            body["results"] = page(found, size, number)
        return Answer(200, body)

    return answer


def _matches(field: object, value: object, kind: str) -> bool:
    if not isinstance(field, str) or not isinstance(value, str):
        return False
    if kind == "EXACT":
        return field.lower() == value.lower()
    return value.lower() in field.lower()


def _values(texts: Sequence[str]) -> set[str]:
    return {value for text in texts for value in text.split(",")}


def _paging(size: Any, number: Any) -> tuple[int, int] | None:
    try:
        size, number = int(size), int(number)
    except (ValueError, TypeError):
        return None
    return (size, number) if 1 <= size <= _MAX_SIZE and number >= 1 else None


def _totals(total: int, size: int, number: int) -> dict[str, Any]:
    return {"pageSize": size, "pageNumber": number, "total": total, "pageCount": -(-total // size)}


def _queue(queue: Queue) -> dict[str, Any]:
    return {"id": queue.id, "name": queue.name, "division": _division(queue.division)}


def _user(agent: Agent) -> dict[str, Any]:
    return {
        "id": agent.id,
        "name": agent.name,
        "email": f"{agent.name.lower().replace(' ', '.')}@example.com",
        "state": "active",
        "division": _division(agent.queue.division),
    }


def _division(division: Division) -> dict[str, Any]:
    return {"id": division.id, "name": division.name}
