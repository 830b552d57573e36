"""Stage 5, checkpoint + validation prompts -> scores of teacher, untrained baseline and student.

The teacher's answers were stored by generate; the other two models answer here, through the
function `answer`. Every prompt counts: an answer that was cut or failed is scored on the text that
it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow.compute as pc

from engine.asking.dispatch import Stream, answer_prompts
from engine.asking.respondents import Respondent
from engine.asking.routing import all_rows
from engine.backends import lm_eval_harness, math_verifier, ray_data
from engine.errors import StageError
from engine.job.spec import (
    AskingSpec,
    EvaluateSpec,
    GenerateSpec,
    Model,
    SamplingSpec,
    VerifySpec,
)
from engine.rows.answers.statement import holds_thoughts
from engine.rows.final_answer import Rules, rules_for
from engine.rows.ids import derive_seed
from engine.rows.metrics import resolve_metrics, signature_of
from engine.rows.records import ANSWER, COMPLETION_KEY, Completion, Prompt
from engine.rows.tables import read_tables, to_rows, to_table, write_parquet
from engine.run import parts
from engine.run.context import Context
from engine.run.facts import EvaluateInfo, PromptsInfo, Quality, TrainInfo
from engine.run.manifests import Counts, Finished
from engine.serving.endpoint import OpenEndpoint
from engine.stages.evaluate.compared import clusters_of, comparisons_of, footprints_of
from engine.stages.evaluate.harness import OpenHarness, score_with_harness
from engine.stages.evaluate.judge import opinion_of
from engine.stages.evaluate.scoring import (
    Answers,
    References,
    Resampling,
    Scores,
    answer_rows,
    quality_of,
    references_of,
    scores_of,
    statistics_of,
)
from engine.stages.evaluate.verdicts import counts_of, doubts_of, verdicts_of
from engine.store.paths import Folder

ANSWERS = "data/answers.parquet"
OF_FINAL_ANSWERS = {"exact_match", "accuracy", "macro_f1", "no_label"}  # thoughts do not count


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
    verify: VerifySpec | None = None,
    answer: Callable[..., Answers] = answer_with_engines,
    open_algebra: math_verifier.OpenAlgebra = math_verifier.opened,
    endpoint: OpenEndpoint | None = None,
    harness: OpenHarness = lm_eval_harness.opened,
    stream: Stream = ray_data.stream,
) -> Counts:
    """Score all models on the validation prompts; what is right is decided as `verify` says, and
    `endpoint` serves them to lm-eval, where the job names task files of it. StageError without such
    prompts, or where an answer is missing."""
    verify = verify or VerifySpec()
    wanted = resolve_metrics(ctx.task, spec.metrics)
    files = inputs["prompts"].files("validation")
    prompts = _prompts(files)
    clusters = clusters_of(prompts, spec.cluster_by or _cluster_column(inputs["prompts"]))
    answers = {"teacher": _stored_answers(inputs["generate"], generate)}
    models = _models(spec, inputs["train"])
    harnessed = score_with_harness(
        spec, models, generate, inputs["generate"], out, ctx, endpoint=endpoint, harness=harness
    )
    limit = spec.max_tokens or generate.sampling.max_tokens
    answers |= answer(models, files, out / "answers", limit, ctx)
    for model in ("teacher", *(one.name for one in models)):
        answers[model] = _in_order(model, answers.get(model, []), prompts)

    rules = rules_for("exact", _labels(inputs["prompts"]))
    references = references_of(ctx.task, prompts, answers["teacher"], rules)
    judging = Rules(verify.qa, rules.labels)
    verdicts = verdicts_of(ctx.task, answers, references, prompts, judging, verify, open_algebra)
    # exact match of words is SQuAD's, whatever rule the verdicts went by
    settled = {} if ctx.task == "qa" else verdicts
    statistics = statistics_of(wanted, ctx.task, answers, references, prompts, settled, rules)
    rows = answer_rows(answers, references, statistics, verdicts)
    (out / "data").mkdir(parents=True, exist_ok=True)
    write_parquet(to_table(rows, ANSWER), out / ANSWERS)

    scores = scores_of(statistics)
    names = _measured(wanted, spec.metrics, scores)
    statistics = {name: statistics[name] for name in names}
    scores = {name: scores[name] for name in names}
    seed = derive_seed(ctx.seed, "evaluate")
    resampling = Resampling(spec.bootstrap_samples, seed, clusters)
    quality = quality_of(names[0], statistics[names[0]], references, resampling)
    counts = counts_of(verdicts, references)
    warnings = _warnings(quality, scores, answers["student"], references)
    opinion = opinion_of(
        spec.judge, generate, models, prompts, answers, out, ctx, resampling, stream
    )
    info = EvaluateInfo(
        quality=quality,
        metrics=scores,
        reference=references.kind,
        comparisons=comparisons_of(statistics, references, resampling),
        signatures=_signatures(names, references),
        footprint=footprints_of(models, generate),
        verdicts=counts,
        lm_eval=harnessed.info,
        judge=opinion.facts,
        warnings=[
            *warnings,
            *doubts_of(counts, verify),
            *harnessed.warnings,
            *opinion.warnings,
        ],
    )
    count = len(rows)
    files = {ANSWERS: count} | harnessed.files | opinion.files
    return Counts(count, count, files, info=info)


def _labels(asked: Finished) -> Mapping[str, str]:
    """The job's own names of labels."""
    assert isinstance(asked.manifest.info, PromptsInfo)
    return asked.manifest.info.labels


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


def _cluster_column(prompts: Finished) -> str | None:
    """The column by which prompts of one dialogue know each other, where there are several."""
    info = prompts.manifest.info
    assert isinstance(info, PromptsInfo)
    return info.cluster_by


def _models(spec: EvaluateSpec, train: Finished) -> list[Model]:
    """The models that answer here, run as `spec` says."""
    assert isinstance(train.manifest.info, TrainInfo)
    names = ("student", "baseline") if spec.baseline else ("student",)
    models = []
    for name in names:
        weights, revision = train.manifest.info.weights_of(name, train.folder)
        model = Model(
            name,
            weights,
            revision,
            spec,
            reasoning_parser=spec.reasoning_parser,
            tool_parser=spec.tool_parser,
        )
        models.append(model)
    return models


def _stored_answers(stage: Finished, generate: GenerateSpec) -> list[Completion]:
    """The validation answers of the first teacher, or, where prompts were routed, those of
    whichever teacher each went to."""
    columns = [*COMPLETION_KEY, "split", "seed", "status", "text"]
    columns.append("tool_calls")
    wanted = pc.field("split") == "validation"
    if generate.route == "all":
        wanted &= pc.field("teacher") == generate.teachers[0].name
    rows: list[Completion] = []
    for table in read_tables(stage.files(), columns, optional=["tool_calls"]):
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


def _measured(
    names: Sequence[str], wanted: str | Sequence[str], scores: Mapping[str, Scores]
) -> list[str]:
    """The metrics that any answer has a score in: of those that nobody named, the others are left
    out."""
    if wanted != "auto":
        return list(names)
    told = []
    for name in names:
        if name == names[0] or any(value is not None for value in scores[name].values()):
            told.append(name)
    return told


def _signatures(names: Sequence[str], references: References) -> dict[str, str]:
    found = {}
    for name in names:
        signature = signature_of(name, references.texts)
        if signature is not None:
            found[name] = signature
    return found


def _warnings(
    quality: Quality,
    scores: Mapping[str, Scores],
    student: Sequence[Completion],
    references: References,
) -> list[str]:
    warnings = []
    if references.without_gold:
        sentence = (
            f"{references.without_gold} of {quality.n} prompts have no gold answer; the teacher's"
            " is their reference"
        )
        if references.kind == "mixed":
            sentence += ", and retention is of the others"
        warnings.append(sentence)
    for name, by_model in scores.items():
        if by_model["student"] is None:
            warnings.append(
                f"{name} has nothing to score: no prompt or answer holds what it counts"
            )
    thinking = sum(holds_thoughts(row.text) for row in student)
    if thinking and not scores.keys() <= OF_FINAL_ANSWERS:
        warnings.append(
            f"{thinking:,} of {quality.n:,} answers of the student hold thoughts in tags"
            " (</think>), which text metrics count as said; name vLLM's parser of its reasoning in"
            " evaluate.reasoning_parser, such as deepseek_r1 or qwen3"
        )
    if quality.student == 0:
        cut = sum(row.status == "truncated" for row in student)
        warnings.append(
            f"the student scores 0 in {quality.metric} on all {quality.n} prompts ({cut} of its"
            " answers were cut at max_tokens): it has not learnt the task; read"
            f" {ANSWERS}, and look at what curate kept and at the training loss"
        )
    return warnings
