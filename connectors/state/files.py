"""Create, lock, replace and probe the private files of a state directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

from connectors.errors import StateError, UnusableStateError, VoicewatchError
from connectors.runtime.logs import get_logger

__all__ = [
    "LOCK_NAME",
    "StateLock",
    "check_writable",
    "last_line",
    "lasting_state_errors",
    "lock_holder",
    "logged_failures",
    "make_private_dir",
    "open_private",
    "replace_durably",
    "state_errors",
    "sync_directory",
    "write_all",
]

# Of the lock in a state directory; it stays when the run that held it has ended.
LOCK_NAME: Final = "lock"
_TAIL_BYTES: Final = 1 << 16
_LASTING: Final = {
    errno.EACCES, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EROFS
}  # fmt: skip
_REMEDIES = {
    errno.EACCES: "give the user that runs voicewatch write permission, or choose another [state] dir",
    errno.EPERM: "give the user that runs voicewatch write permission, or choose another [state] dir",
    errno.EROFS: "the file system is mounted read-only; choose a [state] dir on a writable one",
    errno.ENOSPC: "free some space, or choose a [state] dir on another disk",
    errno.EDQUOT: "the disk quota is used up; free some space or raise the quota",
    errno.ENOTDIR: "a part of the path is a file; move it away or choose another [state] dir",
    errno.EEXIST: "there is a file where the directory should be; move it away or choose another [state] dir",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


@contextlib.contextmanager
def state_errors(doing: str) -> Iterator[None]:
    """Turn an OSError inside into a StateError that says what was being done and how to fix the cause."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "check the disk and the path")
        raise StateError(f"{doing} failed: {error.strerror or error}; {remedy}") from error


@contextlib.contextmanager
def lasting_state_errors() -> Iterator[None]:
    """Turn a StateError inside into an UnusableStateError if it is about the path or its permissions, not the disk."""
    try:
        yield
    except StateError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _LASTING:
            raise UnusableStateError(str(error)) from error.__cause__
        raise


@contextlib.contextmanager
def logged_failures(event: str, **fields: object) -> Iterator[None]:
    """Log an exception that passes through: in a cluster Bytewax hides the text of what a connector raised."""
    try:
        yield
    except VoicewatchError as error:  # which says itself what happened
        get_logger(__name__).error(event, error=str(error), **fields)
        raise
    except Exception:
        get_logger(__name__).exception(event, **fields)
        raise


def make_private_dir(path: Path) -> None:
    """Create `path` and its missing parents, readable by the owner alone (0700). Raises StateError.

    A directory that exists keeps its mode: it may have been shared on purpose.
    """
    with state_errors(f"creating the directory {path}"):
        missing = [p for p in (path, *path.parents) if not p.exists()]
        for directory in reversed(missing):
            with contextlib.suppress(FileExistsError):
                directory.mkdir(mode=0o700)
        if not path.is_dir():
            raise FileExistsError(errno.EEXIST, "not a directory", str(path))


def open_private(path: Path, flags: int) -> int:
    """Open `path` with `flags`, creating it readable and writable by the owner alone (0600). Raises StateError."""
    with state_errors(f"opening {path}"):
        return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, in one call unless the kernel takes less. Raises OSError."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def replace_durably(path: Path, write: Callable[[int], None]) -> int:
    """Put a new private file in the place of `path`, and return its descriptor, which is open for writing.

    `write` fills it under another name, `path` with `.new` behind it. It gets its own name when its bytes are on the
    disk, and so is the name on return: a crash leaves the old file or the new one, whole. Raises OSError, StateError.
    """
    unnamed = path.with_name(path.name + ".new")
    unnamed.unlink(missing_ok=True)  # left by a crash, perhaps with another mode
    descriptor = open_private(unnamed, os.O_WRONLY | os.O_EXCL)
    try:
        write(descriptor)
        os.fsync(descriptor)
        unnamed.replace(path)
        sync_directory(path.parent)
    except BaseException:
        os.close(descriptor)
        unnamed.unlink(missing_ok=True)  # a full disk is not to stay full because of it
        raise
    return descriptor


def sync_directory(directory: Path) -> None:
    """Bring the names in a directory to the disk. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def last_line(fd: int, size: int) -> tuple[int, bytes]:
    """Return where the last line of a file of `size` bytes begins, and the line, with its newline if it has one."""
    pieces: list[bytes] = []
    begin = size
    while begin > 0:
        step = min(_TAIL_BYTES, begin)
        begin -= step
        piece = os.pread(fd, step, begin)
        cut = piece.rfind(b"\n", 0, len(piece) if pieces else len(piece) - 1) + 1
        pieces.append(piece[cut:])
        if cut:
            return begin + cut, b"".join(reversed(pieces))
    return 0, b"".join(reversed(pieces))


def check_writable(directory: Path, *, need_bytes: int = 64 * 1024 * 1024) -> None:
    """Prove that `directory` can hold state: create it (0700), write and sync a file in it, look at the space.

    Raises StateError that names the cause and the fix, before anything else was started.
    """
    import tempfile

    make_private_dir(directory)
    with state_errors(f"writing a test file in {directory}"):
        # No tempfile.TemporaryFile: it may use O_TMPFILE, which proves nothing about creating a name.
        fd, probe = tempfile.mkstemp(prefix=".probe-", dir=directory)
        try:
            write_all(fd, b"voicewatch\n" * 400)
            os.fsync(fd)
        finally:
            os.close(fd)
            Path(probe).unlink()
        free = shutil.disk_usage(directory).free
    if free < need_bytes:
        raise StateError(
            f"{directory} has {free // 2**20} MiB left and {-(-need_bytes // 2**20)} MiB are needed; "
            "free some space, or choose a [state] dir on another disk"
        )


def lock_holder(path: Path) -> str | None:
    """Return the id of the process that holds a state directory's lock; None if it is free. Raise StateError."""
    with state_errors(f"reading {path}"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return None if _locked(fd, fcntl.LOCK_SH, attempts=1) else _holder(fd)
        finally:
            os.close(fd)


def _locked(fd: int, kind: int, *, attempts: int = 5) -> bool:
    """Lock a file; return whether it could be. `lock_holder` of another process holds it for microseconds."""
    for attempt in range(attempts):
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt + 1 < attempts:
                time.sleep(0.01)
        else:
            return True
    return False


def _holder(fd: int) -> str:
    return os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"


class StateLock:
    """The right to use a state directory: an flock on `path`, which the kernel drops when the process dies.

    `acquire` raises StateError naming the process that holds it. Usable as a context manager.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock and write this process' id into the file, or raise StateError at once."""
        make_private_dir(self._path.parent)
        fd = open_private(self._path, os.O_RDWR)
        if not _locked(fd, fcntl.LOCK_EX):
            holder = _holder(fd)
            os.close(fd)
            raise StateError(
                f"{self._path.parent} is in use by another voicewatch (process {holder}); "
                "stop that one, or give this one a separate [state] dir"
            )
        with state_errors(f"writing {self._path}"):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Let go of the lock; the file stays. Harmless when it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> StateLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
