"""Is what is kept worth learning from? See README.md beside this file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.curation import helps
from benchmarks.result import Found, run_parts

PARTS: dict[str, Callable[[argparse.Namespace], Found]] = {
    "help": helps.run,
}
LONG = ("help",)  # parts that only --full, or their name, starts


def main() -> int:
    """Exit 1 if a ratio misses its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=PARTS)
    parser.add_argument("--full", action="store_true", help="every part, at its whole size")
    parser.add_argument("--data", type=Path, help="a folder of data sets")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/curation"),
        help="what is made here is taken from here the next time",
    )
    smaller = parser.add_argument_group("a smaller form of `help`")
    smaller.add_argument("--prompts", type=int, default=helps.PROMPTS)
    smaller.add_argument("--epochs", type=int, default=helps.EPOCHS)
    smaller.add_argument("--seeds", type=int, nargs="+", default=list(helps.SEEDS))
    options = parser.parse_args()
    chosen = options.only or [name for name in PARTS if options.full or name not in LONG]
    parts = {name: [partial(PARTS[name], options)] for name in chosen}
    return run_parts(options.json, parts)


if __name__ == "__main__":
    sys.exit(main())
