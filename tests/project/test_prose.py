"""The prose of code and pages is plain: no banned phrase. CONTRIBUTING.md has the list with what to write instead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTEAD = {
    r"\bwhoever\b|\bWhoever\b": "the caller, the operator, the client",
    r"\b(?:[Nn]obody|[Ss]omebody|[Aa]nybody)\b": "name who does it",
    r"\b(?:hears?|heard) of\b": "receives events for; known",
    r"\b(?:go|goes) before\b": "takes precedence over; comes before",
    r"\banew\b": "recreated; restarts",
    r"\bfor ever\b": "permanently; without end",
    r"(?<![Tt]here\x20)\b(?:is|are) none\b": "is not one",
    r"(?<![Tt]here\x20)\b(?:is|are|was|were) no (?!longer|more|one\b|later|other|such)[a-z]": "is not a …",
    r"\b(?:hang|hangs|hung) up\b": "the connection is closed",
    r"\b(?:is|are|was|were) told\b": "is reported; is notified",
    r"\bso many\b": "N; the given number of",
}
BREAK = r"\s+(?:#\s+)?"  # between words there may be a line break, and a comment's sign
BANNED = re.compile("|".join(f"(?:{phrase})" for phrase in INSTEAD).replace(" ", BREAK))


def findings(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line number and the words of each banned phrase."""
    for found in BANNED.finditer(text):
        yield text.count("\n", 0, found.start()) + 1, " ".join(found[0].split())


def files() -> list[Path]:
    """Return every module and page, except for the guide that lists the phrases."""
    paths = [path for top in ("connectors", "flows", "tests", "docker") for path in (ROOT / top).rglob("*.py")]
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    return sorted({*paths, *pages} - {ROOT / "CONTRIBUTING.md"})


def test_phrases_are_found_across_lines() -> None:
    """A phrase is found also when a line break or the sign of a comment divides it, and only as whole words."""
    text = "x = 1  # the feed is\n# told; there is no limit\nnone is nonesuch\nwhat is\n    none"
    assert [(line, phrase.split()) for line, phrase in findings(text)] == [
        (1, ["is", "#", "told"]),
        (4, ["is", "none"]),
    ]


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_banned_phrase(path: Path) -> None:
    """A module or page has none of the phrases that CONTRIBUTING.md lists."""
    found = [f"{path.relative_to(ROOT)}:{line}: {phrase!r}" for line, phrase in findings(path.read_text())]
    assert not found, "see Plain English in CONTRIBUTING.md"
