"""How many connections an AudioHook feed takes, those that never finish their handshake among them."""

from __future__ import annotations

import asyncio
import gc
import select
import socket
import ssl
import subprocess
import sys
import time
import tracemalloc
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.genesys.feeds.listener import Listener
from connectors.genesys.simulator.audiohook import dial
from connectors.genesys.simulator.caller import plan_call
from tests.support.audiohook import DEADLINE_S, KEY, QUICK, SECRET, Listening, listening

TLS = Path(__file__).parents[3] / "data" / "tls"
FILES = 300

FEW_FILES = f"""
import resource, ssl, sys
from dataclasses import replace
from pathlib import Path
import structlog
from connectors.journal.writer import Journal
from connectors.format.decode import parse_messages
from tests.support.audiohook import QUICK, SETTINGS, listening

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))
directory, certificate = map(Path, sys.argv[1:])
tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
tls.load_cert_chain(certificate)
journal = Journal(directory, settings=SETTINGS, max_segment_bytes=1000)
timing = replace(QUICK, handshake_s=600.0)
with listening(directory, timing, journal=journal, tls=tls, max_sessions={FILES}) as listener:
    print("port", listener.feed.address[1], flush=True)
    for _ in sys.stdin:
        for _ in range(60):
            journal.tick()
        print("well", listener.feed.failure, listener.feed.refused, flush=True)
"""


def wait_until_closed(connections: list[socket.socket], number: int) -> int:
    """How many of the connections the other side has closed, when there are `number` of them or in the end."""
    waiting = select.poll()
    by_file = {connection.fileno(): connection for connection in connections}
    for file in by_file:
        waiting.register(file, select.POLLIN)
    end = time.monotonic() + DEADLINE_S
    closed = 0
    while closed < number and time.monotonic() < end:
        for file, _ in waiting.poll(1000):
            waiting.unregister(file)
            closed += 1
    return closed


def test_the_journal_is_written_while_many_say_nothing(tmp_path: Path) -> None:
    """Connections that never begin TLS leave the files that the journal needs, and room for others when they go."""
    command = [sys.executable, "-c", FEW_FILES, str(tmp_path / "journal"), str(TLS / "server.pem")]
    pipe, log = subprocess.PIPE, tmp_path / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        address = ("127.0.0.1", int(process.stdout.readline().removeprefix("port ")))
        with ExitStack() as stack:
            silent = [stack.enter_context(socket.create_connection(address, DEADLINE_S)) for _ in range(FILES + 50)]
            assert wait_until_closed(silent, 200) == 200
            print(file=process.stdin, flush=True)
            assert process.stdout.readline() == "well None {'too many connections': 200}\n"
        assert shake_hands(address) == "TLSv1.3"
        process.stdin.close()
        assert process.wait(DEADLINE_S) == 0
    assert "open_files_are_few" in log.read_text()


def shake_hands(address: tuple[str, int]) -> str | None:
    client = ssl.create_default_context(cafile=TLS / "ca.pem")
    end = time.monotonic() + DEADLINE_S
    while True:  # those that have gone are let go of one after the other
        try:
            with (
                socket.create_connection(address, DEADLINE_S) as plain,
                client.wrap_socket(plain, server_hostname="qa.example.test") as connection,
            ):
                return connection.version()
        except OSError:
            if time.monotonic() > end:
                raise


def server_tls() -> ssl.SSLContext:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(TLS / "server.pem")
    return tls


def dial_silently(stack: ExitStack, listener: Listening, number: int) -> list[socket.socket]:
    address = listener.feed.address
    return [stack.enter_context(socket.create_connection(address, DEADLINE_S)) for _ in range(number)]


def test_silent_connections_make_room_for_a_client_that_authenticates(tmp_path: Path) -> None:
    """At the limit of unauthenticated connections the oldest is closed, and a call is measured meanwhile."""
    timing = replace(QUICK, handshake_s=600.0)
    plan = replace(plan_call(1, 5), late=(), discards=(), pauses=(), faults=(), seconds=0.4, network_s=0.0)
    with listening(tmp_path, timing, max_unauthenticated=8) as listener, ExitStack() as stack:
        silent = dial_silently(stack, listener, 20)
        assert wait_until_closed(silent, 12) == 12
        result = asyncio.run(dial(listener.url, plan, KEY, SECRET))
        assert (result.status, result.closed) == (101, True)
        assert sum(not is_closed(one) for one in silent) == 7
        assert listener.feed.refused == {"too many connections": 13}


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False


def test_an_authenticated_session_is_not_closed_for_a_new_connection(tmp_path: Path) -> None:
    """Connections above the limit close only those that have not authenticated, never a call."""
    plan = replace(plan_call(1, 5), late=(), discards=(), pauses=(), faults=(), seconds=0.5, network_s=0.0)
    with (
        listening(tmp_path, replace(QUICK, handshake_s=600.0), max_unauthenticated=1) as listener,
        ExitStack() as stack,
    ):

        async def call_in_a_crowd() -> None:
            calling = asyncio.create_task(dial(listener.url, plan, KEY, SECRET))
            await asyncio.to_thread(listener.wait_for, lambda this: this.feed.counts.open == 1)
            silent = dial_silently(stack, listener, 10)
            assert await asyncio.to_thread(wait_until_closed, silent, 9) == 9
            assert (await calling).closed

        asyncio.run(call_in_a_crowd())


def test_a_silent_connection_takes_little_memory(tmp_path: Path) -> None:
    """A connection that never begins TLS takes at most 64 KiB of Python's memory; asyncio's buffer would be 256 KiB."""
    with listening(tmp_path, replace(QUICK, handshake_s=600.0), tls=server_tls()) as listener, ExitStack() as stack:
        assert shake_hands(listener.feed.address) == "TLSv1.3"
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        dial_silently(stack, listener, 50)
        listener.wait_for(lambda this: this.feed.unauthenticated >= 50)
        # A handshake after theirs is served after all of them have their buffers.
        assert shake_hands(listener.feed.address) == "TLSv1.3"
        assert tracemalloc.get_traced_memory()[0] / 50 < 2**16


def test_a_lost_connection_leaves_no_memory_behind(tmp_path: Path) -> None:
    """Connections that end before or in the TLS handshake are free at once, without a run of the garbage collector."""
    with listening(tmp_path, replace(QUICK, handshake_s=600.0), tls=server_tls()) as listener, ExitStack() as stack:
        assert shake_hands(listener.feed.address) == "TLSv1.3"
        gc.collect()
        stack.callback(gc.enable)
        gc.disable()
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for number in range(60):
            with socket.create_connection(listener.feed.address, DEADLINE_S) as client:
                if number % 2:
                    client.sendall(b"this is not TLS\r\n" * 10)
                    while client.recv(1024):
                        pass
        assert shake_hands(listener.feed.address) == "TLSv1.3"
        listener.wait_for(lambda this: this.feed.unauthenticated == 0)
        assert tracemalloc.get_traced_memory()[0] / 60 < 2**14


def test_a_tls_handshake_has_its_time(tmp_path: Path) -> None:
    """A connection that never begins TLS is closed after the time that a handshake may take."""
    with (
        listening(tmp_path, replace(QUICK, handshake_s=0.2), tls=server_tls()) as listener,
        socket.create_connection(listener.feed.address, DEADLINE_S) as silent,
    ):
        assert silent.recv(1) == b""


def test_a_place_is_free_again_when_a_connection_is_closed() -> None:
    """At most the given number are admitted at a time, and one more is closed immediately."""
    with Listener(socket.create_server(("127.0.0.1", 0)), 1) as listener, ExitStack() as stack:

        def dial() -> socket.socket:
            return stack.enter_context(socket.create_connection(listener.getsockname(), DEADLINE_S))

        dial()
        taken, _ = listener.accept()
        listener.admit(taken.fileno())
        late = dial()
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert late.recv(1) == b""
        assert listener.turned_away == 1
        taken.close()
        taken.close()
        dial()
        listener.accept()[0].close()
