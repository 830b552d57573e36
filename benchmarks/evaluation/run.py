"""Can the scores be believed? See README.md beside this file."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.evaluation import answers, metrics, statistics
from benchmarks.result import write_result

Result = tuple[dict[str, dict[str, Any]], dict[str, Any]]  # ratios, raw figures
PARTS: dict[str, Callable[..., Result]] = {
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
    settings: dict[str, dict[str, Any]] = {"answers": {"data": options.data}}
    ratios: dict[str, dict[str, Any]] = {}
    raw: dict[str, Any] = {}
    took_s: dict[str, float] = {}
    for part in options.only:
        started = time.monotonic()
        found, figures = PARTS[part](**settings.get(part, {}))
        ratios |= found
        raw[part] = figures
        took_s[part] = round(time.monotonic() - started, 1)
    return write_result(options.json, ratios, took_s=took_s, raw=raw)


if __name__ == "__main__":
    sys.exit(main())
