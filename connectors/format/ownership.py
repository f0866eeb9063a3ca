"""Which received messages are about an instance's own conversations, by the id in their bytes, before any is parsed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec

from connectors.format.owners import Share

__all__ = ["OwnMessages"]

MAX_KNOWN: Final = 100_000
_ID: Final = re.compile(rb'"entity"[ \t\r\n]*:[ \t\r\n]*\{[ \t\r\n]*"id"[ \t\r\n]*:[ \t\r\n]*"([^"\\]*)"')


class _Entity(msgspec.Struct, gc=False):
    id: str


class _Frame(msgspec.Struct, gc=False):
    entity: _Entity


_decode = msgspec.json.Decoder(_Frame).decode


class OwnMessages:
    """Picks the frames of a share's conversations among received messages.

    A message that names no conversation, so that it is not a frame, is of the first share. Every message is of exactly
    one share.
    """

    def __init__(self, share: Share) -> None:
        self.share = share
        self._known: dict[bytes, bool] = {}

    def of(self, messages: Sequence[bytes]) -> Sequence[bytes]:
        """Return the messages of the share, in their order."""
        if self.share.count == 1:
            return messages
        return [message for message in messages if self._owns(message)]

    def _owns(self, message: bytes) -> bool:
        found = _ID.search(message)
        # Of a key that comes twice, the last one counts, and a key may be written with escapes.
        if found is None or b"\\u" in message or message.count(b'"entity"') > 1:
            with suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                return self.share.owns_text(_decode(message).entity.id)
            return self.share.index == 0
        key = found[1]
        owns = self._known.get(key)
        if owns is None:
            try:
                owns = self.share.owns_text(key.decode())
            except UnicodeDecodeError:
                owns = self.share.index == 0
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = owns
        return owns
