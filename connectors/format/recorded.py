"""Find the frames that a feed wrote in lines of a journal. Pure."""

from __future__ import annotations

import re
from typing import Final

import orjson

from connectors.format.lines import TIMES

__all__ = ["frames_in"]

_HEAD: Final = b"^" + TIMES.pattern


def frames_in(lines: bytes, via: str | None) -> list[bytes]:
    r"""Return the frames that a feed wrote into these lines of a journal, in order; None for a feed without a name.

    >>> frames_in(b'{"received_at":1.5,"via":"bus","frame":{"event":"x"}}\n', "bus")
    [b'{"event":"x"}']
    """
    name = b"" if via is None else b'"via":%b,' % re.escape(orjson.dumps(via))
    return re.findall(_HEAD + name + rb'"frame":(.*)\}$', lines, re.MULTILINE)
