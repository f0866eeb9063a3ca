"""Memory of the process."""

from __future__ import annotations

import ctypes
import gc

__all__ = ["give_back"]


def give_back() -> None:
    """Free what only cycles refer to, and return freed memory to the system where the C library can (glibc).

    glibc keeps what was freed below a piece still in use, for as long as the process lives. All Python threads wait for
    the collection, which can take a tenth of a second: call it rarely.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
