"""A demo in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.callbacks import eventually

__all__ = ["running_demo"]


@contextlib.contextmanager
def running_demo(directory: Path, wait_s: float) -> Iterator[str]:
    """Run a demo with its files in `directory`; yield the URL of its page once it is there, within `wait_s` seconds."""
    log = directory / "demo.log"
    with log.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows", "demo", "--seconds", "1200"],
            env={**os.environ, "TMPDIR": str(directory)},
            stdout=subprocess.DEVNULL,
            stderr=err,
        )

    def url() -> str:
        found = re.search(r"live_page\s+url=(\S+)", log.read_text())
        return found[1] if found else ""

    try:
        eventually(lambda: url() != "", wait_s)
        yield url()
    finally:
        process.terminate()
        process.wait(30)
