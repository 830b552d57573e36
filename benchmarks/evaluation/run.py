"""Can the scores be believed? See README.md beside this file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.evaluation import answers, metrics, statistics
from benchmarks.result import Found, run_parts

PARTS: dict[str, Callable[..., Found]] = {
    "answers": answers.run,
    "metrics": metrics.run,
    "statistics": statistics.run,
}


def main() -> int:
    """Exit 1 if a ratio misses its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--data", type=Path, help="a folder of data sets; default: made-up golds")
    options = parser.parse_args()
    measured = PARTS | {"answers": partial(answers.run, options.data)}
    parts = {name: [measured[name]] for name in options.only}
    return run_parts(options.json, parts, data=_named(options.data))


def _named(data: Path | None) -> str:
    return "made up" if data is None else data.name


if __name__ == "__main__":
    sys.exit(main())
