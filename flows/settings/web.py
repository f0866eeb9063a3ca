"""The configuration of the live page: the `[web]` table."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, Field

from flows.settings.values import Between, Table, Text, host_and_port, split_host

__all__ = ["WEB_TOKEN", "WebSettings"]

WEB_TOKEN = "VOICEWATCH_WEB_TOKEN"  # noqa: S105 - the name of the variable


class WebSettings(Table):
    """`[web]`: the live page, with metrics and health checks on the same address; nowhere if `listen` is not set."""

    listen: Annotated[str, AfterValidator(host_and_port)] | None = Field(
        default=None,
        description="address of the live page, with metrics and health checks; without it, it is not served. Off "
        "loopback, `VOICEWATCH_WEB_TOKEN` must be set",
    )
    hosts: Annotated[tuple[Text, ...], Field(strict=False)] = Field(
        default=(),
        description="host names under which browsers may open the page, besides `localhost` and addresses in digits",
    )
    keep_hours: Annotated[float, AfterValidator(Between(0.1, 168))] = Field(
        default=24.0, description="how far back the page looks; sums by minute are kept in memory for this long"
    )

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port, None if the page is not served."""
        return None if self.listen is None else split_host(self.listen)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the page."""
        if self.address is None:
            return True
        host = self.address[0]
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False
