"""The `voicewatch` command. A health probe, which runs every few seconds, never waits for the import of the rest."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; exit with its code."""
    if (unfit := _unfit()) is not None:
        print(f"voicewatch: {unfit}", file=sys.stderr)
        sys.exit(2)
    arguments = sys.argv[1:]
    if arguments[:1] == ["probe"] and "--help" not in arguments:
        from connectors.runtime import probe

        sys.exit(probe.main(arguments[1:], os.environ))
    from flows.cli import main as command_line

    command_line()


def _unfit() -> str | None:
    """Return why the program cannot run here; None if it can. An older Python must be able to compile this module."""
    platform = sys.platform
    if platform == "win32":
        return "runs on Linux and macOS; on Windows, use WSL or the container image"
    newest = tuple(sys.version_info[:2])
    if (3, 11) <= newest <= (3, 12):
        return None
    reason = "Bytewax has no wheel for it" if newest > (3, 12) else "it is too old"
    return (
        f"needs Python 3.11 or 3.12, this is {newest[0]}.{newest[1]}: {reason}; "
        "install it with `uv tool install --python 3.12 voicewatch`"
    )


if __name__ == "__main__":
    main()
