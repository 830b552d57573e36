"""Is the knee of a simulated server found? Three laws of service, and each seed a search of its
own."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.loadgen.part import Settings
from benchmarks.loadgen.simulated import (
    LAWS,
    Server,
    run_open,
    run_users,
    true_knee_rps,
    true_knee_users,
)
from benchmarks.result import Found, Ratios, bounded
from engine.loadgen.samples import Level
from engine.stages.loadtest.goodput import Slo
from engine.stages.loadtest.knee import Knee, Trial, search, trial_of

SEEDS = 20
WINDOW_S, WARMUP_S = 60.0, 5.0
PLACES, SERVICE_S, PREFILL_S = 64, 0.2, 0.012
TTFT_MS = 120.0
THINK_S = 1.0
WITHIN = 0.05
TRUTH_REQUESTS = 2_000_000
TRUTH_USERS_S = 2000.0
LevelAt = Callable[[float, int], Level]  # load and seed


def knee_rps(
    settings: Settings, work: Path, seeds: int = SEEDS, requests: int = TRUTH_REQUESTS
) -> Found:
    """Requests per second at which 95 % get their first token in time, and 99 %."""
    ratios = {}
    raw = {}
    for percentile in (95, 99):
        slo = Slo(ttft_ms=TTFT_MS, percentile=percentile)
        rows = []
        for law in LAWS:
            server = Server(law, PLACES, SERVICE_S, PREFILL_S)
            truth = true_knee_rps(server, slo, requests)

            def level_at(load: float, seed: int, server: Server = server) -> Level:
                return run_open(server, load, WINDOW_S, WARMUP_S, seed)

            found = _searches(level_at, slo, truth, seeds, whole=False)
            found["of_capacity"] = round(truth / server.capacity_rps, 4)
            raw[f"p{percentile}_{law}"] = found
            rows.append(found)
            print(f"knee p{percentile} {law} {_said(found)}", flush=True)
        ratios |= _ratios(f"knee_p{percentile}", rows)
    return ratios, {"knee_rps": raw}


def knee_users(
    settings: Settings, work: Path, seeds: int = SEEDS, truth_s: float = TRUTH_USERS_S
) -> Found:
    """The same in users who think between two questions, at 95 %."""
    slo = Slo(ttft_ms=TTFT_MS, percentile=95)
    server = Server("exponential", PLACES, SERVICE_S, PREFILL_S)
    truth = true_knee_users(server, THINK_S, slo, truth_s)

    def level_at(load: float, seed: int) -> Level:
        return run_users(server, round(load), THINK_S, WINDOW_S, WARMUP_S, seed)

    found = _searches(level_at, slo, truth, seeds, whole=True)
    print(f"knee users {_said(found)}", flush=True)
    return _ratios("knee_users", [found]), {"knee_users": found}


def _searches(
    level_at: LevelAt, slo: Slo, truth: float, seeds: int, *, whole: bool
) -> dict[str, Any]:
    rows = []
    for seed in range(seeds):
        rows.append(_row(_search(level_at, slo, seed, whole=whole), truth))
    return {"truth": truth, "searches": rows}


def _search(level_at: LevelAt, slo: Slo, seed: int, *, whole: bool) -> Knee:
    asked: list[float] = []

    def measure(load: float) -> Trial:
        asked.append(load)
        return trial_of(load, level_at(load, 1000 * seed + len(asked)), slo)

    return search(measure, slo, whole=whole)


def _row(knee: Knee, truth: float) -> dict[str, Any]:
    error = 1.0 if knee.load is None else knee.load / truth - 1
    return {
        "knee": knee.load,
        "interval": [knee.interval.low, knee.interval.high],
        "error": round(error, 5),
        "levels": len(knee.trials),
        "decided": knee.decided,
        "held": bool(knee.interval.holds(truth)),
    }


def _ratios(name: str, found: list[dict[str, Any]]) -> Ratios:
    rows = [row for each in found for row in each["searches"]]
    errors = [abs(row["error"]) for row in rows]
    near = sum(error <= WITHIN for error in errors) / len(errors)
    held = sum(row["held"] for row in rows) / len(rows)
    return {
        f"{name}_within_5_percent": bounded(round(near, 4), ">=", 1.0),
        f"{name}_worst_error": bounded(max(errors), "<=", WITHIN),
        f"{name}_most_levels": bounded(max(row["levels"] for row in rows), "<=", 12),
        f"{name}_interval_held": bounded(round(held, 4), ">=", 0.0),
    }


def _said(found: dict[str, Any]) -> str:
    errors = [row["error"] for row in found["searches"]]
    levels = statistics.mean(row["levels"] for row in found["searches"])
    worst = max(map(abs, errors))
    return f"truth {found['truth']:.2f}, worst error {worst:.3f}, {levels:.1f} levels"
