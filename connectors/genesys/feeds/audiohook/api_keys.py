"""The API keys of AudioHook and their client secrets, as the environment holds them. Pure."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Collection
from typing import Final

__all__ = ["SECRETS_VARIABLE", "parse_secrets"]

SECRETS_VARIABLE: Final = "VOICEWATCH_AUDIOHOOK_SECRETS"  # the name of the variable

_ANY_KEY: Final = re.compile(r"([A-Za-z0-9+/_-]+={0,2}?)=[A-Za-z0-9+/]*={0,2}")


def parse_secrets(text: str, keys: Collection[str] | None = None) -> tuple[dict[str, bytes | None], list[str]]:
    """Parse `key=base64secret,…`, and return the secrets by key and what is wrong with other entries.

    The secret is None where connections need no signature, and for a secret that is not base64. Both a key and a secret
    may end in `=`: with `keys`, the longest of them that matches is taken; without, the shortest key that is possible.
    No message repeats a secret.

    >>> parse_secrets("key=c2VjcmV0,open=")
    ({'key': b'secret', 'open': None}, [])
    """
    found: dict[str, bytes | None] = {}
    mistakes: list[str] = []
    longest_first = None if keys is None else sorted(keys, key=len, reverse=True)
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    for number, entry in enumerate(entries, 1):
        if longest_first is None:
            match = _ANY_KEY.fullmatch(entry)
            key = None if match is None else match[1]
        else:
            key = next((key for key in longest_first if entry.startswith(f"{key}=")), None)
        if key is None:
            known = "an API key and a =" if longest_first is None else "one of audiohook.api_keys and a ="
            mistakes.append(f"entry {number} does not begin with {known}")
            continue
        try:
            found[key] = b64decode(_padded(entry.removeprefix(f"{key}=")), validate=True) or None
        except Base64Error:
            mistakes.append(f"entry {number} has no base64 text after its key")
            found[key] = None
    return found, mistakes


def _padded(secret: str) -> str:
    bare = re.sub(r"=+$", "", secret)
    return bare + "=" * (-len(bare) % 4)
