"""Run the dataflow over recorded files, without a network, into a directory of results.

What only the delivery of callbacks needs is imported with it: it would take as long as a replay of a small file.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bytewax.run import cli_main

from connectors.errors import StateError, UsageError
from connectors.journal.recording import Progress, Recording, no_progress
from connectors.journal.source import RecordingSource, StoppedAt
from connectors.runtime.memory import collecting_rarely
from connectors.state.files import LOCK_NAME, make_private_dir, open_private, state_errors
from connectors.state.sinks import JsonLinesSink
from flows.analytics.merge import Counts
from flows.analytics.precedence import Overrides
from flows.commands.export import KINDS, Format, import_parquet, result_lines
from flows.commands.inputs import STDIN, readable_files
from flows.dataflow import CountsSink, Outputs, build, build_outputs

if TYPE_CHECKING:
    from connectors.callbacks.outbox import State
    from connectors.format.mapping import InputMap
    from flows.commands.deliver import ReplayDelivery
    from flows.commands.replay_team import ReplayTeam
    from flows.settings.models import Settings

__all__ = ["Replayed", "keep_freed_memory", "overrides_of", "place_text", "replay"]

PARTIAL = "PARTIAL"
RESULTS = ("windows", "groups", "alerts", "rejected")


@dataclass(frozen=True)
class Replayed:
    """Hold what a replay did, in how many seconds; `outbox` counts callbacks by their state, if any were to be sent.

    `refusal` says why nothing of the recording could be read, if nothing could.
    """

    counts: Counts
    elapsed_s: float
    out: Path
    outbox: dict[State, int] | None
    stopped_at: StoppedAt | None = None
    refusal: str | None = None


def replay(
    paths: Sequence[Path],
    out: Path,
    *,
    settings: Settings | None,
    environ: Mapping[str, str],
    speed: float | None,
    deliver: bool,
    processes: int = 1,
    stop: threading.Event,
    input_map: InputMap | None = None,
    file_format: Format = "jsonl",
    progress: Progress = no_progress,
) -> Replayed:
    """Replay recordings into files of windows, groups, alerts and rejected lines in `out`.

    `paths` may name directories, and standard input as `-`. `input_map` maps lines of another shape to frames.
    While it runs, and after it was stopped early or failed, the file `PARTIAL` in `out` says so. `settings` takes
    precedence over what is recorded. `processes` divide the conversations among them. `deliver` also sends the
    callbacks, from an outbox in `out`, and waits until they are delivered or dead, or for `stop`. Raises
    RecordingError, StateError, VoicewatchError if a process dies, ConfigurationError for a bad callback secret, and
    UsageError if `out` is the state directory of a run, a result would replace a recording, or pyarrow is missing.
    """
    if processes > 1 and speed is not None:
        raise UsageError("--speed: several processes replay as fast as they can; leave it out, or --processes")
    parquet = import_parquet() if file_format == "parquet" else None
    _refuse_state_dir(out)
    with readable_files(paths, out, input_map=input_map) as files:
        recording = Recording(files)
        _begin([path for path in {*paths, *files} if path != STDIN], out)
        replayed = _replay(
            recording,
            out,
            settings=settings,
            environ=environ,
            speed=speed,
            deliver=deliver,
            processes=processes,
            stop=stop,
            progress=progress,
        )
    if parquet is not None:
        _convert(out, parquet)
    if replayed.refusal is not None and input_map is not None:
        named = ", ".join(map(str, paths))
        reason = f"{named}: --input maps no line to a frame; rejected.jsonl in {out} says why of each"
        return replace(replayed, refusal=reason)
    return replayed


def _replay(
    recording: Recording,
    out: Path,
    *,
    settings: Settings | None,
    environ: Mapping[str, str],
    speed: float | None,
    deliver: bool,
    processes: int,
    stop: threading.Event,
    progress: Progress,
) -> Replayed:
    totals = CountsSink()
    keep_freed_memory()
    started = time.monotonic()
    with (
        collecting_rarely(),
        _reading(recording, settings, speed, processes, stop, progress) as source,
        _delivering(out, settings, environ) if deliver else nullcontext() as delivery,
    ):
        outputs = Outputs(
            **{name: JsonLinesSink(_result(out, name)) for name in RESULTS},
            counts=totals,
            **({} if delivery is None else {"callbacks": delivery.sink, "audit": _audit_sink(out)}),
        )
        notify = None if delivery is None else delivery.notifier.callbacks
        if isinstance(source, RecordingSource):
            flow = build(source, outputs, overrides=overrides_of(settings), notify=notify)
        else:
            flow = build_outputs(source, outputs, notify=notify)
        cli_main(flow)  # type: ignore[no-untyped-call]
        elapsed_s = time.monotonic() - started
        if source.failure is not None:
            raise source.failure
        _end(out, source.stopped_at)
        callbacks = None if delivery is None else delivery.finish(stop)
    counts = totals.total
    is_refused = counts.rejected and not counts.frames + counts.invalid + counts.ignored
    refusal = recording.refusal() if is_refused and source.stopped_at is None else None
    return Replayed(counts, elapsed_s, out, callbacks, source.stopped_at, refusal)


@contextmanager
def _reading(
    recording: Recording,
    settings: Settings | None,
    speed: float | None,
    processes: int,
    stop: threading.Event,
    progress: Progress,
) -> Iterator[RecordingSource | ReplayTeam]:
    """Provide the source of a replay: blocks of the recording, or reports of processes, which end with the block."""
    if processes == 1:
        yield RecordingSource(recording, speed=speed, stop=stop, progress=progress)
        return
    from flows.commands.replay_team import ReplayTeam

    team = ReplayTeam(recording, processes, overrides_of(settings), stop=stop, progress=progress)
    try:
        team.start()  # before delivery starts threads
        yield team
    finally:
        team.close()


def _convert(out: Path, parquet: Callable[[Iterator[bytes], Path, str], int]) -> None:
    """Put a Parquet file in the place of each file of results."""
    for kind in KINDS:
        lines, path = _result(out, kind), out / f"{kind}.parquet"
        with state_errors(f"writing {path}"):
            unfinished = path.with_suffix(".new")
            parquet((line for line, _ in result_lines(out, kind)), unfinished, kind)
            unfinished.replace(path)
            lines.unlink()


def _begin(paths: Sequence[Path], out: Path) -> None:
    """Make the directory of results, and mark them as partial. Raises UsageError."""
    with _advice_on_out(out):
        _refuse_to_lose(paths, out)
        make_private_dir(out)
        for kind in KINDS:
            (out / f"{kind}.parquet").unlink(missing_ok=True)
        _mark(out / PARTIAL, "These results are partial: the replay has not ended.")


@contextmanager
def _advice_on_out(out: Path) -> Iterator[None]:
    """Turn a StateError about `out`, whose advice names the directory of a run, into a UsageError."""
    try:
        with state_errors(f"looking into {out}"):
            yield
    except StateError as error:
        raise UsageError(str(error).replace("[state] dir", "--out")) from error


def _end(out: Path, stopped_at: StoppedAt | None) -> None:
    """Remove the mark of partial results, or write into it where the replay was stopped."""
    if stopped_at is not None:
        _mark(out / PARTIAL, f"These results are partial: the replay was interrupted at {place_text(stopped_at)}.")
        return
    with state_errors(f"removing {out / PARTIAL}"):
        (out / PARTIAL).unlink()


def place_text(place: StoppedAt) -> str:
    """Return where a replay was stopped, such as `2026-11-29T08:00:01.500Z, line 17 of a.jsonl`."""
    lines = f"line {place.lines} of {place.path}"
    if place.received_at is None:
        return lines
    at = datetime.fromtimestamp(place.received_at, UTC).isoformat(timespec="milliseconds")
    return f"{at.removesuffix('+00:00')}Z, {lines}"


def _mark(path: Path, text: str) -> None:
    fd = open_private(path, os.O_WRONLY | os.O_TRUNC)
    with state_errors(f"writing {path}"), os.fdopen(fd, "w") as file:
        file.write(f"{text}\n")


def _result(out: Path, name: str) -> Path:
    return out / f"{name}.jsonl"


def _refuse_state_dir(out: Path) -> None:
    """Raise UsageError if the results of a run would be written over."""
    with _advice_on_out(out):
        if (out / LOCK_NAME).exists():
            raise UsageError(
                f"{out} is the state directory of a run, whose results this would write over; choose another"
            )


def _refuse_to_lose(paths: Sequence[Path], out: Path) -> None:
    """Raise UsageError if a recording would be written over."""
    results = [path for path in (_result(out, name) for name in RESULTS) if path.exists()]
    for path in paths:
        if any(path.samefile(result) for result in results):
            raise UsageError(f"{path} would be written over by the results; choose another directory for them")


def overrides_of(settings: Settings | None) -> Overrides:
    """Return what a configuration given to a replay overrides: what stands in its tables, and no defaults."""
    if settings is None:
        return Overrides()
    watches = {
        interceptor.conversation_id: interceptor.model_dump(mode="json", include=set(interceptor.own) | {"leg_id"})
        for interceptor in settings.interceptors
    }
    feeds = {feed.name: feed.defaults.model_dump(mode="json", exclude_none=True) for feed in settings.feeds}
    defaults = settings.defaults.model_dump(mode="json", include=settings.defaults.model_fields_set, exclude_none=True)
    return Overrides(settings.override_record(), watches, feeds, defaults)


def _delivering(
    out: Path, settings: Settings | None, environ: Mapping[str, str]
) -> AbstractContextManager[ReplayDelivery]:
    from flows.commands.deliver import delivering

    return delivering(out, settings, environ)


def _audit_sink(out: Path) -> Any:
    from connectors.state.audit_sink import AuditSink

    return AuditSink(out / "audit.jsonl")


# From glibc's malloc.h.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 128 << 20
_LARGEST_MMAP_THRESHOLD: Final = 32 << 20


def keep_freed_memory() -> None:
    """Let the C library keep up to 128 MiB that were freed. Where it is not glibc, nothing happens.

    Otherwise every array of a block is a fresh mapping, whose pages the kernel clears one fault at a time: a fifth of
    the time of a replay.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
