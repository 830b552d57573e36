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
from engine.asking.respondents import Respondent
from engine.asking.routing import all_rows
from engine.backends import ray_data
from engine.errors import StageError
from engine.job.spec import AskingSpec, EvaluateSpec, GenerateSpec, Model, SamplingSpec
from engine.rows import metrics
from engine.rows.ids import derive_seed
from engine.rows.records import ANSWER, Answer, Completion, Prompt
from engine.rows.tables import read_tables, to_rows, to_table, write_parquet
from engine.run import parts
from engine.run.context import Context
from engine.run.facts import EvaluateInfo, Quality, TrainInfo
from engine.run.manifests import Counts, Finished
from engine.store.paths import Folder

ANSWERS = "data/answers.parquet"
Answers = dict[str, list[Completion]]  # model -> one per validation prompt
Statistics = dict[str, dict[str, np.ndarray]]  # metric -> model -> (N, C)
Scores = dict[str, float | None]  # model -> its score


def answer_with_engines(
    models: Sequence[Model],
    files: Sequence[Folder],
    out: Path,
    max_tokens: int,
    ctx: Context,
) -> Answers:
    """One greedy answer per prompt of `files` and model, by its name; parts under `out` make it
    resumable."""
    # What a served model would say: loops go on to the end.
    sampling = SamplingSpec(
        temperature=0.0,
        max_tokens=max_tokens,
        stop_loops=False,
    )
    respondents = [Respondent(model, sampling) for model in models]
    everything = all_rows(files)
    wanted = {model.name: everything for model in models}
    answer_prompts(
        AskingSpec(),
        respondents,
        wanted,
        files,
        out,
        ctx,
        stream=ray_data.stream,
    )
    answers: Answers = {model.name: [] for model in models}
    written = parts.final_files(out).files
    for table in read_tables([out / name for name in written]):
        for row in to_rows(table, Completion):
            if row.teacher in answers:
                answers[row.teacher].append(row)
    return answers


def run(
    spec: EvaluateSpec,
    inputs: Mapping[str, Finished],
    out: Path,
    ctx: Context,
    *,
    generate: GenerateSpec,
    answer: Callable[..., Answers] = answer_with_engines,
) -> Counts:
    """Score all models on the validation prompts. StageError without such prompts, or where an
    answer is missing."""
    names = metrics.resolve_metrics(ctx.task, spec.metrics)
    files = inputs["prompts"].files("validation")
    prompts = _prompts(files)
    answers = {"teacher": _stored_answers(inputs["generate"], generate)}
    models = _models(spec, inputs["train"])
    limit = spec.max_tokens or generate.sampling.max_tokens
    answers |= answer(models, files, out / "answers", limit, ctx)
    for model in ("teacher", *(one.name for one in models)):
        answers[model] = _in_order(model, answers.get(model, []), prompts)

    references, without_gold = _references(ctx.task, prompts, answers["teacher"])
    kind = _kind_of_reference(without_gold, len(prompts))
    statistics = _statistics(names, ctx.task, answers, references)
    rows = _answer_rows(answers, references, statistics)
    (out / "data").mkdir(parents=True, exist_ok=True)
    write_parquet(to_table(rows, ANSWER), out / ANSWERS)

    headline = names[0]
    quality = _quality(
        headline,
        statistics[headline],
        kind,
        samples=spec.bootstrap_samples,
        seed=derive_seed(ctx.seed, "evaluate"),
    )
    info = EvaluateInfo(
        quality=quality,
        metrics=_scores(statistics),
        reference=kind,
        warnings=_warnings(quality, answers["student"], without_gold),
    )
    count = len(rows)
    return Counts(count, count, {ANSWERS: count}, info=info)


def _prompts(files: Sequence[Folder]) -> list[Prompt]:
    prompts: list[Prompt] = []
    for table in read_tables(files):
        prompts += to_rows(table, Prompt)
    if not prompts:
        raise StageError(
            "evaluate: there are no validation prompts; set prompts.validation or"
            " prompts.validation_fraction"
        )
    return prompts


def _models(spec: EvaluateSpec, train: Finished) -> list[Model]:
    """The models that answer here, run as `spec` says."""
    assert isinstance(train.manifest.info, TrainInfo)
    names = ("student", "baseline") if spec.baseline else ("student",)
    models = []
    for name in names:
        weights, revision = train.manifest.info.weights_of(name, train.folder)
        models.append(Model(name, weights, revision, spec))
    return models


def _stored_answers(stage: Finished, generate: GenerateSpec) -> list[Completion]:
    """The validation answers of the first teacher, or, where prompts were routed, those of
    whichever teacher each went to."""
    columns = ["prompt_id", "teacher", "sample_index", "split", "seed", "status", "text"]
    wanted = pc.field("split") == "validation"
    if generate.route == "all":
        wanted &= pc.field("teacher") == generate.teachers[0].name
    rows: list[Completion] = []
    for table in read_tables(stage.files(), columns):
        rows += to_rows(table.filter(wanted), Completion)
    return rows


def _in_order(
    model: str,
    rows: Sequence[Completion],
    prompts: Sequence[Prompt],
) -> list[Completion]:
    by_id = {row.prompt_id: row for row in rows}
    wanted = [prompt.prompt_id for prompt in prompts]
    missing = [one for one in wanted if one not in by_id]
    if missing:
        raise StageError(
            f"evaluate: {model} gave no answer to {len(missing)} of {len(prompts)} validation"
            f" prompts, e.g. id {missing[0]}; finish generate (teacher), or run evaluate again"
        )
    return [by_id[one] for one in wanted]


def _references(
    task: str,
    prompts: Sequence[Prompt],
    teacher: Sequence[Completion],
) -> tuple[list[str], int]:
    """A reference per prompt, and how many of them are the teacher's answer because there is no
    usable gold one."""
    references = []
    without_gold = 0
    for prompt, row in zip(prompts, teacher, strict=True):
        reference = metrics.usable_reference(task, prompt.reference)
        if reference is None:
            without_gold += 1
            reference = row.text
        references.append(reference)
    return references, without_gold


def _kind_of_reference(without_gold: int, prompts: int) -> str:
    if not without_gold:
        return "gold"
    return "teacher" if without_gold == prompts else "mixed"


def _statistics(
    names: Sequence[str],
    task: str,
    answers: Answers,
    references: Sequence[str],
) -> Statistics:
    statistics: Statistics = {}
    for name in names:
        statistics[name] = {}
    for model, rows in answers.items():
        texts = [row.text for row in rows]
        for name, by_model in statistics.items():
            by_model[model] = metrics.statistics_of(name, task, texts, references)
    return statistics


def _scores(statistics: Statistics) -> dict[str, Scores]:
    scores: dict[str, Scores] = {}
    for name, by_model in statistics.items():
        scores[name] = {}
        for model, rows in by_model.items():
            scores[name][model] = metrics.score_of(name, rows)
    return scores


def _warnings(
    quality: Quality,
    student: Sequence[Completion],
    without_gold: int,
) -> list[str]:
    warnings = []
    if without_gold:
        warnings.append(
            f"{without_gold} of {quality.n} prompts have no gold answer; the teacher's is their"
            " reference"
        )
    if not quality.student:
        cut = sum(row.status == "truncated" for row in student)
        warnings.append(
            f"the student scores 0 in {quality.metric} on all {quality.n} prompts ({cut} of its"
            " answers were cut at max_tokens): it has not learnt the task; read"
            f" {ANSWERS}, and look at what curate kept and at the training loss"
        )
    return warnings


def _answer_rows(
    answers: Answers,
    references: Sequence[str],
    statistics: Statistics,
) -> list[Answer]:
    rows = []
    for model, completions in answers.items():
        pairs = zip(completions, references, strict=True)
        for at, (done, reference) in enumerate(pairs):
            scores = {}
            for name, by_model in statistics.items():
                statistics_1C = by_model[model][at : at + 1]
                score = metrics.score_of(name, statistics_1C)
                scores[name] = round(score, 6)
            row = Answer(
                done.prompt_id,
                model,
                done.status,
                done.text,
                reference,
                json.dumps(scores),
            )
            rows.append(row)
    return rows


def _quality(
    metric: str,
    statistics: Mapping[str, np.ndarray],
    kind: str,
    samples: int,
    seed: int,
) -> Quality:
    """The headline: scores, retention and their intervals. None where there is nothing to say."""
    scores: Scores = dict.fromkeys(("teacher", "baseline", "student"))
    ci95: dict[str, Any] = dict.fromkeys(scores)
    for model, rows in statistics.items():
        scores[model] = metrics.score_of(metric, rows)
        ci95[model] = metrics.interval_of(metric, rows, samples, seed)
    student = scores["student"]
    teacher = scores["teacher"]
    retention = None
    if kind == "teacher":
        # The teacher against itself says nothing; the student's score already is a ratio to it.
        retention = student
        ci95["retention"] = ci95["student"]
        scores["teacher"] = None
        ci95["teacher"] = None
    else:
        if student is not None and teacher:
            retention = student / teacher
        ci95["retention"] = metrics.retention_interval(
            metric,
            statistics["student"],
            statistics["teacher"],
            samples,
            seed,
        )
    return Quality(
        metric=metric,
        n=len(statistics["student"]),
        **scores,
        retention=retention,
        ci95=ci95,
    )
