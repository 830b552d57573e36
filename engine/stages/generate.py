"""Stage 2: the teachers answer the prompts, and every answer becomes exactly one row with a final
status.

Training prompts are sampled, validation prompts are answered greedily in the same engine session.
Nothing is filtered here. What a replica finished is on disk within a minute; a second run issues
only what is missing.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from engine.asking.dispatch import Stream, Tally, answer_prompts
from engine.asking.replica import STATUS_OF_FINISH, spent_usd
from engine.backends import ray_data
from engine.errors import StageError
from engine.job.spec import API_KINDS, GenerateSpec
from engine.rows import metrics
from engine.rows.tables import file_metadata, read_tables
from engine.run import parts
from engine.run.context import Context
from engine.run.manifests import Counts, stage_files
from engine.store.paths import Folder

LOW_SCORE = 0.2  # of a teacher: below, a sentence says so


def run(
    spec: GenerateSpec,
    inputs: dict[str, Path],
    out: Path,
    ctx: Context,
    *,
    stream: Stream = ray_data.stream,
) -> Counts:
    """Answer all prompts with all teachers. StageError if more than `max_failed_fraction` of the
    rows end in `error`."""
    prompt_files = stage_files(inputs["prompts"], "data/train") + stage_files(
        inputs["prompts"], "data/validation"
    )
    tally = answer_prompts(spec, prompt_files, out, ctx, stream=stream)
    settled = parts.settle(out)
    found = sum(settled.files.values())
    if found != tally.wanted:
        raise StageError(
            f"generate: {found} final rows for {tally.wanted} wanted; run the same command again to"
            " make the missing ones"
        )
    if settled.failed > spec.max_failed_fraction * tally.wanted:
        raise StageError(
            f"generate: {settled.failed} of {tally.wanted} rows failed (first:"
            f" {_first_error(out, settled)}); everything else is"
            " kept. Run the same command again to retry them, or allow some with"
            " generate.max_failed_fraction"
        )
    info = _info(spec, settled, tally, out)
    info["teachers"], warnings = _judged(
        spec, info["teachers"], _validation_scores(prompt_files, out, settled, ctx.task)
    )
    return Counts(
        rows_in=tally.wanted,
        rows_out=found,
        files=settled.files,
        info=info | {"warnings": warnings},
    )


def _validation_scores(
    prompt_files: list[Folder], out: Folder, settled: parts.Settled, task: str
) -> dict[str, tuple[float, int, int]]:
    """By teacher: its headline score on the validation prompts with a usable reference, how many
    those are, and how many were cut."""
    metric = metrics.TASK_METRICS[task][0]
    references: dict[int, str] = {}
    for table in read_tables(
        [file for file in prompt_files if file.name.startswith("validation")],
        ["prompt_id", "reference"],
    ):
        found = (
            metrics.usable_reference(task, reference)
            for reference in table["reference"].to_pylist()
        )
        references |= {
            row: gold
            for row, gold in zip(table["prompt_id"].to_pylist(), found, strict=True)
            if gold is not None
        }
    said: dict[str, list[tuple[str, str, str]]] = {}
    if references:
        for table in read_tables(
            [out / name for name in settled.files],
            ["teacher", "prompt_id", "split", "status", "text"],
        ):
            for row in table.filter(pc.field("split") == "validation").to_pylist():
                if gold := references.get(row["prompt_id"]):
                    said.setdefault(row["teacher"], []).append((row["text"], gold, row["status"]))
    scores = {}
    for teacher, answers in said.items():
        texts, golds, statuses = zip(*answers, strict=True)
        score = metrics.score_of(metric, metrics.statistics_of(metric, task, texts, golds))
        scores[teacher] = (round(score, 6), len(answers), statuses.count("truncated"))
    return scores


def _judged(
    spec: GenerateSpec, teachers: list[dict[str, Any]], scores: dict[str, tuple[float, int, int]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The teachers with their scores, and a warning for each that can teach little. StageError
    below min_teacher_score."""
    poor = []
    for name, (score, count, cut) in scores.items():
        if score < (LOW_SCORE if spec.min_teacher_score is None else spec.min_teacher_score):
            poor.append(
                f"teacher '{name}' scores {score:.3g} on its {count:,} validation answers with a"
                f" reference, {cut:,} of them cut"
            )
    if poor and spec.min_teacher_score is not None:
        raise StageError(
            f"generate: {'; '.join(poor)}; generate.min_teacher_score is"
            f" {spec.min_teacher_score:g}. The answers are kept: read some, mend"
            " the prompts, sampling.max_tokens or the teacher, or lower the floor to go on"
        )
    advice = (
        "a student can hardly learn the task from it; read some answers before training, or set"
        " generate.min_teacher_score to end here"
    )
    shown = [
        teacher
        | ({"validation_score": scores[teacher["name"]][0]} if teacher["name"] in scores else {})
        for teacher in teachers
    ]
    return shown, [f"{sentence}: {advice}" for sentence in poor]


def _info(spec: GenerateSpec, settled: parts.Settled, tally: Tally, out: Path) -> dict[str, Any]:
    stored = {name: file_metadata(out / name) for name in list(settled.files)[:1]}
    first = next(iter(stored.values()), {})
    teachers = [
        {
            "name": teacher.name,
            "kind": teacher.kind,
            "revision": teacher.revision,
            **settled.teachers.get(teacher.name, {"rows": 0}),
        }
        for teacher in spec.teachers
    ]
    cost = (
        {"cost_usd": round(spent_usd(spec, out), 6)}
        if any(teacher.prices for teacher in spec.teachers)
        else {}
    )
    return {
        "prompts": tally.prompts,
        "completions": tally.wanted,
        "answered_this_run": tally.answered,
        "status": settled.status,
        "tokens_in": settled.tokens_in,
        "tokens_out": settled.tokens_out,
        "tokens_per_second": tally.tokens_per_second,
        **cost,
        "teachers": teachers,
        "route": spec.route,
        "max_tokens": spec.sampling.max_tokens,
        "top_k": spec.capture.top_k,
        **({"rows_without_token_counts": settled.untold} if settled.untold else {}),
        **_foreign_words(spec, settled, out),
        "tokenizer_fingerprint": first.get("tokenizer_fingerprint"),
        "vocab_size": first.get("vocab_size"),
    }


def _foreign_words(
    spec: GenerateSpec, settled: parts.Settled, out: Path
) -> dict[str, dict[str, int]]:
    """How often APIs ended an answer with a word that this engine does not know."""
    if all(teacher.kind not in API_KINDS for teacher in spec.teachers):
        return {}
    said: Counter[str] = Counter()
    for table in read_tables([out / name for name in settled.files], columns=["finish_reason"]):
        said.update(filter(None, table["finish_reason"].to_pylist()))
    foreign = {word: count for word, count in said.items() if word not in STATUS_OF_FINISH}
    return {"unknown_finish_reasons": foreign} if foreign else {}


def _first_error(out: Path, settled: parts.Settled) -> str:
    for table in read_tables([out / name for name in settled.files], columns=["status", "error"]):
        for status, error in zip(
            table["status"].to_pylist(), table["error"].to_pylist(), strict=True
        ):
            if status == "error":
                return str(error)
    return "unknown"
