"""Does `distill serve` keep the speed of vLLM's own API server? See README.md beside this file."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.result import Found, run_parts
from benchmarks.serving import ingress, speed
from benchmarks.serving.speed import Timing

# Short runs and many: a shared machine changes by a tenth and more from one five seconds to the
# next, which falls on both of a pair that lie close together.
ROUNDS, SECONDS = 12, 2.0
FULL_SECONDS = 15.0
CLOSER_S = 800.0
PARTS: dict[str, tuple[Callable[[Timing, Path], Found], ...]] = {
    "speed": (speed.run,),
    "ingress": (ingress.added_latency, ingress.two_replicas),
    "overload": (ingress.overload,),
}


def main() -> int:
    """Exit 1 if a ratio misses its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--full", action="store_true", help=f"runs of {FULL_SECONDS:g} s")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    help_closer = f"at most, of more rounds where those leave it open; default: {CLOSER_S:g}"
    parser.add_argument("--closer", type=float, default=CLOSER_S, metavar="S", help=help_closer)
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--seconds", type=float, help=f"of each run; default: {SECONDS:g}")
    names = [load.name for load in speed.closed_loads()]
    help_loads = "a closer look: of `speed` only these, beside vLLM's server"
    parser.add_argument("--loads", nargs="+", default=[], choices=names, help=help_loads)
    options = parser.parse_args()
    usual = FULL_SECONDS if options.full else SECONDS
    timing = Timing(
        options.rounds,
        options.seconds or usual,
        loads=tuple(options.loads),
        closer_s=options.closer,
    )
    settings = {
        "rounds": timing.rounds,
        "seconds": timing.seconds,
        "warmup_s": timing.warmup_s,
        "closer_s": timing.closer_s,
    }
    with tempfile.TemporaryDirectory(prefix="serving-") as temporary:
        parts = {}
        for name in options.only:
            parts[name] = [partial(part, timing, Path(temporary)) for part in PARTS[name]]
        return run_parts(options.json, parts, settings=settings)


if __name__ == "__main__":
    sys.exit(main())
