"""The filters, intervals and pages of Genesys' analytics queries. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from connectors.genesys.simulator.connection import HttpRequest

__all__ = ["QueryError", "interval_of", "matches", "paging_of"]

_IGNORED = frozenset({"queueId", "userId", "direction", "ani"})


class QueryError(ValueError):
    """A query that Genesys would refuse."""


def matches(filter_: Any, item: Mapping[str, Any]) -> bool:
    """Whether an item passes a filter: clauses and predicates, joined by `and` or `or`.

    Raises QueryError for a filter that is not valid.

    >>> queue = {"type": "and", "predicates": [{"dimension": "queueId", "value": "q"}]}
    >>> matches(queue, {"queueId": "q"}), matches(queue, {"queueId": "r"}), matches(None, {})
    (True, False, True)
    """
    if filter_ is None:
        return True
    parts = [matches(clause, item) for clause in filter_.get("clauses") or []]
    parts += [_holds(predicate, item) for predicate in filter_.get("predicates") or []]
    if not parts:
        raise QueryError("a filter needs a predicate")
    match filter_.get("type"):
        case "and":
            return all(parts)
        case "or":
            return any(parts)
        case other:
            raise QueryError(f"a filter's type is and or or, not {other}")


def _holds(predicate: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    dimension = predicate.get("dimension") or predicate.get("metric")
    if not isinstance(dimension, str):
        raise QueryError("a predicate needs a dimension")
    if dimension in _IGNORED and "conversationId" in item and "participants" in item:
        return True  # as Genesys does in conversationFilters, without a word
    value = item.get(dimension)
    match predicate.get("operator", "matches"):
        case "exists":
            return value is not None
        case "notExists":
            return value is None
        case "matches" if "range" in predicate:
            return value is not None and _in_range(predicate["range"], float(value))
        case "matches":
            return value == predicate.get("value")
        case other:
            raise QueryError(f"unknown operator {other}")


def _in_range(limits: Mapping[str, float], value: float) -> bool:
    return (
        limits.get("gt", value - 1) < value < limits.get("lt", value + 1)
        and limits.get("gte", value) <= value <= limits.get("lte", value)
    )  # fmt: skip


def interval_of(text: str) -> tuple[float, float]:
    """Parse an interval of two ISO 8601 times, into epoch seconds. Raises ValueError.

    >>> interval_of("1970-01-01T00:00:00Z/1970-01-01T00:01:00.500Z")
    (0.0, 60.5)
    """
    begins, ends = (datetime.fromisoformat(part).timestamp() for part in text.split("/"))
    return begins, ends


def paging_of(request: HttpRequest, most: int) -> tuple[int, int]:
    """Read `pageSize` and `pageNumber` of a request's query. Raises QueryError."""
    query = parse_qs(urlsplit(request.target).query)
    size, number = int(query.get("pageSize", [str(most)])[0]), int(query.get("pageNumber", ["1"])[0])
    if not (1 <= size <= most and number >= 1):
        raise QueryError(f"pageSize must be 1 to {most}, pageNumber at least 1")
    return size, number
