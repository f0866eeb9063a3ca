"""The `voicewatch` command. A health probe, which runs every few seconds, never waits for the import of the rest."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; exit with its code."""
    if sys.version_info >= (3, 13):
        version = ".".join(map(str, sys.version_info[:2]))
        print(
            f"voicewatch: needs Python 3.11 or 3.12, this is {version}: Bytewax has no wheel for it; "
            "install it with `uv tool install --python 3.12 voicewatch`",
            file=sys.stderr,
        )
        sys.exit(2)
    arguments = sys.argv[1:]
    if arguments[:1] == ["probe"] and "--help" not in arguments:
        from connectors.runtime import probe

        sys.exit(probe.main(arguments[1:], os.environ))
    from flows.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
