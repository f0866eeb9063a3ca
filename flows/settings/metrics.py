"""The configuration of metrics and health checks: the `[metrics]` table."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from flows.settings.values import Between, Table, host_and_port, split_host

__all__ = ["MetricsSettings"]


class MetricsSettings(Table):
    """`[metrics]`: where metrics and health checks are served, nowhere if None; and what counts as healthy."""

    listen: Annotated[str, AfterValidator(host_and_port)] | None = None
    stalled_after_s: Annotated[float, AfterValidator(Between(1, 3600))] = 60.0
    outbox_limit: Annotated[int, AfterValidator(Between(1, 10_000_000))] = 10_000
    disk_floor_mib: Annotated[int, AfterValidator(Between(0, 10_000_000))] = 512

    def address(self, process: int) -> tuple[str, int] | None:
        """Host and port for a process of a cluster, which adds its number to the port; None if nothing is served."""
        if self.listen is None:
            return None
        host, port = split_host(self.listen)
        return host, port + process if port else 0
