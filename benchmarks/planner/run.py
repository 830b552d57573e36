"""How far is `distill plan` off? Predicted against published rates of generation. See README.md
beside this file."""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.planner.fit import fitted, without
from benchmarks.planner.points import Point, Summary, read_points, summarised
from benchmarks.result import bounded, write_result
from engine.machines.replica import EFFICIENCIES

HERE = Path(__file__).parent
POINTS = HERE / "points.csv"
OTHERS = HERE / "others.csv"
JOB = HERE.parents[1] / "jobs" / "deepseek-v3-to-phi-4-mini.yaml"
CLUSTER = HERE.parents[1] / "clusters" / "kuberay-rayjob.yaml"
PLAN_SECONDS = 1.0
PLAN_RUNS = 9


def ratios_of(name: str, seen: Summary, mean: tuple[float, float], near: float) -> dict[str, Any]:
    """The bounds of one set of points."""
    return {
        f"{name} geometric mean, least": bounded(seen.geometric_mean, ">=", mean[0]),
        f"{name} geometric mean, most": bounded(seen.geometric_mean, "<=", mean[1]),
        f"{name} within 35 %": bounded(seen.within_35, ">=", near),
    }


def left_out(points: Sequence[Point], every: int = 1) -> dict[str, list[float]]:
    """By family, the errors on its points of efficiencies that were fitted to all others, or to
    each `every`th point of them."""
    errors = {}
    for family in sorted({point.family for point in points}):
        found = without(points[::every], family)
        errors[family] = [point.error(found) for point in points if point.family == family]
    return errors


def by_group(points: Sequence[Point]) -> dict[str, dict[str, float]]:
    """Summaries by model, accelerator and layout."""
    groups = defaultdict(list)
    for point in points:
        split = point.replica.split
        name = (
            f"{point.family} {point.gpu} tp{split.tensor} pp{split.pipeline} dp{split.data},"
            f" {point.source}"
        )
        groups[name].append(point.error())
    return {name: rounded(summarised(errors)) for name, errors in sorted(groups.items())}


def rounded(seen: Summary) -> dict[str, float]:
    """A summary as JSON."""
    return {name: round(value, 3) for name, value in dataclasses.asdict(seen).items()}


def seconds_of_plan() -> tuple[float, float]:
    """CPU and wall seconds of `distill plan` on a cluster file, in a process of its own, imports
    included: medians of PLAN_RUNS, with modules compiled before, as an installation has them. It
    has one thread, so on an idle machine both are one."""
    command = [sys.executable, "-m", "engine.cli", "plan", str(JOB), "--cluster", str(CLUSTER)]
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    cpus = []
    walls = []
    with tempfile.TemporaryDirectory() as compiled:
        environment["PYTHONPYCACHEPREFIX"] = compiled
        for _ in range(1 + PLAN_RUNS):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=environment)
            walls.append(time.perf_counter() - started)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(cpus[1:]), statistics.median(walls[1:])


def main() -> int:
    """Exit 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument(
        "--points", type=Path, help="Try these points only, with the frozen efficiencies."
    )
    options = parser.parse_args()
    if options.points:
        points = read_points(options.points)
        seen = summarised(point.error() for point in points)
        ratios = ratios_of("tried", seen, (0.85, 1.15), 0.70)
        return write_result(options.json, ratios, tried=rounded(seen), groups=by_group(points))
    points = read_points(POINTS)
    others = read_points(OTHERS)
    frozen = summarised(point.error() for point in points)
    unseen = summarised(point.error() for point in others)
    families = left_out(points)
    lofo = summarised(error for errors in families.values() for error in errors)
    ratios = ratios_of("frozen", frozen, (0.95, 1.05), 0.88)
    ratios |= ratios_of("one family left out", lofo, (0.9, 1.1), 0.85)
    ratios["one family left out, worst factor"] = bounded(lofo.worst_factor, "<=", 2.5)
    ratios |= ratios_of("not fitted", unseen, (0.85, 1.15), 0.70)
    cpu, wall = seconds_of_plan()
    ratios["CPU seconds of distill plan"] = bounded(cpu, "<=", PLAN_SECONDS)
    return write_result(
        options.json,
        ratios,
        wall_seconds_of_plan=wall,
        efficiencies=dataclasses.asdict(EFFICIENCIES),
        fitted=dataclasses.asdict(fitted(points)),
        frozen=rounded(frozen),
        left_out={name: rounded(summarised(errors)) for name, errors in families.items()},
        not_fitted=rounded(unseen),
        groups=by_group([*points, *others]),
    )


if __name__ == "__main__":
    raise SystemExit(main())
