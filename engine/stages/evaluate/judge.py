"""A judge on the models' answers: its questions, its replies, and the rows that are kept of them.

The student's answer is compared with each other model's in both orders; with a scale, every answer
is graded by itself too. Two answers that are the same text are a tie that nobody is asked about.
What the votes come to is in judged.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.asking.dispatch import Stream
from engine.asking.judging import Reply, ask_judge, asked_of
from engine.errors import SpecError
from engine.job.spec import GenerateSpec, JudgeSpec, Model
from engine.rows.judging import questions
from engine.rows.judging.choices import read_choice
from engine.rows.judging.grades import read_grade
from engine.rows.judging.questions import Question
from engine.rows.judging.rubric import load_rubric
from engine.rows.records import JUDGEMENT, Judgement, Prompt
from engine.rows.tables import to_table, write_parquet
from engine.run.context import Context
from engine.run.facts import Judge
from engine.run.identity import is_same_model
from engine.stages.evaluate.doubts import warnings_of
from engine.stages.evaluate.judged import (
    Judged,
    compared_with,
    is_same_text,
    judged,
)
from engine.stages.evaluate.scoring import Answers, Resampling

BLOCK = "evaluate.judge"
FOLDER = "judge"
VERDICTS = f"{FOLDER}/verdicts.parquet"


@dataclass(frozen=True)
class _Case:
    """One question: about the answer of `model` to prompt number `at`, alone or against another's,
    which stands first in order 1."""

    at: int
    model: str
    against: str | None
    order: int
    question: Question


@dataclass(frozen=True)
class Opinion:
    """What the stage says of its judge: facts, warnings, and the rows of VERDICTS."""

    facts: Judge | None = None
    warnings: list[str] = field(default_factory=list)
    rows: int = 0

    @property
    def files(self) -> dict[str, int]:
        """Its file and rows; none without a judge."""
        return {} if self.facts is None else {VERDICTS: self.rows}


def opinion_of(
    spec: JudgeSpec | None,
    generate: GenerateSpec,
    models: Sequence[Model],
    prompts: Sequence[Prompt],
    answers: Answers,
    out: Path,
    ctx: Context,
    resampling: Resampling,
    stream: Stream,
) -> Opinion:
    """Ask the judge, if there is one, about all answers, in the order of the prompts. SpecError
    where the judge is one of `models`; StageError as in `ask_judge`."""
    if spec is None:
        return Opinion()
    _refuse_the_judged(spec, models)
    rubric = load_rubric(f"{BLOCK}.rubric", spec.rubric)
    cases = list(_cases(spec, rubric, prompts, answers))
    asked = [case.question for case in cases]
    replies = ask_judge(spec, asked, out / FOLDER, ctx, block=BLOCK, stream=stream)
    rows = []
    for case in cases:
        reply = replies.by_id[case.question.id]
        rows.append(_judgement(case, reply, prompts[case.at].prompt_id, spec.scale))
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    write_parquet(to_table(rows, JUDGEMENT), out / VERDICTS)
    told = judged(Judged(spec, prompts, answers, rows, resampling))
    facts = Judge(
        rubric_sha256=hashlib.sha256(rubric.encode()).hexdigest(),
        is_teacher=_is_teacher(spec, generate),
        **asked_of(spec, replies),
        **told,
    )
    return Opinion(facts, warnings_of(facts, VERDICTS), len(rows))


def _refuse_the_judged(spec: JudgeSpec, models: Sequence[Model]) -> None:
    for model in models:
        if is_same_model(spec.teacher.model, model.model):
            raise SpecError(
                f"{BLOCK}.teacher.model={spec.teacher.model} is the {model.name}, whose answers it"
                " would judge; name another model"
            )


def _is_teacher(spec: JudgeSpec, generate: GenerateSpec) -> bool:
    return any(is_same_model(spec.teacher.model, one.model) for one in generate.teachers)


def _cases(
    spec: JudgeSpec, rubric: str, prompts: Sequence[Prompt], answers: Answers
) -> Iterator[_Case]:
    ours = answers["student"]
    for at, prompt in enumerate(prompts):
        references = prompt.right_answers if spec.references else []
        for other in compared_with(spec, answers):
            texts = (ours[at].said, answers[other][at].said)
            if is_same_text(*texts):
                continue
            for order, (first, second) in enumerate((texts, texts[::-1])):
                question = questions.compare(rubric, prompt.messages, first, second, references)
                yield _Case(at, "student", other, order, question)
        if spec.scale is None:
            continue
        for model, rows in answers.items():
            question = questions.grade(
                rubric, prompt.messages, rows[at].said, spec.scale, references
            )
            yield _Case(at, model, None, 0, question)


def _judgement(case: _Case, reply: Reply, prompt_id: int, scale: Sequence[int] | None) -> Judgement:
    verdict = None
    grade = None
    if case.against is not None:
        verdict = read_choice(reply.text, is_cut=reply.is_cut)
    elif scale is not None:
        grade = read_grade(reply.text, scale, is_cut=reply.is_cut)
    return Judgement(
        prompt_id,
        case.model,
        case.against,
        case.order,
        verdict,
        grade,
        reply.status,
        reply.text,
        reply.cost_usd,
    )
