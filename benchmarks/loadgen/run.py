"""Can the load test's verdict be trusted? See README.md beside this file."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.loadgen import coverage, knee, speed, truth
from benchmarks.loadgen.part import Result, Settings
from benchmarks.result import write_result

# by name: what it measures, one after the other
PARTS: dict[str, tuple[Callable[[Settings, Path], Result], ...]] = {
    "speed": (speed.against_others, speed.send_lag),
    "arrivals": (speed.arrivals,),
    "truth": (truth.unequal, truth.stall),
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
    ratios: dict[str, dict[str, Any]] = {}
    raw: dict[str, Any] = {}
    took_s: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="loadgen-") as temporary:
        for part in options.only:
            started = time.monotonic()
            for measure in PARTS[part]:
                found, seen = measure(settings, Path(temporary))
                ratios |= found
                raw |= seen
            took_s[part] = round(time.monotonic() - started, 1)
    more = {"settings": asdict(settings), "took_s": took_s, "raw": raw}
    return write_result(options.json, ratios, **more)


if __name__ == "__main__":
    sys.exit(main())
