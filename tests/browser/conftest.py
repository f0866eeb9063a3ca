"""A real Chromium: that of Debian, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """Yield a browser for the tests of this folder: while it is open, asyncio.run() is refused in the main thread."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium; `apt-get install chromium` (or `.ci/run`) installs it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page in a context of its own, and what it did that it must not do."""

    def __init__(self, browser: Any, base: str, *, width: int = 1440, scheme: str = "light", zone: str = "UTC") -> None:
        self.base = base.rstrip("/")
        self.faults: list[str] = []
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, timezone_id=zone, locale="en-GB"
        )
        self.page = self.context.new_page()
        self.page.on("console", self._told)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._asked)

    def go(self, path: str) -> Any:
        """Open a view, and wait until it follows the run."""
        self.page.goto(self.base + path)
        self.page.wait_for_selector('#live[data-state="live"]')
        return self.page

    def violations(self) -> list[str]:
        """Return what axe finds that is serious or worse."""
        # Evaluated by the debugger, which the page's policy does not concern.
        self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
        return [
            f"{one['id']}: {one['nodes'][0]['html'][:200]} {one['nodes'][0].get('failureSummary', '')[:300]}"
            for one in found
            if one["impact"] in ("serious", "critical")
        ]

    def close(self) -> None:
        """Close the page. Fails if it did what it must not do."""
        self.context.close()
        assert self.faults == []

    def _told(self, told: Any) -> None:
        if told.type in ("error", "warning"):
            self.faults.append(told.text)

    def _dialog(self, dialog: Any) -> None:
        self.faults.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.base + "/", "data:")):
            self.faults.append(f"asked {request.url}")
