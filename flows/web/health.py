"""Serve metrics and health checks as routes of an ASGI application: of the live page, or alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from connectors.runtime.logs import get_logger
from flows.web.listening import Answer

__all__ = ["health_app", "health_routes"]


def health_app(answers: Mapping[str, Answer]) -> Starlette:
    """Return an application with nothing but these paths."""
    return Starlette(routes=health_routes(answers), exception_handlers={HTTPStatus.NOT_FOUND: _not_found})


def health_routes(answers: Mapping[str, Answer]) -> list[Route]:
    """Return a route for each path.

    Each path has a thread of the event loop's own pool, one request at a time: slow views of the page, which run in
    another pool, and a slow check do not delay the other checks.
    """
    return [Route(path, _route(path, answer)) for path, answer in answers.items()]


def _route(path: str, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    lock = asyncio.Lock()

    async def route(_request: Request) -> Response:
        try:
            async with lock:
                status, kind, body = await asyncio.to_thread(answer)
        except Exception as error:
            get_logger(__name__).exception("health_check_broke", path=path)
            return PlainTextResponse(f"{type(error).__name__}\n", HTTPStatus.INTERNAL_SERVER_ERROR)
        return Response(body, status, {"Content-Type": kind, "Cache-Control": "no-store"})

    return route


def _not_found(_request: Request, _error: Exception) -> Response:
    return PlainTextResponse("there are /metrics, /livez and /readyz\n", HTTPStatus.NOT_FOUND)
