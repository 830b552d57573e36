"""Stage 2: the teachers answer the prompts, and every answer becomes exactly one row with a final
status.

Training prompts are sampled, validation prompts are answered greedily in the same engine session.
Nothing is filtered here. What a replica finished is on disk within a minute; a second run issues
only what is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from engine.asking.admission import cost_usd
from engine.asking.completions import STATUS_OF_FINISH
from engine.asking.dispatch import Stream, Tally, answer_prompts
from engine.asking.replica import spent_usd
from engine.asking.respondents import respondent_of
from engine.asking.routing import wanted_rows
from engine.backends import math_verifier, ray_data
from engine.errors import StageError
from engine.job.spec import ApiTeacher, GenerateSpec, VerifySpec
from engine.rows import metrics
from engine.rows.final_answer import Judged, Rules, Verdict, is_compared, judge, rules_for
from engine.rows.ids import bare_prompt
from engine.rows.records import Prompt
from engine.rows.tables import file_metadata, read_tables, to_rows
from engine.rows.tools import spelled
from engine.run import parts
from engine.run.context import Context
from engine.run.facts import GenerateInfo, PromptsInfo, TeacherInfo
from engine.run.manifests import Counts, Finished
from engine.store.paths import Folder

Settle = Callable[[Sequence[Judged]], list[Verdict | None]]
LOW_SCORE = 0.2  # of a teacher: below, a sentence says so


class Score(NamedTuple):
    """A teacher's headline on `count` validation answers with a usable reference, `cut` of them
    truncated."""

    value: float
    count: int
    cut: int


class Asked(NamedTuple):
    """Gold answers that the task can use, and the question."""

    gold: list[str]
    question: str


def run(
    spec: GenerateSpec,
    inputs: Mapping[str, Finished],
    out: Path,
    ctx: Context,
    *,
    verify: VerifySpec | None = None,
    stream: Stream = ray_data.stream,
    open_algebra: math_verifier.OpenAlgebra = math_verifier.opened,
) -> Counts:
    """Answer all prompts with all teachers; `verify` says when a validation answer is right.
    StageError if more than `max_failed_fraction` of the rows end in `error`."""
    prompts = inputs["prompts"]
    prompt_files = prompts.files("train") + prompts.files("validation")
    respondents = [respondent_of(one, spec.sampling_of(one)) for one in spec.teachers]
    wanted = wanted_rows(spec, prompt_files, ctx.seed)
    tally = answer_prompts(spec, respondents, wanted, prompt_files, out, ctx, stream=stream)
    settled = parts.final_files(out)
    _require_rows(spec, tally, settled, out)
    settle = partial(math_verifier.settled, spec=verify or VerifySpec(), open_algebra=open_algebra)
    scores = _validation_scores(prompts, out, settled, ctx.task, settle)
    warnings = _judged(spec, scores)
    info = _info(spec, settled, tally, out, scores, warnings)
    if _is_a_pilot(spec, prompts):
        info = info.model_copy(update={"limit": spec.limit})
    return Counts(tally.wanted, settled.total("rows"), settled.files, info=info)


def _is_a_pilot(spec: GenerateSpec, prompts: Finished) -> bool:
    info = prompts.manifest.info
    assert isinstance(info, PromptsInfo)
    return spec.limit is not None and spec.limit < info.train


def _require_rows(spec: GenerateSpec, tally: Tally, settled: parts.Settled, out: Path) -> None:
    rows = settled.total("rows")
    if rows > tally.wanted and spec.limit:
        raise StageError(
            f"generate: {out} has {rows:,} answers already, and limit={spec.limit} wants"
            f" {tally.wanted:,}; what was paid for is kept: raise generate.limit, or leave it out"
        )
    if rows != tally.wanted:
        raise StageError(
            f"generate: {rows} final rows for {tally.wanted} wanted; run the same command again to"
            " make the missing ones"
        )
    if settled.failed > spec.max_failed_fraction * tally.wanted:
        raise StageError(
            f"generate: {settled.failed} of {tally.wanted} rows failed (first:"
            f" {_first_error(out, settled)}); everything else is kept. Run the same command again"
            " to retry them, or allow some with generate.max_failed_fraction"
        )


def _validation_scores(
    prompts: Finished, out: Path, settled: parts.Settled, task: str, settle: Settle
) -> dict[str, Score]:
    """By teacher: its headline score on the validation prompts with a usable reference."""
    assert isinstance(prompts.manifest.info, PromptsInfo)
    rules = rules_for("exact", prompts.manifest.info.labels)
    asked = _with_usable_references(prompts.files("validation"), task, rules)
    if not asked:
        return {}
    answers: dict[str, list[tuple[str, str, str, Asked]]] = {}
    columns = ["teacher", "prompt_id", "split", "status", "text", "tool_calls"]
    written = [out / name for name in settled.files]
    for table in read_tables(written, columns, optional=["tool_calls"]):
        for row in table.filter(pc.field("split") == "validation").to_pylist():
            if known := asked.get(row["prompt_id"]):
                said = spelled(row["text"], row.get("tool_calls"))
                answer = (row["text"], said, row["status"], known)
                answers.setdefault(row["teacher"], []).append(answer)
    metric = metrics.TASK_METRICS[task][0]
    scores = {}
    for teacher, rows in answers.items():
        texts, said, statuses, known = zip(*rows, strict=True)
        statistics = _statistics(metric, task, texts, said, known, rules, settle)
        value = metrics.score_of(metric, statistics)
        scores[teacher] = Score(round(value or 0.0, 6), len(rows), statuses.count("truncated"))
    return scores


def _statistics(
    metric: str,
    task: str,
    texts: Sequence[str],
    said: Sequence[str],
    asked: Sequence[Asked],
    rules: Rules,
    settle: Settle,
) -> np.ndarray:
    """Of right and wrong the texts decide, of all else what was `said`, calls included: as in
    evaluate."""
    golds = [one.gold for one in asked]
    questions = [one.question for one in asked]
    verdicts = None
    if is_compared(task):
        judged = []
        for text, gold, question in zip(texts, golds, questions, strict=True):
            judged.append(judge(task, text, gold, rules, prompt=question))
        verdicts = settle(judged)
    return metrics.statistics_of(
        metric, task, said, golds, sources=questions, verdicts=verdicts, rules=rules
    )


def _with_usable_references(files: Sequence[Folder], task: str, rules: Rules) -> dict[int, Asked]:
    """By prompt_id, where the task can use any gold answer."""
    asked: dict[int, Asked] = {}
    for table in read_tables(files):
        for prompt in to_rows(table, Prompt):
            gold = metrics.usable_references(task, prompt.right_answers, rules)
            if gold:
                asked[prompt.prompt_id] = Asked(gold, bare_prompt(prompt.messages))
    return asked


def _judged(spec: GenerateSpec, scores: Mapping[str, Score]) -> list[str]:
    """A warning for each teacher that can teach little. StageError below min_teacher_score."""
    floor = LOW_SCORE if spec.min_teacher_score is None else spec.min_teacher_score
    poor = []
    for name, score in scores.items():
        if score.value < floor:
            poor.append(
                f"teacher '{name}' scores {score.value:.3g} on its {score.count:,} validation"
                f" answers with a reference, {score.cut:,} of them cut"
            )
    if poor and spec.min_teacher_score is not None:
        raise StageError(
            f"generate: {'; '.join(poor)}; generate.min_teacher_score is"
            f" {spec.min_teacher_score:g}. The answers are kept: read some, mend the prompts,"
            " sampling.max_tokens or the teacher, or lower the floor to go on"
        )
    advice = (
        "a student can hardly learn the task from it; read some answers before training, or set"
        " generate.min_teacher_score to end here"
    )
    return [f"{sentence}: {advice}" for sentence in poor]


def _info(
    spec: GenerateSpec,
    settled: parts.Settled,
    tally: Tally,
    out: Path,
    scores: Mapping[str, Score],
    warnings: list[str],
) -> GenerateInfo:
    prices = spec.prices()
    more: dict[str, Any] = {}
    if prices:
        more["cost_usd"] = round(spent_usd(prices, out), 6)
    if tally.replicas:
        more["replicas"] = tally.replicas
    if untold := settled.total("untold"):
        more["rows_without_token_counts"] = untold
    if foreign := _foreign_words(spec, settled, out):
        more["unknown_finish_reasons"] = foreign
    return GenerateInfo(
        prompts=tally.prompts,
        completions=tally.wanted,
        answered_this_run=tally.answered,
        status=settled.status,
        tokens_in=settled.total("tokens_in"),
        tokens_out=settled.total("tokens_out"),
        tokens_per_second=tally.tokens_per_second,
        teachers=_teachers(spec, settled, out, scores),
        route=spec.route,
        max_tokens=spec.sampling.max_tokens,
        top_k=spec.capture.top_k,
        warnings=warnings,
        **more,
    )


def _teachers(
    spec: GenerateSpec, settled: parts.Settled, out: Path, scores: Mapping[str, Score]
) -> list[TeacherInfo]:
    """What each did, and what its files say of its tokenizer."""
    stored: dict[str, dict[str, Any]] = {}
    for name in settled.files:
        if len(stored) < len(settled.teachers):
            metadata = file_metadata(out / name)
            stored.setdefault(metadata["teacher"], metadata)
    teachers = []
    for teacher in spec.teachers:
        sums = settled.teachers.get(teacher.name, parts.Sums())
        metadata = stored.get(teacher.name, {})
        more: dict[str, Any] = {}
        if teacher.name in scores:
            more["validation_score"] = scores[teacher.name].value
        for name in ("tokenizer_fingerprint", "vocab_size"):
            if name in metadata:
                more[name] = metadata[name]
        charged = respondent_of(teacher, spec.sampling).charged
        counted = sums.rows - sums.untold
        if charged and counted:
            usd = cost_usd(charged, sums.tokens_in, sums.tokens_out)
            more["usd_per_answer"] = usd / counted
        teachers.append(
            TeacherInfo(
                name=teacher.name,
                kind=teacher.kind,
                revision=getattr(teacher, "revision", None),
                rows=sums.rows,
                tokens_in=sums.tokens_in,
                tokens_out=sums.tokens_out,
                status=dict(sums.status),
                **more,
            )
        )
    return teachers


def _foreign_words(spec: GenerateSpec, settled: parts.Settled, out: Path) -> dict[str, int]:
    """How often APIs ended an answer with a word that this engine does not know."""
    if not any(isinstance(teacher, ApiTeacher) for teacher in spec.teachers):
        return {}
    said: Counter[str] = Counter()
    for table in read_tables([out / name for name in settled.files], columns=["finish_reason"]):
        said.update(filter(None, table["finish_reason"].to_pylist()))
    return {word: count for word, count in said.items() if word not in STATUS_OF_FINISH}


def _first_error(out: Path, settled: parts.Settled) -> str:
    failed = pc.field("status") == "error"
    for table in read_tables([out / name for name in settled.files], columns=["status", "error"]):
        errors = table.filter(failed)["error"]
        if len(errors):
            return str(errors[0].as_py())
    return "unknown"
