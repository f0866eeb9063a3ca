"""Standard Webhooks 1.0: the headers that let a receiver trust a callback. Pure functions.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

from connectors.errors import ConfigurationError

__all__ = ["SECRET_VARIABLE", "parse_secrets", "sign"]

SECRET_VARIABLE = "VOICEWATCH_CALLBACK_SECRET"  # noqa: S105 - the name of the variable
_PREFIX = "whsec_"


def sign(id_: str, timestamp: int, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """The headers of one attempt: `webhook-id`, `webhook-timestamp` (epoch seconds) and `webhook-signature`.

    The signature holds one entry for each secret, so that receivers can change theirs at leisure; without any
    secret there is no such header. `body` is UTF-8 and sent exactly as given.

    >>> sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}',
    ...      ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])["webhook-signature"]
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    headers = {"webhook-id": id_, "webhook-timestamp": str(timestamp)}
    if secrets:
        # The package signs wrongly for an aware datetime that is not UTC, so it is given UTC.
        at, text = datetime.fromtimestamp(timestamp, UTC), body.decode()
        headers["webhook-signature"] = " ".join(Webhook(secret).sign(id_, at, text) for secret in secrets)
    return headers


def parse_secrets(text: str) -> tuple[str, ...]:
    """The secrets in the value of VOICEWATCH_CALLBACK_SECRET: comma-separated, `whsec_` and base64 of 24 to 64 bytes.

    An empty value means none. Raises ConfigurationError, which says which one is malformed and why, and shows
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
