"""Start and stop what a run serves: the live page, or metrics and health checks alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from connectors.runtime.logs import get_logger
from flows.settings.secrets import token_of
from flows.settings.web import WebSettings
from flows.state import StateLayout

__all__ = ["Answer", "HealthPage", "LivePage"]

# Returns status, content type and body.
Answer = Callable[[], tuple[int, str, bytes]]


class HealthPage:
    """Serve metrics and health checks at `[metrics] listen`, without authentication. Bound when made.

    Raises UsageError if the address cannot be used.
    """

    def __init__(self, host: str, port: int, answers: Mapping[str, Answer]) -> None:
        from flows.web.health import health_app
        from flows.web.server import WebServer

        self._server = WebServer(health_app(answers), host, port, key="metrics.listen")

    @property
    def port(self) -> int:
        """Return the port that it listens on."""
        return self._server.port

    def start(self) -> None:
        """Answer requests until `stop`."""
        self._server.start()

    def stop(self) -> None:
        """Stop answering, and free the port."""
        self._server.stop()


class LivePage:
    """Serve the live page of a state directory; `answers` adds paths such as /metrics. Bound when made.

    Raises UsageError if the address cannot be used, ConfigurationError for a missing or short token.
    """

    def __init__(
        self, web: WebSettings, directory: Path, environ: Mapping[str, str], answers: Mapping[str, Answer]
    ) -> None:
        from flows.web.pages import make_app
        from flows.web.reader import StateReader
        from flows.web.server import WebServer
        from flows.web.what_if import WhatIf

        assert web.address is not None
        token = token_of(web, environ)
        self._reader = StateReader(directory, keep_s=web.keep_hours * 3600.0)
        self._what_if = WhatIf(StateLayout(directory).journal, environ)
        hosts = (web.address[0], *web.hosts)
        app = make_app(self._reader, directory, token=token, what_if=self._what_if, hosts=hosts, answers=answers)
        self._server = WebServer(app, *web.address, key="web.listen")

    @property
    def url(self) -> str:
        """Return the address for a browser on this machine."""
        return self._server.url

    def start(self) -> None:
        """Read and answer until `stop`."""
        self._reader.start()
        self._server.start()
        get_logger(__name__).info("live_page", url=self.url)

    def stop(self) -> None:
        """Stop answering and reading."""
        self._server.stop()
        self._what_if.stop()
        self._reader.stop()
