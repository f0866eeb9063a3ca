"""The browser's library is the one of its package: version, licence and hashes are in the tree."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
VENDOR = ROOT / "flows" / "web" / "static" / "vendor"
VENDORED = [*VENDOR.iterdir(), *(ROOT / "tests" / "browser" / "vendor").iterdir()]


@pytest.mark.parametrize("directory", sorted(VENDORED), ids=lambda path: path.name)
def test_vendored_files_are_those_that_were_vendored(directory: Path) -> None:
    """Every file has its hash in SOURCE.json, and a licence is among them."""
    source = json.loads((directory / "SOURCE.json").read_text())
    found = {path.name for path in directory.iterdir()} - {"SOURCE.json"}
    assert found == set(source["files"])
    assert "LICENSE" in found
    for name, expected in source["files"].items():
        digest = hashlib.sha256((directory / name).read_bytes()).digest()
        assert f"sha256-{base64.b64encode(digest).decode()}" == expected, name


def test_the_page_asks_no_other_host() -> None:
    """Neither templates, styles nor scripts of ours name an address of another host."""
    web = VENDOR.parents[1]
    for path in [*web.glob("templates/*.html"), *web.glob("static/*.js"), *web.glob("static/*.css")]:
        text = path.read_text()
        assert "https://" not in text, path
        assert "http://" not in text.replace("http://www.w3.org", ""), path
