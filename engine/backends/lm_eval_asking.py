"""Requests of lm-eval's process to somebody's API, each with settings of its own: one client and
one budget for all.

It knows nothing of the harness; what is asked and why is in lm_eval_api.py.
"""

from __future__ import annotations

from engine.asking.admission import Budget
from engine.asking.asker import Asker
from engine.asking.engine import AnswerEngine, build_engine
from engine.asking.requests import Request
from engine.asking.respondents import Respondent
from engine.errors import StageError
from engine.job.spec import AnthropicTeacherSpec, AskingSpec, OpenAITeacherSpec, SamplingSpec
from engine.rows.records import Messages
from engine.rows.tools import Conversation


class ApiAsking:
    """One client and one budget for requests of different settings."""

    def __init__(
        self,
        teacher: OpenAITeacherSpec | AnthropicTeacherSpec,
        engine: AnswerEngine,
        budget: Budget,
        limit_usd: float | None,
    ) -> None:
        self._teacher = teacher
        self._engine = engine
        self.budget = budget
        self._limit_usd = limit_usd
        self._askers: dict[str, Asker] = {}

    @classmethod
    async def opened(
        cls,
        teacher: OpenAITeacherSpec | AnthropicTeacherSpec,
        limit_usd: float | None,
        spent_usd: float,
    ) -> ApiAsking:
        """After the free call that shows whether key and address are good."""
        engine = build_engine(teacher, AskingSpec(), device="cpu")
        await engine.open()
        return cls(teacher, engine, Budget(teacher.prices, limit_usd, spent_usd), limit_usd)

    async def ask(
        self, number: int, seed: int, messages: Messages, sampling: SamplingSpec
    ) -> Request:
        """One request, with what came of it."""
        conversation = Conversation(messages).with_system(self._teacher.system)
        (prompt,) = self._engine.encode([conversation])
        row = Request(number, 0, "train", seed, prompt, 1)
        return await self._asker(sampling).ask(row)

    def _asker(self, sampling: SamplingSpec) -> Asker:
        key = sampling.model_dump_json()
        if key not in self._askers:
            self._askers[key] = Asker(
                self._engine,
                Respondent(self._teacher, sampling),
                AskingSpec(),
                self.budget,
                tokens_of=_tokens_of,
                requests_in_flight=self._teacher.concurrency,
            )
        return self._askers[key]

    def require_all(self) -> None:
        """StageError where something ended the asking before its time."""
        for asker in self._askers.values():
            if asker.ending:
                raise asker.ending
        if self.budget.is_spent:
            raise StageError(
                f"generate.max_cost_usd is used up: {self.budget.spent_usd:.4g} of the"
                f" {self._limit_usd:.4g} USD that generate left went to lm-eval; raise it, and the"
                " same command goes on"
            )


def _tokens_of(request: Request) -> tuple[int | None, int | None]:
    generation = request.generation
    if generation is None:
        return None, 0
    return generation.prompt_tokens, generation.tokens
