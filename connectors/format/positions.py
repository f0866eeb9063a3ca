"""Where a message of a Kafka topic stands, and how a journal line keeps it. Pure.

A frame has its position as its first key, and an `invalid` record has it in its reason::

    {"received_at":5.5,"via":"bus","frame":{"id":"kafka:frames:0:123","event":"conversation.updated",...}}
    {"received_at":5.5,"via":"bus","invalid":"what was received","reason":"message kafka:frames:0:124: not JSON: ..."}
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from connectors.format.lines import lines_via

__all__ = ["Position", "placed", "positions_in"]

# No text of a message can look like these keys: inside of a JSON string each quote is escaped.
_POSITION: Final = re.compile(
    rb'(?:"frame":\{"id":"|"invalid":.*,"reason":"message )'
    rb'kafka:([A-Za-z0-9._-]{1,249}):(\d{1,10}):(\d{1,19})(?:"|: )'
)


class Position(NamedTuple):
    """Identify a message by topic, partition and offset."""

    topic: str
    partition: int
    offset: int

    @property
    def id(self) -> str:
        """Return the position as the text that a journal line keeps.

        >>> Position("frames", 0, 123).id
        'kafka:frames:0:123'
        """
        return f"kafka:{self.topic}:{self.partition}:{self.offset}"


def placed(message: bytes, position: Position) -> bytes:
    """Return a frame, which is a JSON object with a key, with its position as the first key.

    >>> placed(b' {"event":"x"}', Position("frames", 0, 7))
    b'{"id":"kafka:frames:0:7","event":"x"}'
    """
    return b'{"id":"%b",%b' % (position.id.encode(), message.partition(b"{")[2])


def positions_in(lines: bytes, feed: str) -> list[Position]:
    r"""Return the positions of the messages that a feed wrote into these lines of a journal, in order.

    >>> positions_in(b'{"received_at":1.5,"via":"bus","frame":{"id":"kafka:t:0:7","event":"x"}}\n', "bus")
    [Position(topic='t', partition=0, offset=7)]
    """
    found = [match.groups() for line in lines_via(lines, feed) if (match := _POSITION.match(line))]
    return [Position(topic.decode(), int(partition), int(offset)) for topic, partition, offset in found]
