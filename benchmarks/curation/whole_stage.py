"""The driver of one `curate` over answers (answered.py), which says what it cost:

python -m benchmarks.curation.whole_stage FOLDER GENERATED WORKERS
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.curation.programs import FIGURES, cpu_s, driver_mib, worker_mib
from engine.job.spec import CurateSpec, NearDuplicatesSpec
from engine.run.context import Context
from engine.run.manifests import Counts, FileEntry, finished
from engine.stages import curate

SPEC = CurateSpec(near_duplicates=NearDuplicatesSpec())  # as a job has it that says nothing more


def curated(folder: Path, generated: str, workers: int) -> dict[str, Any]:
    """What the stage makes of the answers in folder/generated, and what it cost this process and
    those that worked for it. What it made is gone afterwards."""
    inputs = {"prompts": finished(folder / "prompts"), "generate": finished(folder / generated)}
    out = folder / "curate"
    spec = SPEC.model_copy(update={"workers": workers})
    started = time.monotonic()
    cpu_before = cpu_s()
    counts = curate.run(spec, inputs, out, Context("made-up", "math", 0))
    cpu = cpu_s() - cpu_before
    shutil.rmtree(out)
    rows = inputs["generate"].manifest.rows_out
    return {
        "completions": rows,
        "generated": generated,
        "workers": workers,
        "funnel": counts.info.model_dump()["funnel"],
        "examples_sha256": _digest(counts),
        "wall_s": round(time.monotonic() - started, 1),
        "cpu_s": round(cpu, 1),
        "rows_per_core_second": round(rows / cpu),
        "driver_mib": driver_mib(),
        "worker_mib": worker_mib(),
    }


def _digest(counts: Counts) -> str:
    """Of all files of examples, their names and bytes."""
    digest = hashlib.sha256()
    for name, entry in sorted(counts.files.items()):
        if name.startswith("data/"):
            assert isinstance(entry, FileEntry)
            digest.update(f"{name} {entry.sha256}\n".encode())
    return digest.hexdigest()


def main() -> None:
    """Its figures go to `figures.json` in the folder."""
    folder = Path(sys.argv[1])
    figures = curated(folder, sys.argv[2], int(sys.argv[3]))
    (folder / FIGURES).write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
