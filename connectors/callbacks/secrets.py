"""Parse the secrets that sign callbacks. Pure; imports no more than a check of a configuration needs."""

from __future__ import annotations

import base64
import binascii

from connectors.errors import ConfigurationError

__all__ = ["SECRET_VARIABLE", "parse_secrets"]

SECRET_VARIABLE = "VOICEWATCH_CALLBACK_SECRET"  # noqa: S105 - the name of the variable
_PREFIX = "whsec_"


def parse_secrets(text: str) -> tuple[str, ...]:
    """Parse the value of VOICEWATCH_CALLBACK_SECRET: comma-separated, `whsec_` and base64 of 24 to 64 bytes.

    An empty value means none. Raise ConfigurationError, which says which one is malformed and why, and shows
    nothing of it.
    """
    secrets = [part.strip() for part in text.split(",")] if text.strip() else []
    mistakes = [
        f"secret {number} of {len(secrets)} {mistake}"
        for number, secret in enumerate(secrets, 1)
        if (mistake := _mistake(secret))
    ]
    if mistakes:
        raise ConfigurationError(SECRET_VARIABLE, mistakes)
    return tuple(secrets)


def _mistake(secret: str) -> str | None:
    if not secret:
        return "is empty: look for a comma too many"
    if not secret.startswith(_PREFIX):
        return f"does not begin with {_PREFIX}"
    try:
        encoded = secret.removeprefix(_PREFIX)
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return f"is not base64 after {_PREFIX}"
    if not 24 <= len(key) <= 64:
        return f"holds {len(key)} bytes; 24 to 64 are allowed"
    return None
