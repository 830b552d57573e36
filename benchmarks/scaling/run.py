"""Tokens per second and memory of one and two workers and ZeRO stages 0 to 3. See README.md beside
this file."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.result import bounded, write_result
from benchmarks.training import task
from benchmarks.training.ours import train, whole_steps, write_curated
from engine.backends import ray_cluster
from engine.job.spec import TrainSpec
from engine.training.metrics import load_metrics

WARMUP, STEPS = 2, 6


def measure(work: Path, workers: int, zero_stage: int) -> dict[str, Any]:
    """One training run of the real stage: target tokens per second, and the most memory that rank 0
    held."""
    out = work / f"out-{workers}-{zero_stage}"
    spec = TrainSpec(
        student=str(work / "teacher"),
        precision="fp32",
        learning_rate=task.LEARNING_RATE,
        epochs=1,
        block_tokens=task.SEQUENCE,
        batch_size=4,
        global_batch=8,
        workers=workers,
        zero_stage=zero_stage,
        checkpoint_steps=10**6,
    )
    train(spec, work, work / "curated", out)
    rate, _ = whole_steps(out, WARMUP)
    lines = [line for line in load_metrics(out / "metrics.jsonl") if "loss" in line]
    return {
        "workers": workers,
        "zero_stage": zero_stage,
        "tokens_per_second": round(rate, 1),
        "memory_gib": round(lines[-1]["memory_gib"], 3),
        "first_loss": lines[0]["loss"],
        "last_loss": lines[-1]["loss"],
    }


def main() -> int:
    """Exit 1 if layouts of the same batches disagree in their losses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--zero", type=int, nargs="+", default=[0, 1, 2, 3])
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        task.make(work, examples=STEPS * task.STEP_TOKENS // 150)
        write_curated(
            work / "curated", work, json.loads((work / "examples.json").read_text()), None
        )
        with ray_cluster.connected(
            None, shared=work, num_cpus=max([*options.workers, os.cpu_count() or 1])
        ):
            for workers in options.workers:
                for stage in options.zero:
                    rows.append(row := measure(work, workers, stage))
                    figures = (
                        f"{row['tokens_per_second']:>8,.0f} tok/s  {row['memory_gib']:.2f} GiB"
                    )
                    print(f"workers {workers}  ZeRO {stage}  {figures}", flush=True)
    losses = [row["last_loss"] for row in rows]
    ratios = {
        "largest_relative_difference_of_last_losses": bounded(
            max(losses) / min(losses) - 1, "<=", 1e-4
        )
    }
    for row in rows[1:]:
        name = f"speed_{row['workers']}_workers_zero_{row['zero_stage']}"
        ratios[name] = bounded(
            round(row["tokens_per_second"] / rows[0]["tokens_per_second"], 3), ">=", 0.0
        )
    return write_result(options.json, ratios, rows=rows)


if __name__ == "__main__":
    sys.exit(main())
