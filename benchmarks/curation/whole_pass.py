"""The driver of one pass over files of texts (passes.py), which says what it cost:

python -m benchmarks.curation.whole_pass FOLDER WORKERS
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks.curation.passes import (
    Pass,
    candidates,
    decide,
    sign_all,
    verified,
)
from benchmarks.curation.programs import FIGURES, cpu_s, driver_mib
from engine.backends.spread import spread_for
from engine.curation.minhash import BANDS


def main() -> None:
    """Its figures go to `figures.json` in the folder."""
    folder, workers = Path(sys.argv[1]), int(sys.argv[2])
    started = time.monotonic()
    seconds = {}

    def lap(step: str) -> None:
        seconds[step] = round(time.monotonic() - started - sum(seconds.values()), 2)

    with spread_for(workers, BANDS) as spread:
        over = Pass(folder, spread)
        counts = sign_all(over)
        lap("sign")
        pairs = candidates(over)
        lap("bands")
        similar = verified(over, pairs, counts)
        lap("verify")
    outcome = decide(pairs, similar)
    lap("decide")
    figures = {
        "rows": sum(counts),
        "workers": workers,
        "candidates": len(pairs),
        "twins": outcome.twins,
        "rows_beside_components": outcome.beside_components,
        "wall_s": round(time.monotonic() - started, 2),
        "wall_by_step_s": seconds,
        "cpu_s": round(cpu_s(), 2),
        "driver_mib": driver_mib(),
    }
    (folder / FIGURES).write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
