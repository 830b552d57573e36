"""A judge's questions, asked and answered like prompts: resumable after a kill, costed, within its
budget.

What is asked, and how replies are read, is engine/rows/judging. Any stage that has a judge comes
here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from engine.asking.admission import cost_usd
from engine.asking.dispatch import Stream, answer_prompts
from engine.asking.replica import spent_usd
from engine.asking.respondents import Respondent, respondent_of
from engine.asking.routing import all_rows
from engine.errors import StageError
from engine.job.spec import AskedJudgeSpec, PriceSpec
from engine.rows.judging.questions import Question
from engine.rows.records import COMPLETION_KEY, PROMPT, Completion, Prompt
from engine.rows.tables import read_tables, to_rows, to_table, write_parquet
from engine.run import parts
from engine.run.context import Context
from engine.store.paths import Folder

QUESTIONS = "questions.parquet"
_KEY = (*COMPLETION_KEY, "split", "seed")
_COLUMNS = (*_KEY, "status", "text", "error", "prompt_tokens", "completion_tokens")


@dataclass(frozen=True)
class Reply:
    """What a judge said, and what it cost where that is known."""

    status: str
    text: str
    cost_usd: float | None

    @property
    def is_cut(self) -> bool:
        """Whether it ran into the judge's max_tokens, or into a loop."""
        return self.status in ("truncated", "loop")


@dataclass(frozen=True)
class Replies:
    """By question; and of all that was asked so far, how many there are and what they took
    together; `cost_usd` is None without prices, and counts tries that came to nothing."""

    by_id: dict[int, Reply]
    count: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float | None = None


def ask_judge(
    spec: AskedJudgeSpec,
    questions: Iterable[Question],
    folder: Folder,
    ctx: Context,
    *,
    block: str,
    stream: Stream,
) -> Replies:
    """One reply to each question, equal ones asked once; `block` is the judge's in the job. Parts
    under `folder` make it resumable. StageError where the budget is used up, or more than
    `max_failed_fraction` of the questions failed."""
    asked = {question.id: question for question in questions}
    if not asked:
        return Replies({})
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / QUESTIONS
    prompts = [_prompt(question, ctx.task) for question in asked.values()]
    write_parquet(to_table(prompts, PROMPT), file)
    judge = respondent_of(spec.teacher, spec.sampling())
    ctx.progress.update(note=f"judging: {len(asked):,} questions to '{judge.name}'")
    wanted = {judge.name: all_rows([file])}
    answer_prompts(spec.asking(), [judge], wanted, [file], folder, ctx, stream=stream, block=block)
    settled = parts.final_files(folder)
    rows = {}
    for table in read_tables([folder / name for name in settled.files], _COLUMNS):
        for row in to_rows(table, Completion):
            if row.prompt_id in asked:
                rows[row.prompt_id] = row
    _require_replies(spec, rows.values(), block)
    replies = {}
    for number, row in rows.items():
        replies[number] = Reply(row.status, row.text, _cost(row, judge.charged))
    return Replies(
        replies,
        settled.total("rows"),
        settled.total("tokens_in"),
        settled.total("tokens_out"),
        _spent(judge, folder),
    )


def asked_of(spec: AskedJudgeSpec, replies: Replies) -> dict[str, Any]:
    """The fields of AskedJudge."""
    return {
        "name": spec.teacher.name,
        "kind": spec.teacher.kind,
        "model": spec.teacher.model,
        "tokens_in": replies.tokens_in,
        "tokens_out": replies.tokens_out,
        "cost_usd": replies.cost_usd,
    }


def _prompt(question: Question, task: str) -> Prompt:
    """Of the split whose prompts are answered greedily."""
    return Prompt(
        question.id, question.sha256, "judge", question.messages, task, "judge", "validation"
    )


def _cost(row: Completion, prices: PriceSpec | None) -> float | None:
    if prices is None or row.prompt_tokens is None or row.completion_tokens is None:
        return None
    return cost_usd(prices, row.prompt_tokens, row.completion_tokens)


def _spent(judge: Respondent, folder: Folder) -> float | None:
    if judge.prices is None:
        return None
    return round(spent_usd({judge.name: judge.prices}, folder), 6)


def _require_replies(spec: AskedJudgeSpec, rows: Collection[Completion], block: str) -> None:
    failed = [row for row in rows if row.status == "error"]
    if len(failed) > spec.max_failed_fraction * len(rows):
        raise StageError(
            f"{block}: {len(failed)} of {len(rows)} questions failed (first: {failed[0].error});"
            " the replies to the others are kept. Run the same command again to ask for the missing"
            f" ones, or allow some with {block}.max_failed_fraction"
        )
