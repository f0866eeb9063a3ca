"""A local mail relay (SMTP without TLS) that takes messages, and refuses the first ones if asked to."""

from __future__ import annotations

import contextlib
import email
import email.policy
import socketserver
import threading
from collections.abc import Iterator
from email.message import EmailMessage

__all__ = ["Relay", "mail_relay"]


class Relay:
    """The port of a relay, and the messages that it has taken."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.port = 0
        self.messages: list[EmailMessage] = []

    def take(self, data: bytes) -> str:
        """Take a message, or refuse it; return the answer."""
        if self.refusals:
            self.refusals -= 1
            return "451 try again later"
        self.messages.append(email.message_from_bytes(data, _class=EmailMessage, policy=email.policy.default))
        return "250 taken"


@contextlib.contextmanager
def mail_relay(refusals: int = 0) -> Iterator[Relay]:
    """Run a relay on loopback."""
    relay = Relay(refusals)

    class Session(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.say("220 relay")
            for line in self.rfile:
                verb = line[:4].upper()
                if verb == b"QUIT":
                    return self.say("221 bye")
                if verb == b"DATA":
                    self.say("354 end with a dot")
                    self.say(relay.take(b"".join(iter(self.rfile.readline, b".\r\n"))))
                else:
                    self.say("250 relay" if verb in (b"EHLO", b"HELO") else "250 taken")
            return None

        def say(self, answer: str) -> None:
            self.wfile.write(f"{answer}\r\n".encode())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Session) as server:
        relay.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield relay
        finally:
            server.shutdown()
            thread.join()
