"""`python -m tests.soak`: run, print the table, exit 1 if a promise was broken."""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
from pathlib import Path

import structlog

from tests.soak.story import soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="The whole job under random faults.")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long calls go on (default 600)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed plans the same faults (default 1)")
    parser.add_argument("--keep", type=Path, help="leave the state directory and the logs here")
    options = parser.parse_args()
    if options.seconds < 5:
        parser.error("--seconds must be 5 or more")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    print(f"Soaking for {options.seconds:g} seconds, seed {options.seed} ...", file=sys.stderr)
    place = options.keep or Path(tempfile.mkdtemp(prefix="voicewatch-soak-"))
    place.mkdir(parents=True, exist_ok=True)
    verdict = soak(place, options.seconds, options.seed, say=lambda line: print(line, file=sys.stderr, flush=True))
    print(verdict.table())
    for broken in verdict.broken:
        print(f"BROKEN: {broken}")
    if verdict.broken:
        print(f"The state and the logs are in {place}", file=sys.stderr)
    elif options.keep is None:
        shutil.rmtree(place)
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    sys.exit(main())
