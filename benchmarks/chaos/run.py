"""Kill what can be killed, fill the disk, wake old writers, and count rows. See README.md beside
this file."""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.chaos import faults
from benchmarks.result import bounded, write_result

Fault = tuple[str, int, Callable[[Path], faults.Outcome]]


def plan(seed: int, crash_runs: int, address: str | None) -> Iterator[Fault]:
    """(scenario, seed, what to call with a work folder); the seed alone decides what a call
    draws."""
    for number in range(crash_runs):
        own = seed + number
        name = faults.CRASH_POINTS[own % len(faults.CRASH_POINTS)]
        yield "crash_points", own, functools.partial(faults.crash_point, name=name, seed=own)
    many = {"seed": seed, "rows": 10_000}
    yield (
        "replica_kills",
        seed,
        functools.partial(faults.replica_kills, **many, kills=20, latency_s=0.6, gap_s=(5.0, 9.0)),
    )
    yield (
        "driver_kills",
        seed,
        functools.partial(faults.driver_kills, **many, kills=10, latency_s=0.2, address=address),
    )
    for own in range(seed, seed + 3):
        yield "late_writer", own, functools.partial(faults.late_writer, seed=own)
    yield "full_disk", seed, functools.partial(faults.full_disk, seed=seed)
    yield "misbehaving_api", seed, functools.partial(faults.misbehaving_api, seed=seed)


def main() -> int:
    """Exit 1 if a count is not what it must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crash-runs", type=int, default=100)
    parser.add_argument("--only", nargs="+", help="scenarios to run, by the names in README.md")
    options = parser.parse_args()
    import ray

    from engine.backends import ray_cluster

    seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory() as temporary,
        ray_cluster.connected(None, shared=Path(temporary), num_cpus=4),
    ):
        address = ray.get_runtime_context().gcs_address
        for number, (scenario, seed, call) in enumerate(
            plan(options.seed, options.crash_runs, address)
        ):
            if options.only and scenario not in options.only:
                continue
            print(f"{scenario} --seed {seed} …", flush=True)
            started = time.monotonic()
            outcome = call(Path(temporary) / str(number))
            found = {
                "seed": seed,
                "kills": outcome.kills,
                "second_run_calls": outcome.second_run_calls,
            } | asdict(outcome.verdict)
            seen[scenario].append(
                found | {"seconds": round(time.monotonic() - started, 1)} | outcome.facts
            )
            print(f"  {seen[scenario][-1]}", flush=True)
    return write_result(options.json, ratios(seen), scenarios=dict(seen), seed=options.seed)


def ratios(seen: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The bounded figures: sums over all runs; repeated calls over the scenarios whose fault is a
    kill."""
    every = [run for runs in seen.values() for run in runs]
    killed = [
        run
        for name in ("crash_points", "replica_kills", "driver_kills")
        for run in seen.get(name, [])
    ]
    zeros = {
        "lost": "lost",
        "duplicated": "duplicated",
        "torn": "torn",
        "wrong": "wrong",
        "second_run_calls": "second_run_calls",
    }
    found = {name: bounded(sum(run[key] for run in every), "<=", 0) for name, key in zeros.items()}
    if killed:
        again, in_flight = (sum(run[key] for run in killed) for key in ("regenerated", "in_flight"))
        found["regenerated_ratio"] = bounded(round(again / max(1, in_flight), 4), "<=", 1.1)
        found["regenerated_committed"] = bounded(
            sum(run["regenerated_committed"] for run in killed), "<=", 0
        )
        found["regenerated_old"] = bounded(sum(run["regenerated_old"] for run in killed), "<=", 0)
    if late := seen.get("late_writer"):
        found["late_records"] = bounded(
            sum(run["unlisted_records"] for run in late), ">=", 1
        )  # else nothing was late
    for run in seen.get("misbehaving_api", []):
        found["api_requests_per_row"] = bounded(round(run["requests"] / run["rows"], 3), "<=", 1.6)
    return found


if __name__ == "__main__":
    sys.exit(main())
