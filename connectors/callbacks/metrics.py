"""Define what a delivery reports to those who measure it."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["DeliveryMetrics"]


class DeliveryMetrics:
    """Take what a delivery reports while it works. This one ignores it; a subclass counts."""

    def attempted(self, state: str) -> None:
        """Note that an attempt has ended, and the state of the callback."""

    def attempt_took(self, seconds: float) -> None:
        """Note how long an attempt took."""

    def receivers(self, states: Mapping[str, int]) -> None:
        """Note how many receivers are in each state."""
