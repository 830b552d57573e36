"""One request to an engine: how it is sampled, what may be spent on it, its deadline, and what came
of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from engine.asking.admission import Budget, Reservation, cost_usd
from engine.asking.engine import AnswerEngine, Generation, PromptTooLong, Sampling, end_process
from engine.asking.requests import Request, room_for_answer
from engine.asking.respondents import Respondent
from engine.errors import EngineError
from engine.job.spec import AskingSpec
from engine.run import parts

TOLD = 500  # characters of an error that a row keeps


class Asker:
    """Asks one engine, at most `requests_in_flight` at a time, and never beyond the budget."""

    def __init__(
        self,
        engine: AnswerEngine,
        respondent: Respondent,
        spec: AskingSpec,
        budget: Budget,
        *,
        tokens_of: Callable[[Request], tuple[int | None, int | None]],
        requests_in_flight: int,
    ) -> None:
        self._engine = engine
        self._respondent = respondent
        self._spec = spec
        self._budget = budget
        self._tokens_of = tokens_of
        self._open = asyncio.Semaphore(requests_in_flight)
        # A server's client keeps its own deadlines, one per try.
        self.deadline_s = None if engine.keeps_deadlines else spec.request_timeout_s
        self._under_way: dict[parts.Key, float] = {}
        self.asking = 0  # requests that the engine has
        self.ending: EngineError | None = None  # the error for which nothing more is asked

    def end(self, error: EngineError) -> None:
        """Ask nothing more; of several reasons the first is told."""
        self.ending = self.ending or error

    async def ask(self, request: Request) -> Request:
        """The request with its answer or final status, or unchanged where the budget refused it."""
        longest = self._engine.max_model_len
        room = room_for_answer(longest, request.prompt)
        if room < 1:
            problem = f"{len(request.prompt)} prompt tokens in a context of {longest}"
            return replace(request, status="too_long", error=problem)
        sampling = self._sampling(request, room)
        most_tokens = self._respondent.most_tokens(sampling.max_tokens)
        async with self._open:  # the deadline is that of an open request, not of one that waits
            if self.ending:
                return request
            # Last, when nothing else can keep it waiting: what is set aside is kept from others.
            reserved = await self._reserved(request, most_tokens, sampling.tries or 1)
            if reserved is None:
                return request
            sampling = replace(
                sampling,
                tries=reserved.tries,
                most_usd=reserved.most_usd,
            )
            self.asking += 1
            try:
                finished = await self._ask_engine(request, sampling, reserved.most_usd)
            except EngineError as error:
                self.end(error)
                finished = request
            finally:
                self.asking -= 1
            tokens_in, tokens_out = self.known_tokens(finished)
            await self._budget.settle(reserved, tokens_in, tokens_out, finished.lost_usd)
            return finished

    def expect(self, under_way: Mapping[parts.Key, float]) -> None:
        """Rows that an earlier process asked, and the most that each can cost in USD: the budget
        holds it, and they are asked whatever else it allows."""
        self._under_way = dict(under_way)
        self._budget.hold(sum(under_way.values()))

    async def _reserved(
        self,
        request: Request,
        most_tokens: int,
        tries: int,
    ) -> Reservation | None:
        held_usd = self._under_way.pop(request.key, None)
        if held_usd is not None:
            return await self._budget.take_over(held_usd)
        return await self._budget.reserve(request.prompt, most_tokens, tries)

    def known_tokens(self, request: Request) -> tuple[int, int]:
        """Tokens in and out for sums; of an answer that lacks a count nothing is known, and its
        cost is in `lost_usd`."""
        tokens_in, tokens_out = self._tokens_of(request)
        if tokens_in is None or tokens_out is None:
            return 0, 0
        return tokens_in, tokens_out

    def _sampling(self, request: Request, room: int) -> Sampling:
        settings = self._respondent.sampling
        tries = 1
        # A batch's rows that came to nothing are not charged.
        if self._engine.keeps_deadlines and not self._respondent.in_batches:
            tries = self._spec.max_attempts
        max_tokens = min(settings.max_tokens, room)
        if request.split == "validation" or settings.temperature == 0:
            return Sampling(
                0.0,
                max_tokens,
                stop_loops=settings.stop_loops,
                tries=tries,
                row=request.key,
            )
        seed = request.seed if settings.reproducible else None
        return Sampling(
            temperature=settings.temperature,
            max_tokens=max_tokens,
            top_p=settings.top_p,
            seed=seed,
            stop_loops=settings.stop_loops,
            tries=tries,
            row=request.key,
        )

    async def _ask_engine(self, request: Request, sampling: Sampling, most_usd: float) -> Request:
        """A try that came to nothing, and an answer without token counts, count as the most that
        they can cost."""
        try:
            # wait_for would run each request in a task of its own
            async with asyncio.timeout(self.deadline_s):
                generation = await self._engine.generate(request.prompt, sampling)
        except EngineError:
            raise
        except PromptTooLong as error:
            lost_usd = self._lost_usd(error, most_usd)
            return self._failed(request, "too_long", str(error), lost_usd)
        except TimeoutError:
            self._leave_if_stuck()
            problem = f"no answer within {self._spec.request_timeout_s:g} s"
            return self._failed(request, "error", problem, 0.0)
        except Exception as error:  # noqa: BLE001 - one request's failure is a row status
            lost_usd = self._lost_usd(error, most_usd)
            problem = f"{type(error).__name__}: {error}"
            return self._failed(request, "error", problem, lost_usd)
        lost_usd = self._lost_usd(generation, most_usd)
        told = (generation.prompt_tokens, generation.tokens)
        if self._engine.takes == "messages" and None in told:
            lost_usd += most_usd
        return replace(request, generation=generation, lost_usd=lost_usd)

    @staticmethod
    def _failed(request: Request, status: str, problem: str, lost_usd: float) -> Request:
        return replace(request, status=status, error=problem[:TOLD], lost_usd=lost_usd)

    def _lost_usd(self, outcome: Generation | Exception, most_usd: float) -> float:
        """What the tries that came to nothing have cost, as far as the vendor said, else the most
        that they can."""
        tries = getattr(outcome, "lost_tries", 0)  # an error of a client carries them too
        tokens = getattr(outcome, "lost_tokens", (0, 0))
        told_usd = cost_usd(self._respondent.charged, *tokens)
        return most_usd * tries + told_usd

    def _leave_if_stuck(self) -> None:
        """A slow answer is one row's affair; an engine that took no step for half of a deadline is
        replaced.

        Half, because what was open when it stopped is older than its silence.
        """
        silent_s = self._engine.silent_s()
        if silent_s >= self._spec.request_timeout_s / 2:
            end_process(f"the engine took no step for {silent_s:.0f} s")
