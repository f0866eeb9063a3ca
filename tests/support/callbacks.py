"""Helpers for the tests of callbacks: waiting, a TLS receiver, outboxes to deliver from."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from connectors.callbacks.outbox import Callback, Outbox
from connectors.callbacks.policy import DeliveryPolicy

DEADLINE_S = 20.0
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TLS = Path(__file__).parent.parent / "data" / "tls"
FAST = DeliveryPolicy(
    timeout_s=2.0,
    max_attempts=3,
    allow_private_addresses=True,
    retry_waits_s=(0.02, 0.08, 0.2),
    breaker_base_s=0.05,
)


def eventually(happened: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Wait for what cannot announce itself, such as a change in a file."""
    end = time.monotonic() + deadline_s
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def callback(number: int, url: str, conversation: str = "c", body: bytes = b'{"n":1}') -> Callback:
    return Callback(f"id-{number}", conversation, url, body)


@contextlib.contextmanager
def tls_server() -> Iterator[tuple[int, list[bytes]]]:
    """An HTTPS server with a certificate for qa.example.test; gives its port and the heads of what it received."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem")
    heads: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                connection.settimeout(DEADLINE_S)
                with context.wrap_socket(connection, server_side=True) as tls:
                    heads.append(tls.recv(65536))
                    tls.sendall(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], heads
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(DEADLINE_S)


def insert(outbox: Outbox, *callbacks: Callback) -> None:
    outbox.insert(callbacks, time.time())
