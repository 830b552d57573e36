"""Does selection help? Students of one sample, of the best of 8 and of what most of 8 say.

The quickstart as it is, but for students that learn the teacher's tokens (sft), and a teacher made
weak by its temperature: at 1.0 more than 99 of 100 samples are right, which leaves nothing to
choose, at 1.6 about 70. Samples 1 and 8 are drawn from the same seeds, so the one sample is the
first of the eight. All students learn from as many target tokens: who has fewer examples sees them
more often. Everything is made by the product, in ordinary runs; a second call goes on where the
first one ended.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

import engine
from benchmarks.quality.run import STEPS, interval, run_cell
from benchmarks.result import Found, bounded
from engine.backends import ray_cluster
from engine.job.jobfile import load_job
from engine.job.spec import JobSpec
from engine.rows.final_answer import same_final_answer
from engine.rows.tables import read_tables

QUICKSTART = Path(__file__).parents[2] / "jobs/quickstart.yaml"
SAMPLES = 8
TEMPERATURE = 1.6
PROMPTS = 3000
EPOCHS = 16  # of the one sample, unless `--epochs` says otherwise
SEEDS = (0, 1, 2)
MOST_TOKENS_APART = 0.05  # what whole numbers of epochs allow
ONE = "one sample"
BEST = f"best of {SAMPLES}"
MAJORITY = f"majority of {SAMPLES}"
# A majority counts where there is no reference: nothing is checked, so there is none.
ARMS: dict[str, dict[str, Any]] = {
    ONE: {"generate.sampling.samples": 1, "curate.check_reference": "false"},
    BEST: {
        "generate.sampling.samples": SAMPLES,
        "curate.select": "{per_prompt: 1, by: [correct, shorter]}",
    },
    MAJORITY: {
        "generate.sampling.samples": SAMPLES,
        "curate.check_reference": "false",
        "curate.majority": "{min_agreement: 0.5}",
        "curate.select": "{per_prompt: 1, by: [shorter]}",
    },
}


@dataclass(frozen=True)
class Taught:
    """What one student learns from: examples, their target tokens, and the share that is right."""

    examples: int
    tokens: int
    right: float


def run(options: Namespace) -> Found:
    """Students of every arm and seed: `options.work` keeps the runs, `prompts`, `epochs` and
    `seeds` make it smaller."""
    options.work.mkdir(parents=True, exist_ok=True)
    cells: dict[tuple[str, int], dict[str, Any]] = {}
    with ray_cluster.connected(None, shared=options.work):
        for seed in options.seeds:
            for arm, found in _students(seed, options).items():
                cells[arm, seed] = found
                print(f"seed {seed}  {arm:<14} {shown(found)}", flush=True)
    rows = [row_of(arm, cells, options.seeds) for arm in ARMS]
    print(table(rows))
    tokens = [cell["trained_tokens"] for cell in cells.values()]
    apart = max(tokens) / min(tokens) - 1
    ratios = {"help_training_tokens_apart": bounded(apart, "<=", MOST_TOKENS_APART)}
    return ratios, {"help": rows, "help_temperature": options.temperature}


def add_options(parser: ArgumentParser) -> None:
    """Where the runs lie, and a smaller form."""
    group = parser.add_argument_group("help")
    group.add_argument(
        "--work",
        type=Path,
        default=Path("runs/curation"),
        help="finished stages are taken from here",
    )
    group.add_argument("--temperature", type=float, default=TEMPERATURE, help="of the teacher")
    group.add_argument("--prompts", type=int, default=PROMPTS)
    group.add_argument("--epochs", type=int, default=EPOCHS)
    group.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))


def job_of(arm: str, seed: int, options: Namespace, **more: Any) -> JobSpec:
    """The quickstart with this seed, the options' temperature and number of training prompts, and
    what the arm changes."""
    sets = {
        "name": f"help-{options.prompts}-{seed}",
        "seed": seed,
        "prompts.limit": options.prompts,
        "generate.sampling.temperature": options.temperature,
        "generate.capture.top_k": 0,
        "train.loss": "sft",
        **STEPS,
        "evaluate.baseline": "false",
        **ARMS[arm],
        **more,
    }
    return load_job(QUICKSTART, [f"{field}={value}" for field, value in sets.items()])


def _students(seed: int, options: Namespace) -> dict[str, dict[str, Any]]:
    """What each arm's student of this seed learnt from, and what it got right."""
    taught = {arm: _taught(job_of(arm, seed, options), options.work) for arm in ARMS}
    wanted = options.epochs * taught[ONE].tokens
    students = {}
    for arm, lesson in taught.items():
        epochs = max(1, round(wanted / lesson.tokens))
        job = job_of(arm, seed, options, **{"train.epochs": epochs})
        scores = run_cell(job, options.work)
        students[arm] = {
            "examples": lesson.examples,
            "right_examples": lesson.right,
            "epochs": epochs,
            "trained_tokens": epochs * lesson.tokens,
            **scores,
        }
    return students


def _taught(job: JobSpec, work: Path) -> Taught:
    done = engine.run(job, work, until="curate")
    references = {}
    for table in read_tables(done.stages["prompts"].files("train"), ["prompt_id", "reference"]):
        references |= dict(zip(*table.to_pydict().values(), strict=True))
    right = []
    tokens = 0
    columns = ["prompt_id", "messages", "token_ids"]
    for table in read_tables(done.stages["curate"].files("train"), columns):
        tokens += pc.sum(pc.list_value_length(table["token_ids"])).as_py()
        for row in table.select(columns[:2]).to_pylist():
            text = row["messages"][-1]["content"]
            right.append(same_final_answer(job.task, text, references[row["prompt_id"]]))
    return Taught(len(right), tokens, round(float(np.mean(right)), 4))


def row_of(
    arm: str, cells: dict[tuple[str, int], dict[str, Any]], seeds: list[int]
) -> dict[str, Any]:
    """One arm: means over seeds, each seed's figures, and the difference to one sample."""
    mine = [cells[arm, seed] for seed in seeds]
    right_SN = np.array([cell["student"] for cell in mine])
    plain_SN = np.array([cells[ONE, seed]["student"] for seed in seeds])
    row = {
        "arm": arm,
        "student": round(float(right_SN.mean()), 4),
        "ci95": interval(right_SN),
        "seeds": right_SN.mean(axis=1).round(4).tolist(),
        "teacher": round(float(np.mean([cell["teacher"] for cell in mine])), 4),
        "minus_one_sample_ci95": None if arm == ONE else interval(right_SN, plain_SN),
    }
    for name in ("examples", "right_examples", "epochs", "trained_tokens", "tokens"):
        row[name] = [cell[name] for cell in mine]
    return row


def shown(cell: dict[str, Any]) -> str:
    """One student in a line."""
    return (
        f"{np.mean(cell['student']):.3f} right after {cell['trained_tokens']:,} tokens of"
        f" {cell['examples']:,} examples, {cell['right_examples']:.1%} of them right"
    )


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| learns from | exact match | 95 % interval | seeds | minus one sample, 95 % | examples |"
        " of them right | target tokens |",
        "|---|---:|---|---|---|---:|---:|---:|",
    ]
    for row in rows:
        against = ""
        if row["minus_one_sample_ci95"] is not None:
            against = "{:+.3f} to {:+.3f}".format(*row["minus_one_sample_ci95"])
        cells = [
            row["arm"],
            f"{row['student']:.3f}",
            "{:.3f} to {:.3f}".format(*row["ci95"]),
            ", ".join(f"{value:.3f}" for value in row["seeds"]),
            against,
            f"{np.mean(row['examples']):,.0f}",
            f"{np.mean(row['right_examples']):.1%}",
            f"{np.mean(row['trained_tokens']):,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
