"""The receivers of a soak: one that is well, one that misbehaves for a while, one that is away for a while."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from types import TracebackType

from connectors.callbacks.receiver import Received
from tests.support.receiver import Reply, ScriptedReceiver

__all__ = ["Receivers"]

MISBEHAVIOUR = (
    Reply(status=500),
    Reply(status=503, headers={"retry-after": "1"}),
    Reply(status=429, headers={"retry-after": "2"}),
    Reply(status=429, headers={"retry-after": "soon"}),
    Reply(status=302, headers={"location": "http://127.0.0.1:1/"}),
    Reply(status=200, delay_s=3.0),
    Reply(drop=True),
    Reply(status=503, endless=True),
)
PATH = "/alerts"


class Receivers:
    """`steady`, `shaky` and `away`, each on a port of its own that stays the same."""

    def __init__(self, secret: str, seed: int) -> None:
        self._secret = secret
        self._rng = random.Random(f"{seed}/receivers")
        self._lock = threading.Lock()
        self._shaky_until = 0.0
        self._earlier: list[Received] = []
        self._is_away = False
        self._steady = ScriptedReceiver(secrets=[secret])
        self._shaky = ScriptedReceiver(secrets=[secret])
        self._away = ScriptedReceiver(secrets=[secret])
        self._shaky.script(PATH, self._moods())
        self.urls = [receiver.url + PATH for receiver in (self._steady, self._shaky, self._away)]

    def misbehave(self, seconds: float) -> None:
        """Let `shaky` fail, stall, refuse and hang for a while."""
        self._shaky_until = time.monotonic() + seconds

    def leave(self) -> None:
        """Close `away`, so that connections to it are refused."""
        with self._lock:
            self._away.close()
            self._is_away = True

    def come_back(self) -> None:
        """Open `away` again on its port, if it is closed."""
        with self._lock:
            if self._is_away:
                self._earlier += self._away.received
                port = int(self._away.url.rpartition(":")[2])
                self._away = ScriptedReceiver(port, secrets=[self._secret]).__enter__()
                self._is_away = False

    def heal(self) -> None:
        """Everybody is well from now on."""
        self._shaky_until = 0.0
        self.come_back()

    @property
    def received(self) -> list[Received]:
        """Every request so far; those of one receiver in the order in which they were answered."""
        with self._lock:
            now = [*self._steady.received, *self._shaky.received, *self._away.received]
            return [*self._earlier, *now]

    def __enter__(self) -> Receivers:
        for receiver in (self._steady, self._shaky, self._away):
            receiver.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for receiver in (self._steady, self._shaky, self._away):
            receiver.close()

    def _moods(self) -> Iterator[Reply]:
        while True:
            yield self._rng.choice(MISBEHAVIOUR) if time.monotonic() < self._shaky_until else Reply()
