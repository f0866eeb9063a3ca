"""Where the parts of an instance are read: its state directory, or its live page."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol

import httpx

from connectors.errors import UsageError
from connectors.runtime.logs import get_logger
from flows.web.parts import PartsFile

__all__ = ["Parts", "RemoteParts", "is_address", "parts_of"]

TIMEOUT_S: Final = 5.0


class Parts(Protocol):
    """The parts of one instance."""

    def after(self, until: float) -> list[bytes]:
        """Return the next lines, of a time after `until`, none if there are no more yet. Raises StateError."""


class RemoteParts:
    """The parts that the live page of an instance gives.

    They are asked for in a thread, so that a dead host delays no other. Raises UsageError for an address that is wrong.
    """

    def __init__(self, address: str, token: str | None) -> None:
        self._url = f"{address.rstrip('/')}/api/parts"
        try:
            url = httpx.URL(self._url)
        except httpx.InvalidURL:
            url = httpx.URL("")
        if not url.host:
            raise UsageError(f"{address}: is not an address of a live page")
        if url.userinfo:
            raise UsageError(f"{url.host}: an address has no user or password; set VOICEWATCH_WEB_TOKEN instead")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(headers=headers, timeout=TIMEOUT_S)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="parts")
        self._asked: tuple[float, Future[list[bytes]]] | None = None
        self._failure = ""

    def after(self, until: float) -> list[bytes]:
        """Return the lines that have come since the last call, and ask for more."""
        asked, self._asked = self._asked, None
        if asked is not None and not asked[1].done():
            self._asked = asked
            return []
        lines = self._received(asked[1]) if asked is not None and asked[0] == until else []
        if not lines:
            self._asked = until, self._thread.submit(self._ask, until)
        return lines

    def _ask(self, until: float) -> list[bytes]:
        answer = self._client.get(self._url, params={"after": repr(until)})
        answer.raise_for_status()
        return answer.content.splitlines(keepends=True)

    def _received(self, answer: Future[list[bytes]]) -> list[bytes]:
        """Return the lines of an answer; log a failure once, until it is another or none."""
        failure = ""
        lines: list[bytes] = []
        try:
            lines = answer.result()
        except httpx.HTTPError as error:
            failure = str(error) or type(error).__name__
        if failure and failure != self._failure:
            get_logger(__name__).warning("parts_not_received", url=self._url, error=failure)
        self._failure = failure
        return lines


def is_address(source: str) -> bool:
    """Return whether a source is the address of a live page, and not a directory."""
    return source.startswith(("http://", "https://"))


def parts_of(source: str, token: str | None) -> Parts:
    """Return the parts of an instance by its state directory or the address of its live page. Raises UsageError."""
    return RemoteParts(source, token) if is_address(source) else PartsFile(Path(source))
