"""Whole text messages off a WebSocket, many at a time.

`websockets` parses one frame at a time, which takes ten times as long as all else that a feed does with a message.
What a busy server sends is nearly always a run of unfragmented, unmasked, uncompressed text frames, and such a run can
be cut apart in one go. Everything else goes through the library.
"""

from __future__ import annotations

from collections.abc import Generator

from websockets.client import ClientProtocol
from websockets.protocol import OPEN
from websockets.streams import StreamReader

__all__ = ["TextMessages", "cut", "hand_over_texts"]

_FINAL_TEXT = 0x81
_TWO_BYTES = 126


class TextMessages(list[bytes]):
    """An event of a protocol: text messages that arrived together, in order; each may still be invalid UTF-8."""


def hand_over_texts(protocol: ClientProtocol) -> None:
    """Let a protocol that has read nothing yet report runs of text messages as `TextMessages`, not as frames."""
    protocol.reader = _RunReader(protocol)
    protocol.parser = protocol.parse()
    next(protocol.parser)


def cut(data: bytes) -> tuple[TextMessages, int]:
    r"""Return the whole plain text messages at the start of `data`, and where the rest begins.

    `data` begins with a frame. A message of 64 KiB or more is not plain, nor is one that is masked, compressed or in
    fragments.

    >>> cut(b"\x81\x02hi\x81\x00\x81\x05not")
    ([b'hi', b''], 6)
    """
    messages = TextMessages()
    at, end = 0, len(data)
    while at + 2 <= end and data[at] == _FINAL_TEXT:
        begin, length = at + 2, data[at + 1]
        if length == _TWO_BYTES and at + 4 <= end:
            begin, length = at + 4, data[at + 2] << 8 | data[at + 3]
        elif length >= _TWO_BYTES:
            break
        if begin + length > end:
            break
        at = begin + length
        messages.append(data[begin:at])
    return messages, at


class _RunReader(StreamReader):
    """A reader that takes runs of messages off its buffer where the parser stands between two frames."""

    def __init__(self, protocol: ClientProtocol) -> None:
        super().__init__()
        self._protocol = protocol

    def at_eof(self) -> Generator[None, None, bool]:
        """Whether all is read; the parser asks this before each frame, and nowhere else."""
        while True:
            if not self._take() and self.buffer:
                return False
            if self.eof:
                return not self.buffer
            yield

    def _take(self) -> bool:
        """Report the messages that the buffer begins with; whether the rest may become one more of them."""
        protocol = self._protocol
        # Not while a message comes in fragments, which only control frames may interrupt, and not once the connection
        # is closing, when the library ignores some of what arrives.
        if self.eof or protocol.state is not OPEN or protocol.current_size is not None:
            return False
        messages, end = cut(bytes(self.buffer))
        if messages:
            protocol.events.append(messages)  # type: ignore[arg-type]
            del self.buffer[:end]
        head = bytes(self.buffer[:2])
        return head[:1] in (b"", b"\x81") and head[1:] <= b"\x7e"
