"""What a client that means harm can send to the live page: each costs little, and is refused or is text."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.flows.web.test_server import TOKEN, ask, connected, serving
from tests.support.callbacks import eventually
from tests.support.state_dirs import HOSTILE, StateDir

WAIT_S = 15.0
TEXTS = (
    HOSTILE,
    "\n\r\x00\x1b[31m\x1b[201~ls",
    "\u202eevil\u2066",
    "a" * 10_000,
    "</script><script>alert(1)</script>",
    "%00%0d%0aX: y",
    "' OR 1=1 --",
    "\u2028\u2029",
    "..%2f..%2f",
)


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    made = StateDir(tmp_path / "state")
    made.feed(0, "up", HOSTILE)
    for number, text in enumerate(TEXTS):
        made.watch(0, text, labels={"queue": text})
        made.window(0, text, p95=300.0, queue=text)
        made.alert(5, text, "raised", number, labels={"queue": text})
    return made


def answer(address: str, request: bytes) -> bytes:
    """What comes back until the server closes the connection."""
    with connected(address) as client:
        client.sendall(request)
        data = b""
        while piece := client.recv(65_536):
            data += piece
        return data


def status(address: str, method: str, target: str, *headers: str) -> int:
    lines = [f"{method} {target} HTTP/1.1", *(headers or ("Host: localhost",)), "Connection: close", "", ""]
    return int(answer(address, "\r\n".join(lines).encode())[9:12])


def test_hostile_texts_are_texts_in_every_view(state: StateDir) -> None:
    """No id ends a script, an attribute or a header; each conversation is found by its own."""
    with serving(state) as address:
        for view in ("/fleet?by=queue", "/fleet?by=conversation", "/conversations", "/incidents", "/what-if"):
            code, _, text = ask(address, view)
            assert code == 200
            assert "<script>alert" not in text
            assert "<img src=x" not in text
        for text in TEXTS:
            code, headers, body = ask(address, f"/conversation?id={quote(text)}")
            assert code == 200
            assert "X" not in headers
            assert "<script>alert" not in body


@pytest.mark.parametrize(
    ("expected", "method", "target", "headers"),
    [
        (400, "GET", "/fleet", ("Host: localhost", "Host: evil.example")),
        (400, "GET", "/fleet", ("X: y",)),
        (421, "GET", "/fleet", ("Host: evil.example",)),
        (421, "GET", "/fleet", ("Host: localhost:80@evil.example",)),
        (421, "GET", "/fleet", ("Host: evil.localhost.",)),
        (404, "GET", "http://evil.example/fleet", ()),
        (431, "GET", "/fleet", ("Host: localhost", "X: " + "a" * 20_000)),
        (431, "GET", "/fleet?" + "a" * 20_000, ()),
        (431, "GET", "/fleet", ("Host: localhost", *(f"X{n}: {n}" for n in range(3000)))),
        (405, "PUT", "/fleet", ()),
        (405, "TRACE", "/fleet", ()),
        (405, "POST", "/fleet", ("Host: localhost", "Content-Length: 0")),
        (413, "POST", "/what-if", ("Host: localhost", "Content-Length: 3", "Transfer-Encoding: chunked")),
        (413, "POST", "/what-if", ("Host: localhost", "Content-Length: 99999999999")),
        (400, "GET", "/fleet", ("Host: localhost", "Content-Length: 5")),
        (404, "GET", "/static/../pages.py", ()),
        (404, "GET", "/static/%2e%2e/pages.py", ()),
        (404, "GET", "/static//etc/passwd", ()),
        (404, "GET", "/static/%00", ()),
        (404, "GET", "/static/vendor", ()),
        (404, "GET", "/%ff", ()),
        (404, "GET", "/conversation?id=%ff%fe", ()),
        (400, "GET", "/conversations?" + "&".join(f"l.a{n}=1" for n in range(1300)), ()),
        (400, "GET", "/incidents?" + "&".join(f"l.a{n}=1" for n in range(1300)), ()),
        (200, "GET", "/conversations?page=-5&order=x&l.a=" + "x" * 5000, ()),
        (200, "GET", "/conversations?page=99999999999999999999", ()),
        (200, "GET", "/journal?id=a&from=-inf&to=inf", ()),
        (200, "HEAD", "/conversations", ()),
        (200, "HEAD", "/events", ()),
    ],
)
def test_a_request_is_refused_or_costs_little(
    state: StateDir, expected: int, method: str, target: str, headers: tuple[str, ...]
) -> None:
    """No such request is an error of the server, keeps a connection open, or is answered late."""
    with serving(state) as address:
        began = time.monotonic()
        assert status(address, method, target, *headers) == expected
        assert time.monotonic() - began < WAIT_S / 2


def test_an_error_names_no_file_and_no_code(state: StateDir) -> None:
    """Neither where the program lies nor where the files are; nor does a refusal before the token."""
    (state.dir / "outbox").mkdir()
    (state.dir / "outbox" / "outbox.sqlite3").write_text("damaged")
    with serving(state) as address:
        for target in ("/feeds", "/nowhere", "/static/nothing", "/conversation?id=x", "/fleet?metric=x"):
            text = ask(address, target)[2]
            assert str(state.dir) not in text
            assert "Traceback" not in text
            assert ".py" not in text
    with serving(state, token=TOKEN) as address:
        for target in ("/metrics", "/api/fleet", "//fleet", "/login/../fleet", "/static/%2e%2e%2ffleet"):
            assert status(address, "GET", target) in (401, 404)
        assert status(address, "GET", "/fleet", "Host: localhost", "Authorization: Bearer ") == 401


def test_a_body_that_does_not_come_is_not_waited_for(
    state: StateDir, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection is closed, also without a token; a client that goes away meanwhile is not logged."""
    monkeypatch.setattr("flows.web.guard.BODY_S", 0.5)
    head = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\ntoken="
    with caplog.at_level(logging.WARNING), serving(state, token=TOKEN) as address:
        assert answer(address, head).startswith(b"HTTP/1.1 408")
        with connected(address) as client:
            client.sendall(head)
        with connected(address) as client:  # it goes on byte by byte
            client.sendall(head)
            end = time.monotonic() + WAIT_S
            while time.monotonic() < end and not is_ended(client):
                time.sleep(0.05)
            assert time.monotonic() < end
        eventually(lambda: ask(address, "/readyz")[0] == 503, WAIT_S)
        assert answer(address, b"NONSENSE\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


def is_ended(client: object) -> bool:
    try:
        client.sendall(b"a")  # type: ignore[attr-defined]
    except OSError:
        return True
    return False


def test_requests_in_a_row_are_answered_in_a_row(state: StateDir) -> None:
    """Twenty on one connection, sent at once: twenty answers, none mixed with another."""
    one = b"GET /failures HTTP/1.1\r\nHost: localhost\r\n"
    with serving(state) as address:
        data = answer(address, (one + b"\r\n") * 19 + one + b"Connection: close\r\n\r\n")
    assert data.count(b"HTTP/1.1 200 OK\r\n") == 20
    assert data.count(b"</html>") == 20


def test_followers_do_not_keep_others_out(state: StateDir) -> None:
    """More event streams than connections are allowed: the oldest are closed, and views are answered."""
    with serving(state, connections=8) as address:
        request = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with contextlib.ExitStack() as stack:
            followers = []
            for _ in range(20):
                followers.append(stack.enter_context(connected(address)))
                followers[-1].sendall(request)
                assert followers[-1].recv(12) == b"HTTP/1.1 200"
            assert ask(address, "/conversations")[0] == 200
            assert hears_its_end(followers[0])


def hears_its_end(client: socket.socket) -> bool:
    try:
        while client.recv(4096):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True
