"""Stage 5, checkpoint + validation prompts -> scores of teacher, untrained baseline and student.

The teacher's answers were stored by generate; the other two models answer here, through the
function `answer`. Every prompt counts: an answer that was cut or failed is scored on the text that
it has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from engine.asking.dispatch import answer_prompts
from engine.backends import ray_data
from engine.errors import StageError
from engine.job.spec import EvaluateSpec, GenerateSpec, SamplingSpec, TeacherSpec
from engine.rows import metrics
from engine.rows.ids import derive_seed
from engine.rows.records import ANSWER, Answer, Completion, Prompt
from engine.rows.tables import read_tables, to_rows, to_table, write_parquet
from engine.run import parts
from engine.run.context import Context
from engine.run.manifests import Counts, stage_files, trained_model

Answers = dict[str, list[Completion]]  # model -> one per validation prompt
Statistics = dict[str, dict[str, np.ndarray]]  # metric -> model -> (N, C)


def answer_with_engines(
    *,
    models: Mapping[str, Mapping[str, str | None]],
    files: Sequence[Path],
    out: Path,
    max_tokens: int,
    spec: EvaluateSpec,
    ctx: Context,
) -> Answers:
    """One greedy answer per prompt of `files` and model (name -> its model and revision); parts
    under `out` make it resumable."""
    fields = (
        "max_model_len",
        "tensor_parallel",
        "replicas",
        "max_num_seqs",
        "kv_cache_gib",
        "dtype",
    )
    placed = {name: getattr(spec, name) for name in fields}
    wanted = GenerateSpec(
        teachers=[TeacherSpec(name=name, **model, **placed) for name, model in models.items()],
        sampling=SamplingSpec(
            temperature=0.0, max_tokens=max_tokens, stop_loops=False
        ),  # what a served model would say
    )
    answer_prompts(wanted, files, out, ctx, stream=ray_data.stream)
    tables = read_tables([out / name for name in parts.settle(out).files])
    rows = [row for table in tables for row in to_rows(table, Completion)]
    return {name: [row for row in rows if row.teacher == name] for name in models}


def run(
    spec: EvaluateSpec,
    inputs: dict[str, Path],
    out: Path,
    ctx: Context,
    *,
    generate: GenerateSpec,
    answer: Callable[..., Answers] = answer_with_engines,
) -> Counts:
    """Score all models on the validation prompts. StageError without such prompts, or where an
    answer is missing."""
    names = metrics.resolve_metrics(ctx.task, spec.metrics)
    files = stage_files(inputs["prompts"], "data/validation-")
    prompts: list[Prompt] = [row for table in read_tables(files) for row in to_rows(table, Prompt)]
    if not prompts:
        raise StageError(
            "evaluate: there are no validation prompts; set prompts.validation or"
            " prompts.validation_fraction"
        )
    models = {
        name: trained_model(inputs["train"], name)
        for name in (("student", "baseline") if spec.baseline else ("student",))
    }
    limit = spec.max_tokens or generate.sampling.max_tokens
    given = {
        "teacher": _stored_answers(
            inputs["generate"], generate.teachers[0].name if generate.route == "all" else None
        )
    }
    given |= answer(
        models=models, files=files, out=out / "answers", max_tokens=limit, spec=spec, ctx=ctx
    )
    answers = {
        model: _in_order(model, given.get(model, []), prompts) for model in ("teacher", *models)
    }

    references, missing = _references(ctx.task, prompts, answers["teacher"])
    kind = "gold" if not missing else "teacher" if missing == len(prompts) else "mixed"
    statistics: Statistics = {
        name: {
            model: metrics.statistics_of(name, ctx.task, [row.text for row in rows], references)
            for model, rows in answers.items()
        }
        for name in names
    }
    rows = _answer_rows(answers, references, statistics)
    (out / "data").mkdir(parents=True, exist_ok=True)
    write_parquet(to_table(rows, ANSWER), out / "data/answers.parquet")
    warnings = (
        [
            f"{missing} of {len(prompts)} prompts have no gold answer; the teacher's is their"
            " reference"
        ]
        if missing
        else []
    )
    quality = _quality(
        names[0],
        statistics[names[0]],
        kind,
        spec.bootstrap_samples,
        derive_seed(ctx.seed, "evaluate"),
    )
    if not quality["student"]:
        cut = sum(row.status == "truncated" for row in answers["student"])
        warnings.append(
            f"the student scores 0 in {names[0]} on all {len(prompts)} prompts ({cut} of its"
            " answers were cut at max_tokens): it has not"
            " learnt the task; read data/answers.parquet, and look at what curate kept and at the"
            " training loss"
        )
    info = {
        "quality": quality,
        "metrics": {
            name: {model: metrics.score_of(name, found) for model, found in by.items()}
            for name, by in statistics.items()
        },
        "reference": kind,
        "warnings": warnings,
    }
    return Counts(len(rows), len(rows), {"data/answers.parquet": len(rows)}, info=info)


def _stored_answers(generate: Path, teacher: str | None) -> list[Completion]:
    """The validation answers of one teacher; of None, those of whichever teacher each prompt was
    routed to."""
    columns = ["prompt_id", "teacher", "sample_index", "split", "seed", "status", "text"]
    wanted = pc.field("split") == "validation"
    if teacher is not None:
        wanted &= pc.field("teacher") == teacher
    tables = read_tables(stage_files(generate, "data/"), columns)
    return [row for table in tables for row in to_rows(table.filter(wanted), Completion)]


def _in_order(
    model: str, rows: Sequence[Completion], prompts: Sequence[Prompt]
) -> list[Completion]:
    by_id = {row.prompt_id: row for row in rows}
    if missing := [prompt.prompt_id for prompt in prompts if prompt.prompt_id not in by_id]:
        raise StageError(
            f"evaluate: {model} gave no answer to {len(missing)} of {len(prompts)} validation"
            f" prompts, e.g. id {missing[0]};"
            " finish generate (teacher), or run evaluate again"
        )
    return [by_id[prompt.prompt_id] for prompt in prompts]


def _references(
    task: str, prompts: Sequence[Prompt], teacher: Sequence[Completion]
) -> tuple[list[str], int]:
    """A reference per prompt, and how many of them are the teacher's answer because there is no
    usable gold one."""
    gold = [metrics.usable_reference(task, prompt.reference) for prompt in prompts]
    references = [
        row.text if reference is None else reference
        for reference, row in zip(gold, teacher, strict=True)
    ]
    return references, gold.count(None)


def _answer_rows(
    answers: Answers, references: Sequence[str], statistics: Statistics
) -> list[Answer]:
    rows = []
    for model, completions in answers.items():
        for at, (done, reference) in enumerate(zip(completions, references, strict=True)):
            scores = {
                name: round(metrics.score_of(name, by[model][at : at + 1]), 6)
                for name, by in statistics.items()
            }
            rows.append(
                Answer(done.prompt_id, model, done.status, done.text, reference, json.dumps(scores))
            )
    return rows


def _quality(
    metric: str, statistics: Mapping[str, np.ndarray], kind: str, samples: int, seed: int
) -> dict[str, Any]:
    """The headline: scores, retention and their intervals. None where there is nothing to say."""
    nothing = dict.fromkeys(("teacher", "baseline", "student"))
    scores = nothing | {
        model: metrics.score_of(metric, found) for model, found in statistics.items()
    }
    ci95 = nothing | {
        model: metrics.interval_of(metric, found, samples, seed)
        for model, found in statistics.items()
    }
    if (
        kind == "teacher"
    ):  # the teacher against itself says nothing; the student's score already is a ratio to it
        retention, ci95["retention"] = scores["student"], ci95["student"]
        scores["teacher"] = ci95["teacher"] = None
    else:
        retention = scores["student"] / scores["teacher"] if scores["teacher"] else None
        ci95["retention"] = metrics.retention_interval(
            metric, statistics["student"], statistics["teacher"], samples, seed
        )
    return {
        "metric": metric,
        "n": len(statistics["student"]),
        **scores,
        "retention": retention,
        "ci95": ci95,
    }
