"""The registry of interceptors: durable, private, and plain about damage."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from connectors.errors import StateError
from connectors.state.interceptors import InterceptorEntry, InterceptorRegistry


def test_nothing_yet(tmp_path: Path) -> None:
    """A file that is not there is an empty registry, and looking writes nothing."""
    registry = InterceptorRegistry(tmp_path / "state" / "interceptors.json")
    assert registry.get("c") is None
    assert list(tmp_path.iterdir()) == []


def test_remembered(tmp_path: Path) -> None:
    """Every field of every entry survives, for any text as id."""
    path = tmp_path / "state" / "interceptors.json"
    entries = {
        "c-é/\n": InterceptorEntry(phase="created", interceptor_id="i", watch={"leg_id": "l", "max_latency_ms": 120.5}),
        "d": InterceptorEntry(phase="failed", reason="no"),
        "e": InterceptorEntry(phase="creating"),
    }
    registry = InterceptorRegistry(path)
    for conversation_id, entry in entries.items():
        registry.put(conversation_id, entry)
    again = InterceptorRegistry(path)
    assert {conversation_id: again.get(conversation_id) for conversation_id in entries} == entries


def test_private(tmp_path: Path) -> None:
    """The file is readable by its owner only, also when it replaces another, and nothing is left beside it."""
    path = tmp_path / "state" / "interceptors.json"
    registry = InterceptorRegistry(path)
    registry.put("c", InterceptorEntry(phase="creating"))
    path.chmod(0o644)
    (path.parent / "interceptors.json.new").write_text("left by a crash")
    registry.put("c", InterceptorEntry(phase="created"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["interceptors.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"version": 1, "interc',
        b"\xff\xfe",
        b"[]",
        b'{"version": 2, "interceptors": {}}',
        b'{"version": 1}',
        b'{"version": 1, "interceptors": {"c": {"phase": "odd"}}}',
        b'{"version": 1, "interceptors": {"c": {"phase": "created", "more": 1}}}',
        b'{"version": 1, "interceptors": {"c": null}}',
    ],
)
def test_damaged(tmp_path: Path, content: bytes) -> None:
    """A damaged file is never taken for an empty one: the error names it and what to do."""
    path = tmp_path / "interceptors.json"
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"interceptors\.json: damaged .* restore it .* Genesys"):
        InterceptorRegistry(path)
    assert path.read_bytes() == content


def test_unreadable(tmp_path: Path) -> None:
    """A path that cannot be read is an error that names it."""
    with pytest.raises(StateError, match=r"reading .* failed"):
        InterceptorRegistry(tmp_path)


def test_unwritable(tmp_path: Path) -> None:
    """A registry that cannot be written says so and does not pretend to remember."""
    registry = InterceptorRegistry(tmp_path / "state" / "interceptors.json")
    (tmp_path / "state").write_text("a file where the directory should be")
    with pytest.raises(StateError, match="creating the directory"):
        registry.put("c", InterceptorEntry(phase="creating"))
    assert registry.get("c") is None
