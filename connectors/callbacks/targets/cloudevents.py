"""Add the headers of CloudEvents 1.0 over HTTP, binary mode.

https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/http-protocol-binding.md
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson

from connectors.callbacks.targets.message import iso_time

__all__ = ["headers_of"]


def headers_of(body: bytes) -> dict[str, str]:
    """Return the attributes of an alert, which is the body, as headers. Values are percent-encoded where they must be.

    >>> headers_of(b'{"alertId":"a1","alertType":"LOW_MOS","state":"raised","conversationId":"c 1"}')["ce-subject"]
    'c%201'
    """
    alert: dict[str, Any] = orjson.loads(body)
    headers = {
        "ce-specversion": "1.0",
        "ce-id": str(alert.get("alertId")),
        "ce-source": "/voicewatch",
        "ce-type": f"io.voicewatch.alert.{alert.get('alertType')}.{alert.get('state')}".lower(),
        "ce-time": iso_time(alert.get("timestamp")),
        "ce-subject": str(alert.get("conversationId") or alert.get("incidentId") or ""),
    }
    # Section 3.1.3.2 of the binding: anything but printable ASCII, and space, " and %, is percent-encoded.
    safe = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
    return {name: quote(text, safe=safe) for name, text in headers.items() if text}
