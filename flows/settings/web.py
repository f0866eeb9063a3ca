"""The configuration of the live page: the `[web]` table."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote, urlencode, urlsplit

from pydantic import AfterValidator, Field

from flows.settings.values import Between, Table, Text, UrlRule, host_and_port, split_host

__all__ = ["WEB_TOKEN", "WebSettings"]

WEB_TOKEN = "VOICEWATCH_WEB_TOKEN"  # noqa: S105 - the name of the variable


class WebSettings(Table):
    """Hold `[web]`: the live page, with metrics and health checks on the same address; nowhere without `listen`."""

    listen: Annotated[str, AfterValidator(host_and_port)] | None = Field(
        default=None,
        description="address of the live page, with metrics and health checks; without it, it is not served. Off "
        "loopback, `VOICEWATCH_WEB_TOKEN` must be set",
    )
    hosts: Annotated[tuple[Text, ...], Field(strict=False)] = Field(
        default=(),
        description="host names under which browsers may open the page, besides `localhost` and addresses in digits",
    )
    public_url: Annotated[str, AfterValidator(UrlRule(("http", "https"), base=True))] | None = Field(
        default=None,
        description="address under which people reach the page, for example that of a proxy; the messages of "
        "`[[notify]]` link to it. Its host may be used to open the page",
    )
    keep_hours: Annotated[float, AfterValidator(Between(0.1, 168))] = Field(
        default=24.0, description="how far back the page looks; sums by minute are kept in memory for this long"
    )

    @property
    def address(self) -> tuple[str, int] | None:
        """Return host and port, None if the page is not served."""
        return None if self.listen is None else split_host(self.listen)

    @property
    def known_hosts(self) -> tuple[str, ...]:
        """Return the host names under which browsers may open the page."""
        own = [] if self.address is None else [self.address[0]]
        public = [] if self.public_url is None else [urlsplit(self.public_url).hostname or ""]
        return (*own, *public, *self.hosts)

    def link(self, alert: Mapping[str, Any]) -> str:
        """Return the address of an alert's view, "" without a `public_url`."""
        if self.public_url is None:
            return ""
        conversation, incident = alert.get("conversationId"), str(alert.get("incidentId"))
        if isinstance(conversation, str):
            query = urlencode({"id": conversation, "incident": incident}, quote_via=quote)
            return f"{self.public_url}/conversation?{query}"
        return f"{self.public_url}/incidents#i-{quote(incident)}"

    @property
    def is_local(self) -> bool:
        """Return whether only this machine can reach the page."""
        if self.address is None:
            return True
        host = self.address[0]
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False
