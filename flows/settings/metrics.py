"""The configuration of metrics and health checks: the `[metrics]` table."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from flows.settings.values import Between, Table, host_and_port, split_host

__all__ = ["MetricsSettings"]


class MetricsSettings(Table):
    """`[metrics]`: where metrics and health checks are served, nowhere if None; and what counts as healthy."""

    listen: Annotated[str, AfterValidator(host_and_port)] | None = Field(
        default=None,
        description="address of `/metrics`, `/livez` and `/readyz`, which have no authentication; without it nothing "
        "is served. Process N of a cluster adds N to the port",
    )
    stalled_after_s: Annotated[float, AfterValidator(Between(1, 3600))] = Field(
        default=60.0, description="`/livez` fails when the dataflow has not polled its source for this many seconds"
    )
    outbox_limit: Annotated[int, AfterValidator(Between(1, 10_000_000))] = Field(
        default=10_000, description="`/readyz` fails with more pending callbacks than this"
    )
    disk_floor_mib: Annotated[int, AfterValidator(Between(0, 10_000_000))] = Field(
        default=512, description="`/readyz` fails with less free disk space than this, in MiB"
    )

    def address(self, process: int) -> tuple[str, int] | None:
        """Host and port for a process of a cluster, which adds its number to the port; None if nothing is served."""
        if self.listen is None:
            return None
        host, port = split_host(self.listen)
        return host, port + process if port else 0
