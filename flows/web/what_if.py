"""Try out other limits: run `voicewatch backtest` over the kept journal, in a separate process."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
from starlette.exceptions import HTTPException

from connectors.journal.segments import segments
from connectors.runtime.logs import get_logger
from connectors.runtime.platform import open_files

__all__ = ["RULES", "Job", "WhatIf", "rules_of"]

KEPT_JOBS: Final = 8
SHOWN: Final = 200
# Hours in which incidents are counted; more cannot be told apart in a chart.
MAX_HOURS: Final = 24 * 31


@dataclass(frozen=True, slots=True)
class Rule:
    """Describe a setting that can be tried out: its table, its bounds, the step of its field, and its name.

    `most` is the upper end of its slider, where that of the field is too far away to choose a value with a mouse.
    """

    table: str
    low: float
    high: float
    step: float
    name: str
    unit: str = ""
    whole: bool = False
    most: float | None = None


# The bounds are those of the configuration.
RULES: Final = {
    "max_latency_ms": Rule("defaults", 50, 500, 5, "Latency limit", "ms"),
    "packet_loss_threshold": Rule("defaults", 0, 0.1, 0.001, "Packet loss limit", "ratio"),
    "mos_below": Rule("alerts", 1, 4.5, 0.1, "MOS limit"),
    "raise_n": Rule("alerts", 1, 1000, 1, "Frames beyond the limit", whole=True, most=50),
    "raise_m": Rule("alerts", 1, 1000, 1, "of the last frames", whole=True, most=50),
    "clear_ratio": Rule("alerts", 0, 1, 0.05, "Clear below this share of the limit"),
    "clear_after_s": Rule("alerts", 0, 86_400, 1, "Clear after quiet", "s", most=300),
}

# Which setting is a limit of a metric of frames.
FIELDS: Final = {"latency_ms": "max_latency_ms", "packet_loss": "packet_loss_threshold"}
# With one of them, a configuration has the default of the other: what was recorded is written down beside it.
TOGETHER: Final = ("raise_n", "raise_m")


@dataclass
class Job:
    """Hold a backtest that runs or has run. `result` or `failure` is set when it has ended."""

    rules: dict[str, float]
    recorded: Mapping[str, Any]
    files: list[Path]
    sizes: list[int]
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    process: subprocess.Popen[bytes] | None = None
    result: dict[str, Any] | None = None
    failure: str | None = None
    digest: str = ""

    @property
    def toml(self) -> str:
        """Return the configuration that is tried out."""
        return toml_of(self.rules)

    @property
    def difference(self) -> list[tuple[str, str]]:
        """Return the lines of TOML by which the proposed settings differ from the recorded ones."""
        return difference(self.rules, self.recorded)

    def progress(self) -> float | None:
        """Return the share of the journal that was read, None if that cannot be seen."""
        process = self.process
        if process is None or self.result is not None:
            return None
        done = None
        for fd in open_files(process.pid):
            place = self._place(fd)
            if place is not None:
                done = max(done or 0, place)
        return None if done is None else min(done / max(sum(self.sizes), 1), 1.0)

    def _place(self, fd: Path) -> int | None:
        try:
            index = self.files.index(fd.readlink())
            position = (fd.parents[1] / "fdinfo" / fd.name).read_text().split("pos:", 1)[1].split()[0]
        except (OSError, ValueError, IndexError):  # it was closed meanwhile, or is another file
            return None
        return sum(self.sizes[:index]) + int(position)


def rules_of(query: Mapping[str, str]) -> dict[str, float]:
    """Return the settings to try out. Raises HTTPException for one that is not a number, or not allowed."""
    found: dict[str, float] = {}
    for name, rule in RULES.items():
        if not (text := query.get(name, "").strip()):
            continue
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not rule.low <= value <= rule.high:
            raise HTTPException(400, f"{rule.name}: must be between {rule.low:g} and {rule.high:g}")
        found[name] = int(value) if rule.whole else value
    if found.get("raise_n", 1) > found.get("raise_m", 1):
        raise HTTPException(400, "raise_n must not be above raise_m")
    return found


def toml_of(rules: Mapping[str, float]) -> str:
    """Return a configuration of some settings.

    >>> print(toml_of({"max_latency_ms": 200.0, "raise_n": 2, "raise_m": 3}), end="")
    [defaults]
    max_latency_ms = 200.0
    <BLANKLINE>
    [alerts]
    raise_n = 2
    raise_m = 3
    """
    tables: dict[str, dict[str, Any]] = {}
    for name, value in rules.items():
        tables.setdefault(RULES[name].table, {})[name] = value
    return _toml(tables)


def difference(rules: Mapping[str, float], recorded: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return lines of TOML with their signs: `-` was recorded, `+` is proposed, and headings of tables.

    >>> for sign, line in difference({"raise_n": 2, "clear_after_s": 9.0}, {"alerts": {"raise_n": 3}}):
    ...     print(sign or " ", line)
      [alerts]
    - raise_n = 3
    + raise_n = 2
    + clear_after_s = 9.0
    """
    lines: list[tuple[str, str]] = []
    for name, value in rules.items():
        table = RULES[name].table
        if ("", f"[{table}]") not in lines:
            lines.append(("", f"[{table}]"))
        known = recorded.get(table)
        old = known.get(name) if isinstance(known, Mapping) else None
        if old is not None and old != value:
            lines.append(("-", f"{name} = {orjson.dumps(old).decode()}"))
        lines.append(("" if old == value else "+", f"{name} = {orjson.dumps(value).decode()}"))
    return lines


def proposed(rules: Mapping[str, float], recorded: Mapping[str, Any]) -> str:
    """Return the configuration to try out: what changes. All else stays as it was recorded.

    >>> print(proposed({"raise_n": 2}, {"alerts": {"raise_n": 3, "raise_m": 5, "policy": "incident"}}), end="")
    [alerts]
    raise_n = 2
    raise_m = 5
    """
    tables: dict[str, dict[str, Any]] = {}
    alerts = recorded.get("alerts")
    if isinstance(alerts, Mapping) and not rules.keys().isdisjoint(TOGETHER):
        tables["alerts"] = {name: alerts[name] for name in TOGETHER if name in alerts}
    for name, value in rules.items():
        tables.setdefault(RULES[name].table, {})[name] = value
    return _toml(tables)


def _toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    # Numbers, texts, booleans and lists of texts are written in TOML as in JSON.
    return "\n".join(
        f"[{table}]\n" + "".join(f"{name} = {orjson.dumps(value).decode()}\n" for name, value in lines.items())
        for table, lines in tables.items()
        if lines
    )


class WhatIf:
    """Run one backtest at a time, at low priority; keep the results of the last few. Any thread may call it."""

    def __init__(self, journal: Path, environ: Mapping[str, str]) -> None:
        self._journal = journal.absolute()
        # The process needs no credentials; it reads files only.
        self._environ = {
            name: environ[name] for name in ("PATH", "LANG", "TZ", "VIRTUAL_ENV", "PYTHONPATH") if name in environ
        }
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._running: Job | None = None

    def get(self, id_: str) -> Job | None:
        """Return a job by its id."""
        with self._lock:
            return self._jobs.get(id_)

    def start(self, rules: dict[str, float], since: float, recorded: Mapping[str, Any]) -> Job:
        """Start a backtest over the segments that were written since a time. Raises HTTPException.

        `recorded` are the settings of the journal, which hold for everything but `rules`.
        """
        files = (
            [path for path in segments(self._journal) if path.stat().st_mtime >= since]
            if self._journal.is_dir()
            else []
        )
        if not files:
            raise HTTPException(404, "there is no journal to try limits on")
        if not rules:
            raise HTTPException(400, "change at least one setting")
        job = Job(rules, recorded, files, [path.stat().st_size for path in files])
        with self._lock:
            if self._running is not None:
                raise HTTPException(409, "another one is running; wait until it is done")
            self._running = self._jobs[job.id] = job
            while len(self._jobs) > KEPT_JOBS:
                self._jobs.popitem(last=False)
        threading.Thread(target=self._run, args=(job,), name="voicewatch-what-if", daemon=True).start()
        return job

    def stop(self) -> None:
        """Stop the running backtest."""
        with self._lock:
            job = self._running
        if job is not None and job.process is not None and job.process.poll() is None:
            job.process.kill()

    def _run(self, job: Job) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="voicewatch-what-if-") as directory:
                self._backtest(job, Path(directory))
        except Exception as error:
            get_logger(__name__).exception("what_if_failed")
            job.failure = f"{type(error).__name__}: {error}"
        finally:
            with self._lock:
                self._running = None

    def _backtest(self, job: Job, directory: Path) -> None:
        config = directory / "proposed.toml"
        config.write_text(proposed(job.rules, job.recorded))
        nice = [found, "-n", "15"] if (found := shutil.which("nice")) else []
        command = [sys.executable, "-m", "flows", "backtest", *map(str, job.files), "--config", str(config), "--json"]
        with (directory / "out").open("w+b") as out, (directory / "err").open("w+b") as err:
            job.process = subprocess.Popen(  # noqa: S603 - our own
                [*nice, *command], stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=self._environ, cwd=directory
            )
            code = job.process.wait()
            if code:
                err.seek(0)
                last = err.read().decode(errors="replace").strip().splitlines()
                job.failure = last[-1] if last else f"it ended with {code}"
                return
            out.seek(0)
            result = _summary(orjson.loads(out.read()))
        job.digest = digest_of(job.files, job.sizes)
        job.result = result


def _summary(told: dict[str, Any]) -> dict[str, Any]:
    """Return what the page shows of a backtest's JSON."""
    now, proposed = told["ruleSets"]
    hours = [Counter(int(one["began"] // 3600) * 3600 for one in each["incidents"]) for each in (now, proposed)]
    known = sorted(hours[0].keys() | hours[1].keys())
    starts = range(known[0], known[-1] + 3600, 3600)[-MAX_HOURS:] if known else ()
    differences = proposed["differences"]
    return {
        "frames": told["frames"],
        "end": told["end"],
        "now": now["figures"],
        "proposed": proposed["figures"],
        "hours": [{"start": start, "now": hours[0][start], "proposed": hours[1][start]} for start in starts],
        "kinds": dict(Counter(one["kind"] for one in differences)),
        "differences": differences[:SHOWN],
        "left_out": max(len(differences) - SHOWN, 0),
        "spread": [{"field": FIELDS[name], "low": 0.0, **one} for name, one in told["spread"].items()],
    }


def digest_of(files: Sequence[Path], sizes: Sequence[int]) -> str:
    """Return the SHA-256 of the first bytes, as many as `sizes` says, of some files after one another."""
    digest = hashlib.sha256()
    for path, size in zip(files, sizes, strict=True):
        left = size
        with path.open("rb") as file:
            while left and (piece := file.read(min(left, 1 << 20))):
                digest.update(piece)
                left -= len(piece)
    return digest.hexdigest()
