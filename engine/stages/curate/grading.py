"""What a judge says of answers that all cheaper rules left: a grade of each by itself, or its votes
on pairs of answers to one prompt, in both orders.

Replies lie in the stage's folder like answers of a teacher: resumable, costed, within the budget.
Questions, with the texts that they are about, are in the driver's memory while they are asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa

from engine.asking.dispatch import Stream
from engine.asking.judging import Replies, ask_judge, asked_of
from engine.job.spec import CurateJudgeSpec
from engine.rows.judging import questions
from engine.rows.judging.choices import read_choice
from engine.rows.judging.duel import Duel
from engine.rows.judging.grades import read_grade
from engine.rows.judging.questions import Question
from engine.rows.judging.rubric import load_rubric
from engine.rows.records import COMPLETION_KEY, Completion, Prompt
from engine.rows.tables import read_tables, to_rows
from engine.run.context import Context
from engine.run.judge_facts import CurateJudge
from engine.stages.curate.prompts_by_id import Prompts, in_slices
from engine.store.paths import Folder

BLOCK = "curate.judge"
FOLDER = "judge"
_COLUMNS = (*COMPLETION_KEY, "split", "seed", "status", "text", "tool_calls")
_POINTS = {"win": 1.0, "tie": 0.5, "loss": 0.0}


@dataclass(frozen=True)
class Answered:
    """A row of the table that is graded, and its texts."""

    row: int
    answer: Completion
    prompt: Prompt


@dataclass
class Grader:
    """Who is asked, where the answers lie, and what asking took so far."""

    spec: CurateJudgeSpec
    files: Sequence[Folder]  # of completions
    prompts: Prompts
    out: Folder
    ctx: Context
    stream: Stream
    facts: CurateJudge | None = None

    def grades(self, table: pa.Table) -> np.ndarray:
        """(N,) the grade of each answer; NaN where the reply has none that could be read."""
        rubric = self._rubric()
        asked = {}
        for told in self._answers(table):
            asked[told.row] = questions.grade(
                rubric,
                told.prompt.messages,
                told.answer.said,
                self.spec.scale,
                self._references(told.prompt),
            )
        replies = self._ask(asked.values())
        grades = np.full(len(table), np.nan)
        for row, question in asked.items():
            reply = replies.by_id[question.id]
            grade = read_grade(reply.text, self.spec.scale, is_cut=reply.is_cut)
            if grade is not None:
                grades[row] = grade
        return grades

    def points(self, table: pa.Table, groups_N: np.ndarray) -> np.ndarray:
        """(N,) the share of pairs within its group that each answer won, ties half; NaN where no
        pair has a result."""
        rubric = self._rubric()
        of_group: dict[int, list[Answered]] = {}
        for told in self._answers(table):
            of_group.setdefault(int(groups_N[told.row]), []).append(told)
        duels = []
        for group in of_group.values():
            for one, other in combinations(group, 2):
                duels.append(self._duel(rubric, one, other))
        asked = [question for _, pair in duels for question in pair]
        replies = self._ask(asked)
        won = np.zeros(len(table))
        fought = np.zeros(len(table))
        for (one, other), pair in duels:
            result = _result(replies, pair)
            if result is not None:
                won[one] += _POINTS[result]
                won[other] += 1 - _POINTS[result]
                fought[[one, other]] += 1
        return np.divide(won, fought, out=np.full(len(table), np.nan), where=fought > 0)

    def _duel(
        self, rubric: str, one: Answered, other: Answered
    ) -> tuple[tuple[int, int], list[Question]]:
        """The rows of a pair, and its question in both orders; none about the same text."""
        texts = (one.answer.said, other.answer.said)
        pair: list[Question] = []
        if texts[0].strip() != texts[1].strip():
            references = self._references(one.prompt)
            for first, second in (texts, texts[::-1]):
                messages = one.prompt.messages
                pair.append(questions.compare(rubric, messages, first, second, references))
        return (one.row, other.row), pair

    def _rubric(self) -> str:
        return load_rubric(f"{BLOCK}.rubric", self.spec.rubric)

    def _references(self, prompt: Prompt) -> Sequence[str]:
        return prompt.right_answers if self.spec.references else []

    def _ask(self, asked: Iterable[Question]) -> Replies:
        folder = self.out / FOLDER
        replies = ask_judge(self.spec, asked, folder, self.ctx, block=BLOCK, stream=self.stream)
        if replies.count:
            asked_for = asked_of(self.spec, replies)
            self.facts = CurateJudge(replies=replies.count, **asked_for)
        return replies

    def _answers(self, table: pa.Table) -> Iterator[Answered]:
        """The texts of all rows, file by file."""
        file_of_row = table["file"].to_numpy()
        row_in_file = table["row"].to_numpy()
        for number in np.unique(file_of_row):
            mine = np.flatnonzero(file_of_row == number)
            file = self.files[number]
            (stored,) = read_tables([file], _COLUMNS, optional=["tool_calls"])
            rows = iter(mine.tolist())
            for some in in_slices(stored.take(row_in_file[mine])):
                answers = to_rows(some, Completion)
                prompts = self.prompts.of(some)
                for answer, prompt in zip(answers, prompts, strict=True):
                    yield Answered(next(rows), answer, prompt)


def _result(replies: Replies, pair: Sequence[Question]) -> str | None:
    """Of the first answer; equal votes in both orders count, all else is a tie, and a silence is
    nothing."""
    if not pair:
        return "tie"
    ours_first, theirs_first = (replies.by_id[question.id] for question in pair)
    duel = Duel(
        read_choice(ours_first.text, is_cut=ours_first.is_cut),
        read_choice(theirs_first.text, is_cut=theirs_first.is_cut),
    )
    return duel.result


def grader_for(
    spec: CurateJudgeSpec | None,
    stream: Stream | None,
    *,
    files: Sequence[Folder],
    prompts: Prompts,
    out: Folder,
    ctx: Context,
) -> Grader | None:
    """None where the job names no judge. `stream` is what replicas are reached by."""
    if spec is None:
        return None
    if stream is None:
        from engine.backends import ray_data  # Ray takes a second, which few jobs need here

        stream = ray_data.stream
    return Grader(spec, files, prompts, out, ctx, stream)
