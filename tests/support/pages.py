"""The documentation pages as data: their sections, code blocks, commands and links."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["COMMANDS", "FILES", "PAGES", "ROOT", "Command", "anchors", "code_blocks", "links"]

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *sorted((ROOT / "docs").glob("*.md")),
    )
}


@dataclass(frozen=True)
class Command:
    """A line after `$ ` in a console block, with the lines shown below it."""

    page: str
    section: str
    block: int
    text: str
    shown: tuple[str, ...]


def code_blocks(language: str) -> Iterator[tuple[str, str, str]]:
    """Yield page, section and text of each block in a language, without the indentation of a list."""
    for page, text in PAGES.items():
        for section in re.split(r"^## ", text, flags=re.MULTILINE):
            for found in re.finditer(rf"^( *)```{language}\n(.*?)^\1```$", section, re.MULTILINE | re.DOTALL):
                yield page, section.partition("\n")[0], textwrap.dedent(found[2])


def _console_commands() -> Iterator[Command]:
    for number, (page, section, block) in enumerate([*code_blocks("console"), *code_blocks("bash")]):
        for text in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = text.rstrip().splitlines()
            yield Command(page, section, number, command, tuple(line for line in shown if line))


COMMANDS = list(_console_commands())
# The files shown in the pages: a TOML block whose first line is its name as a comment.
FILES = {
    name: text
    for _, _, block in code_blocks("toml")
    for name, text in re.findall(r"\A# (\S+\.toml)\n(.*)\Z", block, re.DOTALL)
}


def anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", PAGES[page], re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: str) -> list[str]:
    """Return the targets of a page's links that do not lead to another host."""
    return [target for target in re.findall(r"\]\(([^)]+)\)", PAGES[page]) if not target.startswith("https://")]
