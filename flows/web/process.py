"""Run the live page in a process of its own, so that it takes no time from the dataflow: started by `flows.web.page`.

The first line of standard input is the configuration, as JSON. Each line of standard output says whether the files can
be read. The end of standard input ends the process: it does not
outlive the run, however that ends.
"""

from __future__ import annotations

import gc
import http.client
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import orjson

from connectors.runtime.logs import LOG_JSON, RUN_ID, configure_logs
from flows.state import StateLayout
from flows.web.pages import make_app
from flows.web.reader import StateReader
from flows.web.server import WebServer
from flows.web.what_if import WhatIf

__all__ = ["main"]

NICE: Final = 10
ANSWER_S: Final = 5.0
# The read model is many objects that stay; to look through them often took a third of the time.
COLLECT: Final = (50_000, 20, 50)


def main() -> None:
    """Serve the page until standard input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the run ends this process
        signal.signal(number, lambda *_: None)
    told: dict[str, Any] = orjson.loads(sys.stdin.buffer.readline())
    configure_logs(as_json=os.environ.get(LOG_JSON) == "1", run_id=os.environ.get(RUN_ID))
    os.nice(NICE)
    gc.set_threshold(*COLLECT)
    directory = Path(told["directory"])
    reader = StateReader(directory, keep_s=told["keep_s"], on_failure=tell)
    what_if = WhatIf(StateLayout(directory).journal, os.environ)
    answers = {path: answer_of(told["health_port"], path, told["health_token"]) for path in told["health_paths"]}
    app = make_app(reader, directory, token=told["token"], what_if=what_if, hosts=tuple(told["hosts"]), answers=answers)
    server = WebServer(app, socket.socket(fileno=told["fd"]))
    reader.start()
    server.start()
    sys.stdin.buffer.read()
    server.stop()
    what_if.stop()
    reader.stop()


def tell(failure: str) -> None:
    """Tell the run why the files cannot be read, "" if they can: a line of JSON on standard output."""
    with suppress(OSError):  # the run has ended, which ends this process, too
        os.write(sys.stdout.fileno(), orjson.dumps({"failure": failure}) + b"\n")


def answer_of(port: int, path: str, token: str) -> Callable[[], tuple[int, str, bytes]]:
    """Return what asks the run for the answer of a path; 503 if the run does not answer."""
    return partial(_ask, port, path, token)


def _ask(port: int, path: str, token: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()
    except (OSError, http.client.HTTPException) as error:
        return HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"the run does not answer: {error!r}\n".encode()
    finally:
        connection.close()


if __name__ == "__main__":
    main()
