"""Sign callbacks as Standard Webhooks 1.0 says: headers that let a receiver trust them. Pure functions.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

__all__ = ["sign"]


def sign(id_: str, timestamp: int, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """Return the headers of one attempt: `webhook-id`, `webhook-timestamp` (epoch seconds) and `webhook-signature`.

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
