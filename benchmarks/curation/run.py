"""Does curation find what it says, at what cost, and does it help? See README.md beside this
file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.curation import helps, near_duplicates, splits, stage
from benchmarks.curation.contamination import contamination
from benchmarks.curation.pii import pii
from benchmarks.result import Found, run_parts


def _accuracy(options: argparse.Namespace) -> Found:
    return near_duplicates.accuracy(near_duplicates.base_texts(options.data))


def _signatures(options: argparse.Namespace) -> Found:
    return near_duplicates.signatures(
        near_duplicates.base_texts(options.data), options.environments
    )


def _whole_pass(options: argparse.Namespace) -> Found:
    return near_duplicates.whole_pass(near_duplicates.base_texts(options.data), options.full)


def _driver_memory(options: argparse.Namespace) -> Found:
    return near_duplicates.driver_memory()


def _contamination(options: argparse.Namespace) -> Found:
    return contamination(options.data)


def _pii(options: argparse.Namespace) -> Found:
    return pii(options.data)


PARTS: dict[str, Callable[[argparse.Namespace], Found]] = {
    "accuracy": _accuracy,
    "signatures": _signatures,
    "whole_pass": _whole_pass,
    "driver_memory": _driver_memory,
    "stage": stage.run,
    "contamination": _contamination,
    "pii": _pii,
    "splits": splits.run,
    "help": helps.run,
}
LONG = ("help",)  # about an hour: with --full, or by its name


def main() -> int:
    """Exit 1 if a ratio misses its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=PARTS)
    parser.add_argument("--data", type=Path, help="a folder of data sets; default: made-up texts")
    parser.add_argument(
        "--environments", type=Path, help="of the peers, made where missing; default: temporary"
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="ten million rows with texts as well, and the long parts",
    )
    helps.add_options(parser)
    options = parser.parse_args()
    parts = {}
    for name in options.only or [name for name in PARTS if options.full or name not in LONG]:
        parts[name] = [partial(PARTS[name], options)]
    return run_parts(options.json, parts, data=_named(options.data))


def _named(data: Path | None) -> str:
    return "made up" if data is None else data.name


if __name__ == "__main__":
    sys.exit(main())
