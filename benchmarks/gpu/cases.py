"""The jobs whose first stages a pack holds: what they are here, and where their finished stages
lie."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import pipeline
from engine.job.jobfile import load_job
from engine.job.spec import JobSpec

CHECKOUT = Path(__file__).parents[2]
# in the pack: of each job its file (in the checkout) and settings, and further ones by device
JOBS = "jobs.json"


@dataclass(frozen=True)
class Case:
    """A job and the settings that make it from its file."""

    file: Path
    sets: list[str]
    job: JobSpec
    runs: Path

    def folder(self, stage: str) -> Path:
        """A finished stage. RuntimeError if the pack lacks it, for instance because this checkout
        names it otherwise."""
        plans = {plan.stage: plan for plan in pipeline.plan(self.job, self.runs)}
        if plans[stage].state != "reuse":
            raise RuntimeError(
                f"{stage} of job '{self.job.name}' is not finished in {self.runs}; make the pack"
                " anew with this checkout"
            )
        return plans[stage].folder


def arguments(description: str | None) -> argparse.Namespace:
    """What run.py tells a part that works on a copy of the pack's runs."""
    parser = argparse.ArgumentParser(description=description)
    for name in ("pack", "runs", "result"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "gpu"), required=True)
    return parser.parse_args()


def load_case(
    pack: Path,
    name: str,
    device: str,
    fields: Mapping[str, Any] | None = None,
    runs: Path | None = None,
) -> Case:
    """One job of the pack on this device, with further fields; its runs are in the pack, or in a
    copy of them."""
    entry = json.loads((pack / JOBS).read_text())[name]
    more = {"device": device, **(fields or {})}
    sets = [
        *entry["sets"],
        *entry.get(device, []),
        *(f"{field}={json.dumps(value)}" for field, value in more.items()),
    ]
    file = CHECKOUT / entry["job"]
    return Case(file, sets, load_job(file, sets), runs or pack / "runs")
