"""Count values in bins of one width."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "Spread"]

BINS: Final = 50


class Spread:
    """Count values from zero on in BINS bins of the width `width`; the last bin holds everything above.

    >>> spread = Spread(10.0)
    >>> spread.add(np.array([0.0, 9.9, 35.0, 1e6, np.nan, -1.0]))
    >>> spread.counts[:4], spread.counts[-1]
    ([3, 0, 0, 1], 1)
    """

    def __init__(self, width: float) -> None:
        self.width = width
        self._counts = np.zeros(BINS, dtype=np.int64)

    @property
    def counts(self) -> list[int]:
        """Return the number of values in each bin."""
        return self._counts.tolist()

    def add(self, values: NDArray[np.float64]) -> None:
        """Count values; NaN is left out, and a negative value is in the first bin."""
        places = values / self.width
        np.fmin(np.fmax(places, 0.0, out=places), BINS - 1.0, out=places)  # NaN counts in the first bin until below
        self._counts += np.bincount(places.astype(np.intp), minlength=BINS)
        self._counts[0] -= np.count_nonzero(np.isnan(values))
