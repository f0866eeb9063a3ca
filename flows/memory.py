"""Memory of a process that goes through block after block: kept for the next one, not given back to the kernel."""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["keep_freed_memory"]

# From glibc's malloc.h.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 128 << 20
_LARGEST_MMAP_THRESHOLD: Final = 32 << 20


def keep_freed_memory() -> None:
    """Let the C library keep up to 128 MiB that were freed. Where it is not glibc, nothing happens.

    Otherwise every array of a block is a fresh mapping, whose pages the kernel clears one fault at a time: a fifth of
    the time of a replay.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
