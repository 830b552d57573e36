"""What the driver holds of so many rows: band keys are drawn, as close as those of the corpus, and
so are Jaccards; no text is made.

    python -m benchmarks.curation.narrow FOLDER WORKERS ROWS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.curation.passes import Pass, candidates, decide
from benchmarks.curation.programs import FIGURES, driver_mib
from engine.backends.spread import spread_for
from engine.curation.minhash import BANDS

PER_FILE = 100_000
COPIES = 0.12  # of rows: as in the corpus, one in eight rows is a candidate
SHARED = 0.5  # of a copy's keys


def draw_keys(folder: Path, rows: int) -> None:
    """Files of keys (BANDS, rows): some rows have keys of a row of the same file."""
    folder.mkdir()
    for file, first in enumerate(range(0, rows, PER_FILE)):
        draw = np.random.default_rng(file)
        count = min(PER_FILE, rows - first)
        keys = draw.integers(1, 2**64, size=(BANDS, count), dtype=np.uint64)
        copies, of = draw.integers(count, size=(2, int(COPIES * count)))
        is_shared = draw.random((BANDS, len(copies))) < SHARED
        keys[:, copies] = np.where(is_shared, keys[:, of], keys[:, copies])
        np.save(folder / f"{file:05d}.npy", keys)


def main() -> None:
    """The driver's memory goes to `figures.json` in the folder."""
    folder, workers, rows = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    with spread_for(workers, BANDS) as spread:
        pairs = candidates(Pass(folder, spread))
    similar = np.random.default_rng(0).random(len(pairs))
    outcome = decide(pairs, similar)
    figures = {
        "rows": rows,
        "candidates": len(pairs),
        "twins": outcome.twins,
        "driver_mib": driver_mib(),
    }
    (folder / FIGURES).write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
