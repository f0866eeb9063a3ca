"""The job of a soak: a real `voicewatch run` in a process of its own, to be killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.soak.calls import first_ids

__all__ = ["CREDENTIALS", "LENGTH_S", "SECRET", "Job", "write_config"]

ROOT = Path(__file__).parent.parent.parent
CREDENTIALS = ("soak", "soaking")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LENGTH_S = 4
STOP_S = 20.0


def write_config(path: Path, base_url: str, receivers: Sequence[str], watched: int) -> None:
    """Every conversation is watched; of the first calls `watched` have interceptors, spread over the receivers."""
    lines = [
        f'[genesys]\nbase_url = "{base_url}"\nmax_concurrent = 1000',
        f"[windows]\nlength_s = {LENGTH_S}\nslide_s = {LENGTH_S // 2}",
        '[alerts]\nclear_after_s = 2\nunwatched = "default"',
        "[delivery]\ntimeout_s = 2\nmax_attempts = 50\nallow_private_addresses = true",
        f'[state]\ndir = "{path.parent / "state"}"',
        f'[defaults]\nqa_callback_url = "{receivers[1]}"\ninterceptor_address = "sip:qa@monitoring.internal"',
    ]
    for number, conversation_id in enumerate(first_ids(watched)):
        url = receivers[number % len(receivers)]
        lines.append(
            f'[[interceptor]]\nconversation_id = "{conversation_id}"\nleg_id = "leg-{number}"\n'
            f'max_latency_ms = {120 + 10 * number}\nqa_callback_url = "{url}"'
        )
    path.write_text("\n\n".join(lines) + "\n")


class Job:
    """One `voicewatch run` at a time; what they print goes to `run.log` beside the configuration."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._log = config.with_name("run.log")
        self.state = config.with_name("state")
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self.started_at = 0.0

    def start(self) -> None:
        """Start a run; none must be there."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                _command("run", str(self._config)), cwd=ROOT, env=_environ(), stdout=log, stderr=log
            )
        self.starts += 1
        self.started_at = time.monotonic()

    def exit_code(self) -> int | None:
        """The exit code of a run that ended without being asked to; None while it is well."""
        return None if self._process is None else self._process.poll()

    def kill(self) -> None:
        """`kill -9`."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> str:
        """SIGTERM; what went wrong with the stop, or nothing."""
        assert self._process is not None
        process, self._process = self._process, None
        begun = (self.state / "lock").read_text().strip() == str(process.pid)
        process.terminate()
        try:
            code = process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return f"SIGTERM did not end the run within {STOP_S:g} s"
        if code == 0 or (code == -signal.SIGTERM and not begun):  # Python was still starting
            return ""
        return f"SIGTERM ended the run with exit code {code}"

    def freeze(self, seconds: float) -> None:
        """Let the process not run at all for a while."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._process.send_signal(signal.SIGCONT)

    def rss_mib(self) -> float:
        """The memory that the run has in RAM; 0 when there is none."""
        if self._process is None:
            return 0.0
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = next((line for line in status.splitlines() if line.startswith("VmRSS:")), "VmRSS: 0 kB")
        return int(found.split()[1]) / 1024

    def last_words(self) -> str:
        """The end of what the runs printed and logged, for a person."""
        lines = self._log.read_text(errors="replace").splitlines()
        return " / ".join(line[-300:] for line in lines[-3:]) if lines else "nothing was logged"

    def replay(self, journal: list[Path], out: Path) -> str:
        """Replay the journal with the real command; what went wrong, or nothing."""
        done = subprocess.run(
            _command("replay", *map(str, journal), "--out", str(out)),
            cwd=ROOT,
            env=_environ(),
            capture_output=True,
            text=True,
        )
        return done.stderr.strip()[-400:] if done.returncode else ""


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from flows.cli import main; main()", *arguments, "--log-json"]


def _environ() -> dict[str, str]:
    client_id, client_secret = CREDENTIALS
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("VOICEWATCH_", "GENESYS_"))},
        "GENESYS_CLIENT_ID": client_id,
        "GENESYS_CLIENT_SECRET": client_secret,
        "VOICEWATCH_CALLBACK_SECRET": SECRET,
    }
