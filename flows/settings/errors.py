"""What is wrong with a configuration, in its own notation: one line for each mistake, with its key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from pydantic_core import ErrorDetails

__all__ = ["Key", "credential_advice", "did_you_mean", "explain_error", "toml_key", "toml_repr"]

Key = tuple[str | int, ...]

_NOT_A_TEXT = "must be a text in quotes"
_NOT_A_NUMBER = "must be a number"
_EXPECTED = {
    "bool_type": "must be true or false",
    "finite_number": _NOT_A_NUMBER,
    "float_parsing": _NOT_A_NUMBER,
    "float_type": _NOT_A_NUMBER,
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "model_type": "must be a table",
    "path_type": _NOT_A_TEXT,
    "string_type": _NOT_A_TEXT,
    "tuple_type": "must be a list",
}

_GENESYS_CREDENTIAL = re.compile(r"client_?(id|secret)|(access_?)?token|password|credentials", re.IGNORECASE)
_CALLBACK_SECRET = re.compile(r"((callback|webhook|signing)_?)?secrets?", re.IGNORECASE)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MAX_SHOWN = 60


def explain_error(error: ErrorDetails, known: Iterable[str]) -> str:
    """Explain one of Pydantic's errors to the author of the file; `known` are the keys of the table it is in."""
    kind, value = error["type"], error["input"]
    if kind == "missing":
        return "required key is missing"
    if kind == "extra_forbidden":
        name = str(error["loc"][-1])
        what = "table" if isinstance(value, Mapping) else "key"
        if error["loc"][0] == "audiohook" and "secret" in name.lower():
            return "is read from VOICEWATCH_AUDIOHOOK_SECRETS in the environment, and nowhere else"
        return credential_advice(name) or f"unknown {what}{did_you_mean(name, known)}"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "literal_error":
        return f"must be {error['ctx']['expected'].replace(chr(39), chr(34))}, not {toml_repr(value)}"
    if kind in _EXPECTED:
        return f"{_EXPECTED[kind]}, not {toml_repr(value)}"
    return error["msg"]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean …?)` with the most similar of the known names, or nothing."""
    close = get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def credential_advice(name: str) -> str | None:
    """Return where a credential belongs that was put into a file under this name."""
    if _GENESYS_CREDENTIAL.fullmatch(name):
        return "is read from GENESYS_CLIENT_ID and GENESYS_CLIENT_SECRET in the environment, and nowhere else"
    if _CALLBACK_SECRET.fullmatch(name):
        return "is read from VOICEWATCH_CALLBACK_SECRET in the environment, and nowhere else"
    return None


def toml_key(key: Key) -> str:
    """Write a key as its author would.

    >>> toml_key(("interceptor", 0, "max_latency_ms")), toml_key(("genesys", "base url"))
    ('interceptor[0].max_latency_ms', 'genesys."base url"')
    """
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE_KEY.fullmatch(part) else json.dumps(part))
    return text


def toml_repr(value: object) -> str:
    """Write a value as its author would, cut to what fits in a line.

    >>> toml_repr("fast"), toml_repr(True), toml_repr(20.0), toml_repr([1]), toml_repr({})
    ('"fast"', 'true', '20', 'a list', 'a table')
    """
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            text = json.dumps(value, ensure_ascii=not value.isprintable())
        case int():
            # Python refuses to write out integers of thousands of digits, which TOML can hold.
            text = str(value) if value.bit_length() < 200 else "a huge number"
        case float():
            text = str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
        case Mapping():
            text = "a table"
        case list() | tuple():
            text = "a list"
        case _:
            text = str(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"
