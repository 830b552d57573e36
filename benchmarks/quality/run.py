"""Which loss makes the best student of the quickstart's teacher, from 500 and from 3,000 prompts?
See README.md beside this file."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import engine
from benchmarks.result import bounded, write_result
from engine.backends import ray_cluster
from engine.job.jobfile import load_job
from engine.rows.tables import read_tables

REPOSITORY = Path(__file__).parents[2]
LOSSES = ("sft", "forward_kl", "reverse_kl", "jsd")
EPOCHS = {500: 96, 3000: 16}  # equal products: every student learns from as many tokens
# The quickstart's own when the tables of README.md, and curation's of what selection helps, were
# made: with others they would not be the same experiment.
STEPS = {"train.learning_rate": 4e-3, "train.batch_size": 8}
SEEDS = (0, 1, 2)
LEAST_RETENTION = 0.92
DRAWS = 10_000


def cell(seed: int, prompts: int, loss: str) -> Any:
    """The quickstart with this seed, this many training prompts and this loss; nothing else
    differs."""
    sets = {
        "name": f"quality-{prompts}-{seed}",
        "seed": seed,
        "prompts.limit": prompts,
        "train.loss": loss,
        "train.epochs": EPOCHS[prompts],
        **STEPS,
        "evaluate.baseline": "false",
    }
    return load_job(
        REPOSITORY / "jobs/quickstart.yaml", [f"{field}={value}" for field, value in sets.items()]
    )


def run_cell(job: Any, work: Path) -> dict[str, Any]:
    """Distil (stages that WORK holds already are reused) and read the scores: right (N,) per model,
    in the order of prompt ids."""
    done = engine.run(job, work, until="evaluate")
    (table,) = read_tables([done.folders["evaluate"] / "data/answers.parquet"])
    scores = {"teacher": {}, "student": {}}
    for row in table.select(["prompt_id", "model", "scores"]).to_pylist():
        scores[row["model"]][row["prompt_id"]] = json.loads(row["scores"])["exact_match"]
    info = done.manifests["train"].info
    right = {model: [found[key] for key in sorted(found)] for model, found in scores.items()}
    return {
        "tokens": info.tokens,
        "final_loss": info.final_loss,
        "validation_loss": info.validation_loss,
        **right,
    }


def interval(right_SN: np.ndarray, other_SN: np.ndarray | None = None) -> list[float]:
    """95 % bootstrap interval of the mean, seeds and prompts both drawn again; or of its difference
    to another's on the same draws."""
    draws = np.random.default_rng(0)
    values_SN = right_SN if other_SN is None else right_SN - other_SN
    seeds, prompts = values_SN.shape
    found = []
    for _ in range(DRAWS):
        weights = np.bincount(draws.integers(prompts, size=prompts), minlength=prompts) / prompts
        found.append((values_SN[draws.integers(seeds, size=seeds)] @ weights).mean())
    return np.percentile(found, [2.5, 97.5]).round(4).tolist()


def summarise(cells: dict[tuple[int, int, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per number of prompts and loss: the mean with its interval, each seed's, retention,
    and the difference to sft."""
    rows = []
    for prompts in sorted({key[1] for key in cells}):
        right = {
            loss: np.array(
                [
                    cells[seed, prompts, loss]["student"]
                    for seed, at, name in cells
                    if (at, name) == (prompts, loss)
                ]
            )
            for loss in dict.fromkeys(key[2] for key in cells if key[1] == prompts)
        }
        for loss, right_SN in right.items():
            mine = [
                found for (_, at, name), found in cells.items() if (at, name) == (prompts, loss)
            ]
            teacher = np.mean([found["teacher"] for found in mine])
            rows.append(
                {
                    "prompts": prompts,
                    "loss": loss,
                    "student": round(float(right_SN.mean()), 4),
                    "ci95": interval(right_SN),
                    "seeds": right_SN.mean(1).round(4).tolist(),
                    "retention": round(float(right_SN.mean() / teacher), 4),
                    "minus_sft_ci95": interval(right_SN, right["sft"])
                    if "sft" in right and loss != "sft"
                    else None,
                    "tokens": [found["tokens"] for found in mine],
                }
            )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, the best of each number of prompts marked."""
    lines = [
        "| prompts | loss | exact match | 95 % interval | seeds | retention | minus sft, 95 % |",
        "|---:|---|---:|---|---|---:|---|",
    ]
    for row in rows:
        best = row["student"] == max(
            other["student"] for other in rows if other["prompts"] == row["prompts"]
        )
        against = (
            ""
            if row["minus_sft_ci95"] is None
            else "{:+.3f} to {:+.3f}".format(*row["minus_sft_ci95"])
        )
        name = f"**{row['loss']}**" if best else row["loss"]
        seeds = ", ".join(f"{value:.3f}" for value in row["seeds"])
        lines.append(
            f"| {row['prompts']:,} | {name} | {row['student']:.3f} | {row['ci95'][0]:.3f} to"
            f" {row['ci95'][1]:.3f} | {seeds}"
            f" | {row['retention']:.3f} | {against} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Exit 1 if the best student keeps too little."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument(
        "--work",
        type=Path,
        default=REPOSITORY / "runs/quality",
        help="finished cells are taken from here",
    )
    parser.add_argument("--prompts", type=int, nargs="+", default=list(EPOCHS), choices=EPOCHS)
    parser.add_argument("--losses", nargs="+", default=list(LOSSES))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    cells: dict[tuple[int, int, str], dict[str, Any]] = {}
    with ray_cluster.connected(None, shared=options.work):
        for seed in options.seeds:
            for prompts in options.prompts:
                for loss in options.losses:
                    cells[seed, prompts, loss] = found = run_cell(
                        cell(seed, prompts, loss), options.work
                    )
                    score, tokens = np.mean(found["student"]), found["tokens"]
                    print(
                        f"seed {seed}  {prompts:>5,} prompts  {loss:<11} {score:.3f}  tokens"
                        f" {tokens:,}",
                        flush=True,
                    )
    rows = summarise(cells)
    print(table(rows))
    ratios = {
        "best_retention": bounded(max(row["retention"] for row in rows), ">=", LEAST_RETENTION)
    }
    return write_result(options.json, ratios, rows=rows, epochs=EPOCHS)


if __name__ == "__main__":
    sys.exit(main())
