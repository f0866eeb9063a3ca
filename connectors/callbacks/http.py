"""One POST to one receiver: to an address that was checked, within a time limit, with nothing followed or kept."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus

import h11
import httpx

from connectors.callbacks.addresses import Resolve, is_public, lookup
from connectors.callbacks.policy import DeliveryPolicy, Failure, Outcome
from connectors.retry import retry_after_s

__all__ = ["Connection", "Sender", "endpoint_of"]

_BODY_BYTES = 64 * 1024
_BODY_S = 1.0
_IDLE_S = 30.0
_AGE_S = 300.0  # so that a change of the receiver's address is followed
_ADDRESSES_KEPT_S = 15.0
_ADDRESSES_TRIED = 4


class _FailedError(Exception):
    """An attempt ended before there was an HTTP exchange, and why is known."""

    def __init__(self, failure: Failure, detail: str) -> None:
        self.failure = failure
        self.detail = detail
        super().__init__(detail)


def endpoint_of(url: str) -> str:
    """Scheme, host and port of a URL: what may stand in a log, since paths and queries can hold secrets."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return "unusable URL"
    return f"{parsed.scheme}://{parsed.netloc.decode('ascii', 'replace')}"


class Sender:
    """Sends callbacks to one URL over kept-alive connections of its own.

    It follows no redirect, stores no cookie and reads no proxy or password from the environment. A connection goes to
    exactly the address that was checked, and TLS verifies the name. Connections are never shared with another URL:
    not with another name that happens to have the same address, and nobody waits for another's.
    """

    def __init__(self, url: str, policy: DeliveryPolicy, verify: ssl.SSLContext, resolver: Resolve) -> None:
        self._text = url
        self._policy = policy
        self._verify = verify
        self._resolver = resolver
        self._idle: list[Connection] = []
        self._looking: asyncio.Task[list[str]] | None = None
        self._looked_at = 0.0
        self._preferred: str | None = None

    async def send(self, body: bytes, headers: Mapping[str, str], now: Callable[[], float]) -> Outcome:
        """Make one attempt, within `timeout_s` in all, and say how it ended.

        A 2xx counts as soon as its headers are there. The body of an answer is read only to keep the connection
        usable: at most 64 KiB and for at most a second.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._policy.timeout_s
        try:
            url = _usable(self._text)
            async with asyncio.timeout_at(deadline):
                connection, response = await self._exchange(url, body, headers)
        except TimeoutError:
            return Outcome(failure="timeout", detail=f"no answer within {self._policy.timeout_s:g} s")
        except _FailedError as error:
            return Outcome(failure=error.failure, detail=str(error))
        except h11.RemoteProtocolError as error:
            return Outcome(failure="protocol", detail=_words(error))
        except OSError as error:
            return Outcome(failure="connect", detail=_words(error))
        await self._skim(connection, min(deadline, loop.time() + _BODY_S))
        answered = {bytes(name).decode("latin-1"): bytes(value).decode("latin-1") for name, value in response.headers}
        wait_s = retry_after_s(answered, now(), cap_s=self._policy.retry_cap_s)
        return Outcome(status=response.status_code, retry_after_s=wait_s, detail=_phrase(response.status_code))

    def close(self) -> None:
        """Close all connections."""
        if self._looking is not None:
            self._looking.cancel()
        while self._idle:
            self._idle.pop().close()

    async def _exchange(
        self, url: httpx.URL, body: bytes, headers: Mapping[str, str]
    ) -> tuple[Connection, h11.Response]:
        request = [("host", url.netloc.decode("ascii")), *headers.items()]
        kept = self._kept()
        if kept is not None:
            # The receiver may be closing it at this very moment, which is no failure of the receiver's. It may also
            # have read the request: then it sees the id twice, as at-least-once allows.
            with contextlib.suppress(OSError, h11.RemoteProtocolError):
                return kept, await _post(kept, url, request, body)
        connection = await self._connect(url)
        return connection, await _post(connection, url, request, body)

    def _kept(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.fresh(idle_s=_IDLE_S, age_s=_AGE_S):
                return connection
            connection.close()
        return None

    async def _connect(self, url: httpx.URL) -> Connection:
        addresses = self._admitted(url, await self._addresses(url))
        tls = self._verify if url.scheme == "https" else None
        for address in addresses:
            try:
                # A share of the time for each, or a dead first address would use up the others'.
                async with asyncio.timeout(self._policy.timeout_s / len(addresses)):
                    connection = await Connection.open(address, _port(url), tls, url.raw_host.decode("ascii"))
            except OSError as error:  # TimeoutError is one
                if address == addresses[-1]:
                    if isinstance(error, ssl.SSLError):
                        raise _FailedError("tls", _words(error)) from error
                    raise
            else:
                self._preferred = address
                return connection
        raise AssertionError("a host without an address was admitted")

    def _admitted(self, url: httpx.URL, addresses: list[str]) -> list[str]:
        admitted = [a for a in addresses if self._policy.allow_private_addresses or is_public(a)]
        if not admitted:
            raise _FailedError(
                "address",
                f"{url.host} is at {', '.join(addresses[:4]) or 'no address'}, which is not on the public internet; "
                "set allow_private_addresses = true in [delivery] if callbacks are meant to go there",
            )
        admitted.sort(key=lambda address: address != self._preferred)
        return admitted[:_ADDRESSES_TRIED]

    async def _addresses(self, url: httpx.URL) -> list[str]:
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(url.host))]
        now = asyncio.get_running_loop().time()
        if self._looking is None or _spoilt(self._looking) or now > self._looked_at + _ADDRESSES_KEPT_S:
            # One lookup serves all attempts that wait for it, and outlives those that run out of time.
            host = url.raw_host.decode("ascii")
            self._looking = asyncio.create_task(lookup(self._resolver, host, _port(url)))
            self._looking.add_done_callback(_spoilt)
            self._looked_at = now
        try:
            return await asyncio.shield(self._looking)
        except (OSError, UnicodeError) as error:  # the latter: a label longer than DNS allows
            raise _FailedError("dns", _words(error)) from error

    async def _skim(self, connection: Connection, deadline: float) -> None:
        reusable = False
        try:
            with contextlib.suppress(OSError, h11.RemoteProtocolError):  # TimeoutError is an OSError
                async with asyncio.timeout_at(deadline):
                    reusable = await connection.skim(_BODY_BYTES)
        finally:
            if reusable:
                self._idle.append(connection)
            else:
                connection.close()


async def _post(connection: Connection, url: httpx.URL, headers: list[tuple[str, str]], body: bytes) -> h11.Response:
    try:
        return await connection.post(url.raw_path, headers, body)
    except BaseException:
        connection.close()
        raise


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _usable(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise _FailedError("url", _words(error)) from None
    if url.scheme not in ("http", "https") or not url.host:
        raise _FailedError("url", "it must be an http or https URL with a host")
    if url.userinfo:
        raise _FailedError("url", "credentials in a URL are not sent; sign callbacks with a secret instead")
    return url


def _spoilt(task: asyncio.Task[list[str]]) -> bool:
    """Whether a lookup has ended without an answer (asking also marks its exception as seen)."""
    return task.done() and (task.cancelled() or task.exception() is not None)


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


_HEAD_BYTES = 16 * 1024
_READ_BYTES = 16 * 1024


class Connection:
    """One kept-alive connection to one address. Not for use by two tasks at once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
        self.opened_at = self.used_at = asyncio.get_running_loop().time()

    @classmethod
    async def open(cls, address: str, port: int, tls: ssl.SSLContext | None, name: str) -> Connection:
        """Connect to an IP address; with `tls`, the certificate must be for `name`. Raises OSError."""
        server_name = name if tls is not None else None
        return cls(*await asyncio.open_connection(address, port, ssl=tls, server_hostname=server_name))

    async def post(self, target: bytes, headers: Iterable[tuple[str, str]], body: bytes) -> h11.Response:
        """Send a request and wait for the head of its answer. Raises OSError or h11.RemoteProtocolError."""
        head = [*headers, ("content-length", str(len(body)))]
        parts = (h11.Request(method="POST", target=target, headers=head), h11.Data(body), h11.EndOfMessage())
        self._writer.write(b"".join(self._http.send(part) or b"" for part in parts))
        await self._writer.drain()
        while True:
            event = await self._event()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise ConnectionResetError("the connection was closed without an answer")

    async def skim(self, limit: int) -> bool:
        """Read the body away, `limit` bytes at most; True if the connection can be used again. Raises as `post`."""
        while limit >= 0:
            event = await self._event()
            if isinstance(event, h11.Data):
                limit -= len(event.data)
            elif isinstance(event, h11.EndOfMessage):
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    return False
                self._http.start_next_cycle()
                self.used_at = asyncio.get_running_loop().time()
                return True
            else:
                return False
        return False

    def fresh(self, *, idle_s: float, age_s: float) -> bool:
        """Whether it is still open as far as one can know, and neither idle nor in use for too long."""
        now = asyncio.get_running_loop().time()
        if now > self.used_at + idle_s or now > self.opened_at + age_s:
            return False
        return not (self._reader.at_eof() or self._writer.is_closing())

    def close(self) -> None:
        """Drop the connection at once."""
        self._writer.transport.abort()

    async def _event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]
            self._http.receive_data(await self._reader.read(_READ_BYTES))
