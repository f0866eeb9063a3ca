"""Who may ask the live page, what its answers forbid, and what slow or many clients cost."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.errors import ConfigurationError, UsageError
from flows.settings.loading import parse_settings
from flows.settings.secrets import token_of
from flows.settings.web import WebSettings
from flows.web.listening import bind
from flows.web.page import HealthPage, LivePage
from flows.web.pages import make_app
from flows.web.reader import StateReader
from flows.web.server import WebServer
from flows.web.what_if import WhatIf
from tests.support.callbacks import eventually
from tests.support.state_dirs import HOSTILE, StateDir

TOKEN = "a-long-secret-of-the-test"
WAIT_S = 15.0
ROOT = Path(__file__).parents[3]
VIEWS = ("/fleet", "/conversations", "/incidents", "/feeds")


@contextlib.contextmanager
def serving(
    state: StateDir,
    *,
    token: str | None = None,
    connections: int = 64,
    deadline_s: float = 10.0,
    metrics: bytes = b"metric 1\n",
) -> Iterator[str]:
    """The address of a page over a state directory."""
    reader = StateReader(state.dir, keep_s=86_400.0)
    reader.start()
    answers = {"/metrics": lambda: (200, "text/plain", metrics), "/readyz": lambda: (503, "text/plain", b"no\n")}
    what_if = WhatIf(state.dir / "journal", os.environ)
    app = make_app(reader, state.dir, token=token, what_if=what_if, hosts=("vw.example",), answers=answers)
    server = WebServer(app, bind("127.0.0.1", 0, key="web.listen"), max_connections=connections, deadline_s=deadline_s)
    server.start()
    assert reader.caught_up.wait(WAIT_S)
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        server.stop()
        reader.stop()


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    made = StateDir(tmp_path / "state")
    made.feed(0, "up", HOSTILE)
    made.watch(0, HOSTILE, leg_id=HOSTILE)
    made.window(0, HOSTILE, p95=300.0, queue=HOSTILE)
    raised = made.alert(5, HOSTILE, "raised", 1, labels={"queue": HOSTILE})
    made.attempt(6, raised, "CALLBACK_FAILED", HOSTILE)
    made.feed(20, "down", HOSTILE)
    made.outbox(pending=2, dead=1, delivered=3)
    return made


def ask(
    address: str, path: str, *, method: str = "GET", body: str | None = None, **headers: str
) -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPConnection(address, timeout=WAIT_S)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, text


def test_every_view_is_served_as_a_page_and_as_json(state: StateDir) -> None:
    """Hostile texts of the wire are text in all of them, and the browser may run nothing but our own files."""
    from urllib.parse import quote

    with serving(state) as address:
        views = (*VIEWS, f"/conversation?id={quote(HOSTILE)}", "/fleet?by=queue&metric=mos", "/fleet?by=all&range=24h")
        for path in views:
            status, headers, text = ask(address, path)
            assert status == 200, text
            assert "<img src=x" not in text
            assert "onerror=alert(1)>" not in text.replace("&lt;img src=x onerror=alert(1)&gt;", "")
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert " style=" not in text
            assert "<script>" not in text
            assert headers["Cache-Control"] == "no-store"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert ask(address, "/api" + path)[0] == 200
        assert ask(address, "/api/conversation?id=unknown")[0] == 404
        assert ask(address, "/fleet?metric=unknown")[0] == 400
        assert ask(address, "/conversations?page=x&from=nan&to=inf&order=;drop")[0] == 200


def test_the_fleet_is_shown_by_the_label_that_groups_are_of(state: StateDir) -> None:
    """Else by queue or edge, by agent only if asked for; a label that no conversation has is named, not a blank map."""
    state.window(30, "other", agent="a1", branch="b1", edge="e1", queue="q1")
    with serving(state) as address:
        assert json.loads(ask(address, "/api/fleet")[2])["by"] == "queue"
        assert json.loads(ask(address, "/api/fleet?by=agent")[2])["by"] == "agent"
        status, _, text = ask(address, "/fleet?by=colour")
        assert status == 200
        assert "No conversation has the label colour" in text
        assert "Nothing was received" not in text
        state.record(40, settings={"groups": {"by": ["site", "branch"]}})
        eventually(lambda: json.loads(ask(address, "/api/fleet")[2])["by"] == "branch", 10)


def test_agents_are_shown_by_request_only(tmp_path: Path) -> None:
    """Where agents are the only label, the fleet is shown by conversation."""
    state = StateDir(tmp_path / "state")
    state.window(0, "one", agent="a1")
    with serving(state) as address:
        assert json.loads(ask(address, "/api/fleet")[2])["by"] == "conversation"


def test_an_unknown_range_is_refused(state: StateDir) -> None:
    """Every view names the ranges there are."""
    with serving(state) as address:
        for path in VIEWS:
            assert ask(address, f"{path}?range=2h")[0] == 400, path
            status, _, text = ask(address, f"/api{path}?range=2h")
            assert (status, text) == (400, "there is no such range; there are 15m, 1h, 6h, 24h, 3d, 7d\n")
        assert ask(address, "/fleet?range=")[0] == 200


@pytest.mark.parametrize("query", ["from=0&to=99999999", "from=0&to=1e9", "from=0", "from=-1e20", "from=-5&to=5"])
def test_a_very_long_range_costs_no_more_than_a_kept_one(state: StateDir, query: str) -> None:
    """The answer holds at most the columns of what is kept, and no query is an error of the server."""
    with serving(state) as address:
        status, _, text = ask(address, f"/api/fleet?{query}")
        assert status == 200, text
        assert ask(address, f"/fleet?{query}")[0] == 200
    columns = json.loads(text)["map"]["columns"]
    assert 0 < len(columns) <= 97


def test_an_incident_is_shown_for_a_day_unless_a_range_is_chosen(state: StateDir) -> None:
    """A resolved incident of this morning is still in the list; the other views show an hour."""
    state.alert(8, HOSTILE, "resolved", 1)
    state.window(5 * 3600, "later")
    state.record(5 * 3600 + 10, tick=True)
    with serving(state) as address:
        for query, number in (("", 1), ("?range=1h", 0), ("?group=queue", 1), ("?group=rule", 1), ("?l.feed=none", 0)):
            found = json.loads(ask(address, f"/api/incidents{query}")[2])
            assert found["total"] == len(found["rows"]) == number, query
        assert found["span"]["name"] == "24h"
        assert json.loads(ask(address, "/api/fleet")[2])["span"]["name"] == "1h"
        assert ">7d</a>" not in ask(address, "/fleet")[2]
        assert ">7d</a>" in ask(address, "/what-if")[2]
        assert json.loads(ask(address, "/api/fleet?range=7d")[2])["span"]["name"] == "7d"


def test_another_site_may_link_and_not_embed(state: StateDir) -> None:
    """A link that is followed is answered; an image, a script, a frame or a fetch of another site is refused."""
    with serving(state) as address:
        for mode, kind, site, expected in (
            ("navigate", "document", "cross-site", 200),
            ("no-cors", "image", "cross-site", 403),
            ("cors", "empty", "cross-site", 403),
            ("navigate", "iframe", "cross-site", 403),
            ("cors", "empty", "same-origin", 200),
            ("navigate", "document", "none", 200),
        ):
            headers = {"Sec_Fetch_Mode": mode, "Sec_Fetch_Dest": kind, "Sec_Fetch_Site": site}
            assert ask(address, "/api/fleet", **headers)[0] == expected, headers
        assert ask(address, "/api/fleet")[0] == 200


def test_a_receiver_is_named_by_its_origin_only(state: StateDir) -> None:
    """The rest of a callback's address may hold a key; addresses of one origin are one receiver."""
    with serving(state) as address:
        figures = ask(address, "/api/feeds")[2]
        text = ask(address, "/feeds")[2] + figures
    (one,) = json.loads(figures)["receivers"]
    assert (one["pending"], one["dead"], one["delivered"]) == (2, 1, 3)
    assert "https://qa.example.com" in text
    assert "hush" not in text


def test_metrics_and_health_are_on_the_same_server(state: StateDir) -> None:
    """Other paths answer what they are made with."""
    with serving(state) as address:
        assert ask(address, "/metrics")[::2] == (200, "metric 1\n")
        assert ask(address, "/readyz")[::2] == (503, "no\n")
        assert ask(address, "/nothing")[0] == 404


def test_only_known_host_names_are_served(state: StateDir) -> None:
    """A name of another site that resolves to this server is refused: its pages could read ours."""
    with serving(state) as address:
        assert ask(address, "/fleet", Host="evil.example")[0] == 421
        assert ask(address, "/fleet", Host="vw.example:80")[0] == 200
        assert ask(address, "/fleet", Host="localhost")[0] == 200
        assert ask(address, "/fleet", Host="")[0] == 421
    with serving(state, token=TOKEN) as address:  # no page of another site has the token
        assert ask(address, "/fleet", Host="evil.example", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert ask(address, "/fleet", Host="evil.example", Authorization="Bearer wrong")[0] == 421


def test_parts_of_groups_are_given_to_who_asks_for_more(state: StateDir) -> None:
    """Lines of a time after that of the last one, as they are in the file; faults have a reason."""
    with serving(state, token=TOKEN) as address:
        assert ask(address, "/api/parts")[0] == 401
    with serving(state) as address:
        assert ask(address, "/api/parts")[::2] == (200, "")
        parts = state.dir / "parts.jsonl"
        lines = [f'{{"until":{end},"index":0,"count":2,"groups":[]}}\n' for end in (5, 10)]
        parts.write_text("".join(lines))
        assert ask(address, "/api/parts")[::2] == (200, "".join(lines))
        assert ask(address, "/api/parts?after=5.0")[::2] == (200, lines[1])
        assert ask(address, "/api/parts?after=10.0")[::2] == (200, "")
        assert ask(address, "/api/parts?after=soon")[0] == 400
        parts.write_text("no part\n")
        assert ask(address, "/api/parts")[0] == 503


def test_the_page_is_read_only(state: StateDir) -> None:
    """Methods that change something, large bodies and requests from other sites are refused."""
    with serving(state) as address:
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
            assert ask(address, "/fleet", method=method)[0] == 405
        assert ask(address, "/fleet", method="POST", body="")[0] == 405
        assert ask(address, "/login", method="POST", body="x" * 20_000)[0] == 413
        assert ask(address, "/login", method="POST", body="token=x", Origin="http://evil.example")[0] == 403
        assert ask(address, "/login", method="POST", body="token=x", Sec_Fetch_Site="cross-site")[0] == 403
        assert ask(address, "/fleet", body="hello")[0] == 400


def test_with_a_token_every_view_asks_for_it(state: StateDir) -> None:
    """A browser is sent to the form, a program gets 401; health stays open for those that restart the process."""
    with serving(state, token=TOKEN) as address:
        for path in (*VIEWS, "/api/fleet", "/events", "/metrics"):
            assert ask(address, path)[0] == 401
            assert ask(address, path, Authorization="Bearer wrong")[0] == 401
        assert ask(address, "/fleet", Accept="text/html")[0] == 303
        assert ask(address, "/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert ask(address, "/readyz")[0] == 503
        assert ask(address, "/login")[0] == 200
        assert ask(address, "/static/app.css")[0] == 200


def test_the_form_gives_a_cookie_that_scripts_and_other_sites_cannot_use(state: StateDir) -> None:
    """The cookie is HttpOnly and SameSite=Strict, and does not hold the token."""
    with serving(state, token=TOKEN) as address:
        assert ask(address, "/login", method="POST", body="token=wrong")[1]["Location"] == "/login?wrong=1"
        status, headers, _ = ask(address, "/login", method="POST", body=f"token={TOKEN}")
        cookie = headers["Set-Cookie"]
        assert status == 303
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert TOKEN not in cookie
        assert ask(address, "/fleet", Cookie=cookie.partition(";")[0])[0] == 200
        assert ask(address, "/fleet", Cookie="voicewatch=forged")[0] == 401


def test_off_loopback_a_long_token_is_needed() -> None:
    """Without one the run refuses to start, and says which variable is missing."""
    everywhere = WebSettings(listen="0.0.0.0:8080")
    for environ in ({}, {"VOICEWATCH_WEB_TOKEN": " "}, {"VOICEWATCH_WEB_TOKEN": "short"}):
        with pytest.raises(ConfigurationError, match="VOICEWATCH_WEB_TOKEN"):
            token_of(everywhere, environ)
    assert token_of(everywhere, {"VOICEWATCH_WEB_TOKEN": TOKEN}) == TOKEN
    for local in ("127.0.0.1:1", "[::1]:1", "localhost:1"):
        assert token_of(WebSettings(listen=local), {}) is None
    assert token_of(WebSettings(listen="127.0.0.1:1"), {"VOICEWATCH_WEB_TOKEN": TOKEN}) == TOKEN


def test_the_settings_are_read(tmp_path: Path) -> None:
    """The token is a variable and no setting; the address is checked."""
    tables = {"web": {"listen": "127.0.0.1:0", "hosts": ["vw.example"], "keep_hours": 2}}
    settings = parse_settings(tables, "x", {"VOICEWATCH_WEB_TOKEN": TOKEN})
    assert settings.web.address == ("127.0.0.1", 0)
    with pytest.raises(ConfigurationError, match=r"web\.listen"):
        parse_settings({"web": {"listen": "nowhere"}}, "x")


def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    """The error names the key and the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        web = WebSettings(listen=f"127.0.0.1:{port}")
        with pytest.raises(UsageError, match=rf"web\.listen: 127\.0\.0\.1:{port} cannot be listened on"):
            LivePage(web, tmp_path, {}, {})
        with pytest.raises(UsageError, match=rf"metrics\.listen: 127\.0\.0\.1:{port} cannot be listened on"):
            HealthPage("127.0.0.1", port, {})


def test_changes_arrive_as_events(state: StateDir) -> None:
    """A new line of the files is reported within seconds; the number grows."""
    with serving(state) as address, connected(address) as client:
        client.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        stream = client.makefile("rb")
        numbers = events(stream)
        first = next(numbers)
        state.window(30, "new")
        assert next(numbers) > first


def events(stream: object) -> Iterator[int]:
    for line in stream:  # type: ignore[attr-defined]
        if line.startswith(b"data: "):
            yield int(line[6:])


def connected(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=WAIT_S)


def is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except OSError:
        return True


def test_slow_clients_do_not_keep_others_out(state: StateDir) -> None:
    """Of 40 silent connections the last 16 stay open; a health check is answered at once, in place of the oldest."""
    with serving(state, connections=16, deadline_s=WAIT_S * 10) as address:
        with contextlib.ExitStack() as stack:
            idle = [stack.enter_context(connected(address)) for _ in range(40)]
            assert all(is_closed(client) for client in idle[:24])
            assert ask(address, "/readyz")[0] == 503
            assert is_closed(idle[24])
            idle[-1].sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert idle[-1].recv(12) == b"HTTP/1.1 503"
        eventually(lambda: ask(address, "/readyz")[0] == 503, WAIT_S)


def test_a_view_that_is_followed_stays_open_while_others_are_slow(state: StateDir) -> None:
    """A connection whose answer goes on is closed after those that have asked for nothing."""
    with serving(state, connections=4, deadline_s=WAIT_S * 10) as address, contextlib.ExitStack() as stack:
        followed = stack.enter_context(connected(address))
        followed.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        numbers = events(followed.makefile("rb"))
        first = next(numbers)
        idle = [stack.enter_context(connected(address)) for _ in range(8)]
        assert all(is_closed(client) for client in idle[:5])
        state.window(30, "new")
        assert next(numbers) > first


OUT_OF_DESCRIPTORS = """
import os, resource, socket, time
from flows.web.page import HealthPage

page = HealthPage("127.0.0.1", 0, {"/metrics": lambda: (200, "text/plain", b"well")})
page.start()
client = socket.socket()
with socket.create_connection(("127.0.0.1", page.port)) as first:  # it has begun to accept
    first.sendall(b"GET /metrics HTTP/1.0\\r\\n\\r\\n")
    while first.recv(4096):
        pass  # until its descriptor is free again
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 8, hard))
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
client.connect(("127.0.0.1", page.port))
client.sendall(b"GET /metrics HTTP/1.0\\r\\n\\r\\n")
began = time.process_time()
client.settimeout(1.0)
try:
    client.recv(1)
except TimeoutError:
    print("waits", time.process_time() - began < 0.5)
for number in taken:
    os.close(number)
client.settimeout(20.0)
print(client.recv(12).decode())
page.stop()
"""


def test_without_descriptors_it_waits(tmp_path: Path) -> None:
    """A connection that cannot be accepted does not make the server spin, and is answered once it can be."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_DESCRIPTORS],
        env=environ,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["waits True", "HTTP/1.1 200"], done.stderr


def test_a_client_that_is_slow_is_cut_off(state: StateDir) -> None:
    """One that is mute, one that sends a byte now and then, and one that reads no answer; one that listens stays."""
    for number in range(3000):
        state.window(number * 10, "long")
    with serving(state, deadline_s=1.0) as address:
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            mute, trickling, deaf, listening = (stack.enter_context(connected(address)) for _ in range(4))
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            for _ in range(8):
                deaf.sendall(b"GET /api/conversation?id=long HTTP/1.1\r\nHost: localhost\r\n\r\n")
            listening.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert is_closed(mute)
            assert hangs_up(trickling)
            assert time.monotonic() - began < WAIT_S
            eventually(lambda: peer_is_gone(deaf), WAIT_S)
            state.window(40_000, "new")
            assert b"200 OK" in listening.recv(4096)


def hangs_up(client: socket.socket) -> bool:
    client.settimeout(0.1)
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        try:
            client.sendall(b"G")
            if client.recv(1) == b"":
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def peer_is_gone(client: socket.socket) -> bool:
    """Whether the other side has reset a connection whose answers are not read."""
    try:
        client.sendall(b"G")
    except OSError:
        return True
    time.sleep(0.05)
    return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def test_a_failure_to_read_the_files_is_on_every_view(state: StateDir) -> None:
    """The reason is text, and the JSON has it as well; browsers that follow the page are woken."""
    looped = state.dir / HOSTILE.replace("/", "")
    with serving(state) as address:
        assert "cannot be read" not in ask(address, "/fleet")[2]
        (state.dir / "windows.jsonl").unlink()
        looped.symlink_to(looped)
        (state.dir / "windows.jsonl").symlink_to(looped)

        def failure() -> str:
            return str(json.loads(ask(address, "/api/fleet")[2])["figures"]["failure"])

        eventually(lambda: failure() != "", WAIT_S)
        for view in VIEWS:
            text = ask(address, view)[2]
            assert "The files cannot be read" in text
            assert "<img src=x" not in text
