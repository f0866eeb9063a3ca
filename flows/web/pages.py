"""Serve the views of the live page, as HTML for browsers and as JSON for programs: the same figures in both."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

import jinja2
import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from connectors.errors import StateError
from flows.state import StateLayout
from flows.web import cards, queries
from flows.web.failures import LABELS, failures
from flows.web.guard import Guard
from flows.web.health import health_routes
from flows.web.heat import METRICS, heat_map
from flows.web.histograms import histograms
from flows.web.history import files_of, receivers, windows_of
from flows.web.listening import Answer
from flows.web.model import EVERYTHING, Model
from flows.web.parts import ServedParts
from flows.web.queries import LONG_SPANS, PAGE, Span
from flows.web.ranking import ranking
from flows.web.reader import StateReader
from flows.web.story import lines_of, story_of
from flows.web.week_ago import WeekAgo
from flows.web.what_if import RULES, Job, WhatIf, rules_of
from flows.web.words import FILTERS, link, replay_command, rule_name, said_of

__all__ = ["make_app"]

HERE: Final = Path(__file__).parent
EVERY_S: Final = 1.0
HEARTBEAT_S: Final = 10.0
DAY_S: Final = 86_400.0
SHOWN_GROUPS: Final = 12
MAX_FILTERS: Final = 16
# What stays in the address when a view links to another one.
SHARED: Final = ("range", "from", "to")
View = Callable[[dict[str, str], Span], dict[str, Any]]


def make_app(
    reader: StateReader,
    directory: Path,
    *,
    token: str | None,
    what_if: WhatIf,
    hosts: tuple[str, ...] = (),
    answers: Mapping[str, Answer] | None = None,
    now: Callable[[], float] = time.time,
) -> Guard:
    """Return the ASGI application; `answers` gives more paths, such as /metrics, with what they answer."""
    pages = _Pages(reader, directory, what_if, now, (answers or {}).get("/metrics"))
    views: dict[str, View] = {
        "fleet": pages.fleet,
        "conversations": pages.conversations,
        "conversation": pages.conversation,
        "incidents": pages.incidents,
        "failures": pages.failures,
        "feeds": pages.feeds,
        "what-if": pages.what_if,
    }
    routes: list[Route | Mount] = [Route("/", lambda _: RedirectResponse("/fleet", 307))]
    for name, view in views.items():
        routes.append(Route(f"/{name}", partial(pages.page, name, view)))
        routes.append(Route(f"/api/{name}", partial(pages.json, name, view)))
    routes += health_routes(answers or {})
    routes += [
        Route("/events", pages.events),
        Route("/journal", pages.journal),
        Route("/api/parts", pages.parts),
        Route("/what-if", pages.try_out, methods=["POST"]),
        Route("/login", pages.login),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: pages.failed})
    return Guard(app, token=token, hosts=hosts)


def environment() -> jinja2.Environment:
    """Return the templates, which escape everything that is put into them."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(FILTERS)
    templates.globals.update(link=link, rule_name=rule_name, metrics=METRICS)
    return templates


class _Pages:
    def __init__(
        self,
        reader: StateReader,
        directory: Path,
        what_if: WhatIf,
        now: Callable[[], float],
        metrics: Answer | None,
    ) -> None:
        self._metrics = metrics
        self._reader = reader
        self._state = StateLayout(directory)
        self._what_if = what_if
        self._week_ago = WeekAgo(self._state)
        self._parts = ServedParts(directory)
        self._now = now
        self._templates = environment()

    def page(self, name: str, view: View, request: Request) -> Response:
        """Answer with a view as HTML."""
        query = dict(request.query_params)
        span, figures = self._top(name, query)
        kept = {key: one for key, one in LONG_SPANS.items() if name == "what-if" or one[0] <= self._reader.model.keep_s}
        context = {
            "view": name,
            "spans": queries.SPANS | kept,
            "query": query,
            "path": request.url.path,
            "shared": {key: query[key] for key in SHARED if key in query},
            "span": span,
            "figures": figures,
            "loading": not self._reader.caught_up.is_set(),
            **view(query, span),
        }
        return HTMLResponse(self._templates.get_template(f"{name}.html").render(context))

    def json(self, name: str, view: View, request: Request) -> Response:
        """Answer with a view as JSON."""
        query = dict(request.query_params)
        span, figures = self._top(name, query)
        body = {"span": span._asdict(), "figures": figures, **view(query, span)}
        return Response(
            orjson.dumps(body, default=_as_json, option=orjson.OPT_PASSTHROUGH_DATACLASS), media_type="application/json"
        )

    def fleet(self, query: dict[str, str], span: Span) -> dict[str, Any]:
        """Return the heat map of a dimension, and the groups."""
        metric = query.get("metric", "breach")
        if metric not in METRICS:
            raise HTTPException(400, "there is no such metric")
        with self._reading() as model:
            names = queries.dimensions(model)
            by = query.get("by") or queries.usual_dimension(model, names)
            map_ = heat_map(model, span, by, metric, _page(query))
            groups = queries.groups(model)
            ranked = None if by in ("conversation", EVERYTHING) else ranking(model, by, self._week_ago.shares(model))
        bad = [group for group in groups if group["breaching"] or group["incident"]]
        return {
            "by": by,
            "metric": metric,
            "names": names,
            "map": map_,
            "pages": _pages(query, map_.total),
            "ranking": None
            if ranked is None
            else {"hour": ranked.hour, "rows": [row._asdict() for row in ranked.rows]},
            "groups": bad[:SHOWN_GROUPS],
            "groups_bad": len(bad),
            "groups_total": len(groups),
        }

    def conversations(self, query: dict[str, str], span: Span) -> dict[str, Any]:
        """Return a page of the conversations."""
        with self._reading() as model:
            rows, total = queries.conversations(model, span, query, _page(query))
        filters = queries.filters_of(query)
        return {"rows": rows, "total": total, "filters": filters, "pages": _pages(query, total)}

    def conversation(self, query: dict[str, str], _span: Span) -> dict[str, Any]:
        """Return one conversation with its windows, parties, incidents, gaps and callbacks."""
        with self._reading() as model:
            found = queries.conversation(model, query.get("id", ""))
            gaps = queries.gaps_of(model, (found or {}).get("first") or 0.0)
            settings, now, marks = model.settings, queries.now_of(model), model.marks
            offsets, was_cut = model.windows_of(query.get("id", ""))
        if found is None:
            raise HTTPException(
                404, "this conversation is not in the files, or was longer ago than the page looks back"
            )
        first, last = found["first"] or 0.0, found["last"] or 0.0
        read = windows_of(self._state.windows, found["id"], offsets)
        story = story_of(self._state.journal, found["id"], first, last, marks)
        own = [gap for gap in gaps if gap.start < last and (not found["feed"] or gap.feed == found["feed"])]
        return {
            "conversation": found,
            "windows": read.windows,
            "complete": read.complete and story.complete and not was_cut,
            "gaps": [gap._asdict() for gap in own],
            "mos_below": settings.get("alerts", {}).get("mos_below"),
            "genesys_mos_below": settings.get("alerts", {}).get("genesys_mos_below"),
            "lanes": [{"name": lane.name, "parts": [part._asdict() for part in lane.parts]} for lane in story.lanes],
            "media": [media._asdict() for media in story.media],
            "ends": [end._asdict() for end in story.ends],
            "said": said_of(found["incidents"], now),
            "command": replay_command(self._state.journal, found["id"]),
            "settings": settings,
        }

    def journal(self, request: Request) -> Response:
        """Answer with the lines of the journal that name a conversation, between two times."""
        query = request.query_params
        try:
            start, end = float(query["from"]), float(query["to"])
        except (KeyError, ValueError) as error:
            raise HTTPException(400, "`from` and `to` must be epoch seconds") from error
        lines = lines_of(self._state.journal, query.get("id", ""), start, end)
        return Response(b"".join(line + b"\n" for line in lines), media_type="text/plain; charset=utf-8")

    def parts(self, request: Request) -> Response:
        """Answer with lines of what this instance of several adds to groups, of a time after `after`."""
        try:
            after = float(request.query_params.get("after", "-inf"))
            return Response(self._parts.after(after), media_type="application/jsonl")
        except ValueError as error:
            raise HTTPException(400, "`after` must be epoch seconds") from error
        except StateError as error:
            raise HTTPException(503, str(error)) from error

    def incidents(self, query: dict[str, str], span: Span) -> dict[str, Any]:
        """Return a page of the incidents."""
        with self._reading() as model:
            rows, total = queries.incidents(model, span, query, _page(query))
            for row in rows:
                row["children"] = queries.held_by(model, row["id"]) if row["held"] else []
            rules = queries.rules(model)
            names = ["rule", *queries.labels(model)]
        filters = queries.filters_of(query)
        found = {"rows": rows, "total": total, "filters": filters, "rules": rules, "names": names}
        return found | {"by": query.get("group", ""), "pages": _pages(query, total)}

    def failures(self, query: dict[str, str], span: Span) -> dict[str, Any]:
        """Return the failed calls by code and by a label."""
        by = query.get("by", LABELS[0])
        if by not in LABELS:
            raise HTTPException(400, "failures cannot be shown by this label")
        with self._reading() as model:
            return {"failed": failures(model, span, by), "labels": LABELS}

    def feeds(self, _query: dict[str, str], span: Span) -> dict[str, Any]:
        """Return feeds with their gaps, receivers with their callbacks, the journal and the audit log."""
        receivers_ = self._receivers()
        with self._reading() as model:
            found = cards.feeds(model, span, receivers_) | model.audit.verdict(self._state.audit)
        status, _, body = (503, "", b"") if self._metrics is None else self._metrics()
        return cards.with_live(found, body.decode() if status == 200 else "") | files_of(self._state)

    def what_if(self, query: dict[str, str], span: Span) -> dict[str, Any]:
        """Return the form for other limits, and a backtest with them, running or done."""
        job = self._what_if.get(query["job"]) if "job" in query else None
        with self._reading() as model:
            settings, spread = model.settings, histograms(model, span)
        return {
            "histograms": [one._asdict() for one in spread],
            "limits_now": {one.field: one.limit for one in spread},
            "rules": RULES,
            "values": {} if job is None else job.rules,
            "current": settings.get("alerts", {}) | settings.get("defaults", {}),
            "job": job,
            "progress": None if job is None else job.progress(),
        }

    async def try_out(self, request: Request) -> Response:
        """Start a backtest, and lead to its page."""
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        rules = rules_of(form)
        with self._reading() as model:
            span, recorded = queries.span_of(model, form), model.settings
        job = await run_in_threadpool(self._what_if.start, rules, span.start, recorded)
        shared: dict[str, str] = {key: form[key] for key in SHARED if key in form}
        return RedirectResponse(link("/what-if", shared, job=job.id), 303)

    async def events(self, request: Request) -> Response:
        """Answer with server-sent events: a line whenever the files have something new."""
        if request.method == "HEAD":  # there would be no end of the nothing that is sent
            return Response(media_type="text/event-stream")
        return StreamingResponse(self._changes(), media_type="text/event-stream")

    def login(self, request: Request) -> Response:
        """Answer with the form that asks for the token."""
        wrong = "wrong" in request.query_params
        return HTMLResponse(self._templates.get_template("login.html").render(wrong=wrong), 401 if wrong else 200)

    def failed(self, request: Request, error: Exception) -> Response:
        """Answer with what is wrong, as a page for a browser."""
        assert isinstance(error, HTTPException)
        if request.url.path.startswith("/api/") or "text/html" not in request.headers.get("accept", ""):
            return Response(f"{error.detail}\n", error.status_code, media_type="text/plain")
        page = self._templates.get_template("error.html").render(status=error.status_code, detail=error.detail)
        return HTMLResponse(page, error.status_code)

    async def _changes(self) -> AsyncIterator[bytes]:
        told: tuple[int, str] | None = None
        told_at = 0.0
        while True:
            state, at = (self._reader.model.version, self._reader.failure), time.monotonic()
            if state != told:
                yield b"data: %d\n\n" % state[0]
                told, told_at = state, at
            elif at - told_at >= HEARTBEAT_S:
                yield b": nothing new\n\n"
                told_at = at
            await asyncio.sleep(EVERY_S)

    def _receivers(self) -> list[dict[str, Any]]:
        try:
            return receivers(self._state.outbox)
        except sqlite3.Error as error:
            raise HTTPException(503, f"the outbox cannot be read: {error}") from error

    @contextmanager
    def _reading(self) -> Iterator[Model]:
        model = self._reader.model
        with model.lock:
            yield model

    def _top(self, name: str, query: dict[str, str]) -> tuple[Span, dict[str, Any]]:
        """Return the range of a view, and the figures above it."""
        if len(queries.filters_of(query)) > MAX_FILTERS:  # SQLite's expressions are only so deep
            raise HTTPException(400, f"at most {MAX_FILTERS} labels can be asked for")
        known = queries.SPANS | LONG_SPANS
        if query.get("range") and query["range"] not in known:
            raise HTTPException(400, f"there is no such range; there are {', '.join(known)}")
        with self._reading() as model:
            # An incident is shown for a day after its end, and so are gaps and answers.
            usual = "24h" if name in ("incidents", "feeds") else "1h"
            span = queries.span_of(model, query, longest_s=max(model.keep_s, DAY_S), usual=usual)
            figures = queries.figures(model, span)
        rows = self._receivers()
        at = figures["journal_at"]
        return span, figures | {
            "pending": sum(row["pending"] for row in rows),
            "dead": sum(row["dead"] for row in rows),
            "failure": self._reader.failure,
            "lag_s": None if at is None else max(self._now() - at, 0.0),
        }


def _as_json(value: object) -> Any:
    if isinstance(value, Job):
        return {"id": value.id, "rules": value.rules, "result": value.result, "failure": value.failure}
    return asdict(value)  # type: ignore[call-overload]


def _page(query: dict[str, str]) -> int:
    text = query.get("page", "0")
    return min(int(text), 1_000_000) if text.isascii() and text.isdigit() else 0


def _pages(query: dict[str, str], total: int) -> dict[str, int]:
    page = _page(query)
    return {"page": page, "last": max(-(-total // PAGE) - 1, 0), "total": total}
