"""Start and stop what a run serves: the live page, or metrics and health checks alone."""

from __future__ import annotations

import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

from connectors.runtime.logs import LOG_JSON, RUN_ID, get_logger
from flows.settings.secrets import token_of
from flows.settings.web import WebSettings
from flows.web.listening import Answer, bind, port_of

__all__ = ["HealthPage", "LivePage"]

STOP_S: Final = 5.0
RESTART_S: Final = 1.0
# A process that keeps ending is started again less and less often, until one lasts for as long as the longest pause.
LONGEST_RESTART_S: Final = 60.0
# The process of the page needs no credentials, and gets none.
PASSED: Final = ("PATH", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "PYTHONPATH", "NO_COLOR", "TMPDIR", LOG_JSON, RUN_ID)


class HealthPage:
    """Serve metrics and health checks alone, in this process. Bound when made.

    Without a `token` no authentication is asked for, as for `[metrics] listen`. Raises UsageError if the address cannot
    be used.
    """

    def __init__(self, host: str, port: int, answers: Mapping[str, Answer], token: str | None = None) -> None:
        from flows.web.guard import Guard
        from flows.web.health import health_app
        from flows.web.server import WebServer

        app = health_app(answers)
        self._server = WebServer(
            app if token is None else Guard(app, token=token, hosts=()), bind(host, port, key="metrics.listen")
        )

    @property
    def port(self) -> int:
        """Return the port that it listens on."""
        return self._server.port

    def start(self) -> None:
        """Answer requests until `stop`."""
        self._server.start()

    def stop(self) -> None:
        """Stop answering, and free the port."""
        self._server.stop()


class LivePage:
    """Serve the live page of a state directory from a process of its own; bound when made.

    That process reads files, so that it takes no time from the dataflow, and holds no credentials. It asks this one for
    `answers`, such as /metrics. If it ends by mistake, it is started again; requests wait meanwhile.

    Raises UsageError if the address cannot be used, ConfigurationError for a missing or short token.
    """

    def __init__(
        self, web: WebSettings, directory: Path, environ: Mapping[str, str], answers: Mapping[str, Answer]
    ) -> None:
        assert web.address is not None
        token = token_of(web, environ)
        self._host = web.address[0]
        self._environ = {name: environ[name] for name in PASSED if name in environ}
        secret = secrets.token_urlsafe(32)
        self._socket = bind(*web.address, key="web.listen")
        self._health = HealthPage("127.0.0.1", 0, answers, secret) if answers else None
        self._told: dict[str, Any] = {
            "fd": self._socket.fileno(),
            "directory": str(directory.absolute()),
            "keep_s": web.keep_hours * 3600.0,
            "token": token,
            "hosts": list(web.known_hosts),
            "health_port": self._health.port if self._health else 0,
            "health_token": secret,
            "health_paths": list(answers),
        }
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._failure = ""
        self._thread = threading.Thread(target=self._supervise, name="voicewatch-page", daemon=True)

    @property
    def url(self) -> str:
        """Return the address for a browser on this machine."""
        host = self._host
        return f"http://{f'[{host}]' if ':' in host else host}:{port_of(self._socket)}/"

    @property
    def failure(self) -> str:
        """Return why the page does not show what the files hold now; "" if it does, as far as is known."""
        return self._failure

    @property
    def pid(self) -> int | None:
        """Return the id of the page's process, None before the start."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Read and answer until `stop`."""
        if self._health is not None:
            self._health.start()
        self._process = self._spawn()
        self._thread.start()
        get_logger(__name__).info("live_page", url=self.url)

    def stop(self) -> None:
        """Stop answering and reading."""
        self._stopping.set()
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._thread.join(STOP_S)
            if self._thread.is_alive():
                self._process.kill()
                self._thread.join()
        if self._health is not None:
            self._health.stop()
        self._socket.close()

    def _spawn(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.web.process"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environ,
            pass_fds=[self._socket.fileno()],
            start_new_session=True,
        )
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already, which the supervisor sees
            process.stdin.write(orjson.dumps(self._told) + b"\n")
        return process

    def _supervise(self) -> None:
        """Wait for the end of the process, and start it again unless the page stops."""
        wait_s, logged = RESTART_S, None
        while True:
            began = time.monotonic()
            code = self._follow()
            if self._stopping.is_set():
                return
            if time.monotonic() - began >= LONGEST_RESTART_S:
                wait_s, logged = RESTART_S, None
            if code != logged:  # once, and not at each attempt
                get_logger(__name__).error("live_page_ended", code=code)
            logged, self._failure = code, f"its process ended with code {code}"
            if not self._spawn_again(wait_s):
                return
            wait_s = min(wait_s * 2, LONGEST_RESTART_S)

    def _follow(self) -> int:
        """Take what the process says of its files until it ends; return its exit code."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                with suppress(orjson.JSONDecodeError, KeyError, TypeError):
                    self._failure = str(orjson.loads(line)["failure"])
        code = process.wait()
        process.stdin.close()
        return code

    def _spawn_again(self, wait_s: float) -> bool:
        """Start the process after a pause, repeatedly until that works; False if the page stops."""
        failure = ""
        while not self._stopping.wait(wait_s):
            try:
                self._process = self._spawn()
            except OSError as error:  # no memory, no descriptors
                if str(error) != failure:
                    get_logger(__name__).error("live_page_not_started", error=str(error))
                failure = str(error)
            else:
                return True
        return False
