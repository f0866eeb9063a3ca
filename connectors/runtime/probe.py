"""Ask the health checks of this machine, for containers: `voicewatch probe /livez`.

The address is that of VOICEWATCH_METRICS__LISTEN, otherwise that of VOICEWATCH_WEB__LISTEN. Prints the answer; exit
0 for 200, 1 for anything else or no answer, 2 for a wrong call. Imports little, because it runs every few seconds.
"""

from __future__ import annotations

import http.client
import sys
from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["main"]

LISTEN: Final = "VOICEWATCH_METRICS__LISTEN"
WEB_LISTEN: Final = "VOICEWATCH_WEB__LISTEN"
WEB_TOKEN: Final = "VOICEWATCH_WEB_TOKEN"  # noqa: S105 - the name of the variable
TIMEOUT_S: Final = 4.0
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to reach a server that listens everywhere


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Ask once, and return the exit code."""
    if len(arguments) != 1 or not arguments[0].startswith("/"):
        print("usage: voicewatch probe /livez|/readyz|/metrics", file=sys.stderr)
        return 2
    listen = environ.get(LISTEN) or environ.get(WEB_LISTEN, "")
    host, _, port = listen.rpartition(":")
    if not port.isdigit():
        print(f"{LISTEN} is not set to host:port, and neither is {WEB_LISTEN}", file=sys.stderr)
        return 2
    host = host.strip("[]")
    connection = http.client.HTTPConnection(_ANY.get(host, host), int(port), timeout=TIMEOUT_S)
    try:
        token = environ.get(WEB_TOKEN, "").strip()
        connection.request("GET", arguments[0], headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        print(answer.read().decode("utf-8", "replace"), end="")
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer from {listen}: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    return 0 if answer.status == http.client.OK else 1
