"""Read a TOML file; take its state directory without building all settings, for commands that must answer at once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from connectors.errors import ConfigurationError

__all__ = ["DEFAULT_STATE_DIR", "MAX_KEY_PARTS", "read_toml", "state_dir"]

MAX_KEY_PARTS: Final = 200
DEFAULT_STATE_DIR: Final = Path("state")
_DEEP_KEY: Final = re.compile(rf"""(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){{{MAX_KEY_PARTS}}}""")
_VARIABLE: Final = re.compile(r"VOICEWATCH_(?i:STATE__?DIR)")


def read_toml(path: Path | str) -> dict[str, Any]:
    """Return the tables in a file. Raise ConfigurationError if it cannot be read or is not TOML."""
    try:
        return _parse_toml(Path(path).read_bytes())
    except OSError as error:
        raise ConfigurationError(str(path), [f"cannot be read: {error.strerror or error}"]) from error
    except ValueError as error:
        raise ConfigurationError(str(path), [str(error)]) from error


def state_dir(path: Path | str, environ: Mapping[str, str]) -> Path | None:
    """Return the `[state] dir` of a file with the environment on top; None if it is not one text.

    No other key is looked at. Raise ConfigurationError if the file cannot be read or is not TOML.
    """
    state = read_toml(path).get("state", {})
    named = {value for name, value in environ.items() if value and _VARIABLE.fullmatch(name)}
    if not isinstance(state, Mapping) or len(named) > 1:
        return None
    found = named.pop() if named else state.get("dir", str(DEFAULT_STATE_DIR))
    return Path(found) if isinstance(found, str) and found.strip() and "\0" not in found else None


def _parse_toml(raw: bytes) -> dict[str, Any]:
    """Return the tables in a file's bytes. Raise ValueError, which names line and column."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: is not UTF-8 (byte 0x{raw[error.start]:02x})") from error
    if found := _DEEP_KEY.search(text):  # tomllib takes minutes for a key of 100,000 parts
        line = text.count("\n", 0, found.start()) + 1
        raise ValueError(f"line {line}: a key has more than {MAX_KEY_PARTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    except ValueError as error:
        # Python up to 3.13 gives the place in the text only: "… (at line 3, column 7)", "… (at end of document)".
        found = re.fullmatch(r"(.*) \(at (line \d+, column \d+|end of document)\)", str(error), re.DOTALL)
        if found is None:
            raise ValueError(f"is no TOML: {error}") from error
        place = found[2] if found[2].startswith("line") else f"line {len(text.splitlines())}, end of file"
        raise ValueError(f"{place}: is no TOML: {found[1]}") from error
