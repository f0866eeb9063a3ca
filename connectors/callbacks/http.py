"""Send one POST to one receiver: to a checked address, within limits of time and size, without redirects."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import Callable, Mapping
from http import HTTPStatus

import h11
import httpx

from connectors.callbacks.addresses import Resolve, is_public, lookup
from connectors.callbacks.connection import AnswerTooLargeError, Connection
from connectors.callbacks.policy import DeliveryPolicy, Failure, Outcome
from connectors.retry import retry_after_s

__all__ = ["Sender"]

_IDLE_S = 30.0
_AGE_S = 300.0  # so that a change of the receiver's address is followed
_ADDRESSES_KEPT_S = 15.0
_ADDRESSES_TRIED = 4


class _FailedError(Exception):
    """Report that an attempt ended before an HTTP exchange, with the reason."""

    def __init__(self, failure: Failure, detail: str) -> None:
        self.failure = failure
        self.detail = detail
        super().__init__(detail)


class Sender:
    """Send callbacks to one URL over dedicated kept-alive connections.

    It follows no redirect, stores no cookie and reads no proxy or password from the environment. A connection goes to
    exactly the address that was checked, and TLS verifies the name. Connections are never shared with another URL,
    not even with another name that has the same address.
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
        self._keeps = True  # until the receiver sends an answer that no request asked for

    async def send(self, body: bytes, headers: Mapping[str, str], now: Callable[[], float]) -> Outcome:
        """Make one attempt, within `timeout_s` in all, and say how it ended.

        The answer has to end within that time, and within the limits of `Connection`; the outcome holds its start.
        """
        limit_s = self._policy.timeout_s
        response = None
        try:
            url = _usable(self._text)
            async with asyncio.timeout(limit_s):
                connection, response = await self._exchange(url, body, headers)
                start = await self._finish(connection)
        except TimeoutError:
            missed = "no answer" if response is None else "the answer did not end"
            return Outcome(failure="timeout", detail=f"{missed} within {limit_s:g} s")
        except _FailedError as error:
            return Outcome(failure=error.failure, detail=str(error))
        except (h11.RemoteProtocolError, AnswerTooLargeError) as error:
            return Outcome(failure="protocol", detail=_words(error))
        except OSError as error:
            return Outcome(failure="connect", detail=_words(error))
        answered = {bytes(name).decode("latin-1"): bytes(value).decode("latin-1") for name, value in response.headers}
        wait_s = retry_after_s(answered, now(), cap_s=self._policy.retry_after_cap_s)
        status = response.status_code
        return Outcome(
            status=status, retry_after_s=wait_s, detail=_phrase(status), body=start.decode("utf-8", "replace")
        )

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
            # The receiver may be closing it at this very moment, which is not a failure of the receiver's. It may also
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
            if connection.unasked:
                self._keeps = False
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

    async def _finish(self, connection: Connection) -> bytes:
        """Read an answer to its end, and keep its connection if it can be used again; return the start of the body."""
        reusable = False
        try:
            start = await connection.read_body()
            reusable = connection.recycle() and self._keeps
        finally:
            if connection.unasked:
                self._keeps = False
            if reusable:
                self._idle.append(connection)
            else:
                connection.close()
        return start


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
        host = url.host
    except (httpx.InvalidURL, UnicodeError) as error:  # the latter: a label xn--… that is not valid IDNA
        raise _FailedError("url", _words(error)) from None
    if url.scheme not in ("http", "https") or not host:
        raise _FailedError("url", "it must be an http or https URL with a host")
    if url.userinfo:
        raise _FailedError("url", "credentials in a URL are not sent; sign callbacks with a secret instead")
    return url


def _spoilt(task: asyncio.Task[list[str]]) -> bool:
    """Report whether a lookup has ended without an answer (asking also marks its exception as seen)."""
    return task.done() and (task.cancelled() or task.exception() is not None)


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
