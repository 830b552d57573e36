"""Can the load test's verdict be trusted? See README.md beside this file."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.loadgen import coverage, endpoint, knee, speed, truth
from benchmarks.loadgen.part import Settings
from benchmarks.result import Found, run_parts

# by name: what it measures, one after the other
PARTS: dict[str, tuple[Callable[[Settings, Path], Found], ...]] = {
    "speed": (speed.against_others, speed.send_lag),
    "arrivals": (speed.arrivals,),
    "truth": (truth.unequal, truth.stall),
    "endpoint": (endpoint.endpoint,),
    "coverage": (coverage.coverage,),
    "knee": (knee.knee_rps, knee.knee_users),
}


def main() -> int:
    """Exit 1 if a ratio misses its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    options = parser.parse_args()
    settings = Settings(options.rounds, options.seconds)
    with tempfile.TemporaryDirectory(prefix="loadgen-") as temporary:
        parts = {}
        for name in options.only:
            parts[name] = [partial(part, settings, Path(temporary)) for part in PARTS[name]]
        return run_parts(options.json, parts, settings=asdict(settings))


if __name__ == "__main__":
    sys.exit(main())
