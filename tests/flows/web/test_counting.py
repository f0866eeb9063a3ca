"""Messages of a journal by feed and minute: as many as its lines, whatever the pieces in which it is read."""

from __future__ import annotations

from collections import Counter

import orjson
from hypothesis import given
from hypothesis import strategies as st

from connectors.format.lines import frame_lines, invalid_line, message_head, record_line
from flows.web.counting import counts_of

FEEDS = ["support", 'odd " name', None]
times = st.floats(min_value=0, max_value=400, allow_nan=False)
kinds = st.sampled_from(["frame", "invalid", "tick", "feed"])
rows = st.lists(st.tuples(times, kinds, st.sampled_from(FEEDS), st.booleans()), max_size=60)


@given(rows=rows, cuts=st.integers(1, 20))
def test_counts_are_those_of_the_lines(rows: list[tuple[float, str, str | None, bool]], cuts: int) -> None:
    """Frames and rejected messages of each feed in each minute; a frame may say anything of itself."""
    lines, expected = [], Counter[tuple[str, int, str]]()
    for at, kind, via, moved in sorted(rows, key=lambda row: row[0]):
        head = message_head(at, via, at + 1.0 if moved else None)
        if kind == "frame":
            lines.append(frame_lines(head, [b'{"event":"e","watch":{"a":1},"tick":true,"x":"\\"invalid\\":"}']))
        elif kind == "invalid":
            lines.append(invalid_line(head, '{"via":"support","frame":{}}', "not a frame"))
        else:
            more = {"tick": True} if kind == "tick" else {"feed": {"name": "support", "state": "up", "reason": ""}}
            lines.append(record_line(at, more))
        if kind in ("frame", "invalid"):
            expected[via or "", int(at // 60) * 60, kind] += 1
    found = Counter[tuple[str, int, str]]()
    for begin in range(0, len(lines), cuts):
        for one in counts_of(b"".join(lines[begin : begin + cuts]), ["support", 'odd " name']):
            found[one.via, one.minute, "frame"] += one.frames
            found[one.via, one.minute, "invalid"] += one.invalid
    assert +found == expected


def test_a_line_that_names_no_time_is_counted() -> None:
    """Nothing of a journal can stop the reader."""
    lines = (
        b'{"frame":{}}\n{"received_at":1e999,"frame":{}}\n' + orjson.dumps({"received_at": 61.0, "frame": {}}) + b"\n"
    )
    assert sum(one.frames for one in counts_of(lines, [])) == 3
