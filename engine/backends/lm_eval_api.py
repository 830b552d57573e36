"""A teacher behind somebody's API, as lm-eval asks it, in the harness' own process: through the
client that `generate` asks it with, and never beyond what is left of its budget.

An API gives no log-probability of a text that it did not write, so it answers generation tasks
alone.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM  # ty: ignore[import-not-found]  # an extra
from lm_eval.models.utils import (  # ty: ignore[import-not-found]
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from engine.backends.lm_eval_asking import ApiAsking
from engine.backends.lm_eval_client import OnAnswer
from engine.backends.lm_eval_served import temperature_of
from engine.errors import StageError
from engine.job.spec import AnthropicTeacherSpec, OpenAITeacherSpec, SamplingSpec
from engine.rows.ids import derive_seed
from engine.rows.records import Messages

NO_LOGPROBS = "an API gives no log-probability of a text that it did not write"


class ApiModel(LM):
    """Answers alone. `max_tokens` bounds those of tasks that name no length; `limit_usd` is what
    all of it may cost, and the file `spent` what an earlier process spent."""

    def __init__(
        self,
        teacher: OpenAITeacherSpec | AnthropicTeacherSpec,
        *,
        max_tokens: int,
        limit_usd: float | None,
        spent: Path,
        seed: int,
        on_answer: OnAnswer,
    ) -> None:
        super().__init__()
        self._teacher = teacher
        self._max_tokens = max_tokens
        self._limit_usd = limit_usd
        self._spent = spent
        self._seed = seed
        self._on_answer = on_answer
        self._askings: Counter[str] = Counter()
        self.refused = 0  # requests that a longer wait does not mend: too long for the model

    @property
    def tokenizer_name(self) -> str:
        """For a cache of the harness, which is not used."""
        return ""

    @property
    def spent_usd(self) -> float:
        """At the teacher's prices, of all processes that asked for these tasks."""
        return float(self._spent.read_text()) if self._spent.exists() else 0.0

    def apply_chat_template(
        self, chat_history: Messages, add_generation_prompt: bool = True
    ) -> str:
        """A conversation as JSON, which generate_until reads again."""
        return json.dumps(chat_history, ensure_ascii=False)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Tasks that want it are left out before."""
        raise StageError(NO_LOGPROBS)

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Tasks that want it are left out before."""
        raise StageError(NO_LOGPROBS)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answer to each (conversation, settings), cut where the settings say; "" to one that
        is too long. StageError where others have none; what was answered is kept."""
        return asyncio.run(self._answers([request.args for request in requests]))

    async def _answers(self, asked: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
        asking = await ApiAsking.opened(self._teacher, self._limit_usd, self.spent_usd)
        found = [""] * len(asked)
        failures: list[str] = []
        done = 0

        async def answer(number: int, text: str, given: dict[str, Any]) -> None:
            nonlocal done
            wanted = normalize_gen_kwargs(given, self._max_tokens)
            seed = derive_seed(self._seed, text, self._askings[text])
            self._askings[text] += 1
            sampling = SamplingSpec(
                temperature=temperature_of(wanted),
                top_p=float(wanted.get("top_p") or 1.0),
                max_tokens=int(wanted["max_gen_toks"]),
            )
            finished = await asking.ask(number, seed, json.loads(text), sampling)
            self._spent.write_text(repr(asking.budget.spent_usd))
            if finished.generation is not None:
                said = finished.generation.text or ""
                found[number] = postprocess_generated_text(said, wanted["until"], None)
                self.cache_hook.add_partial("generate_until", (text, given), found[number])
            elif finished.status == "too_long":
                self.refused += 1
            elif finished.error is not None:
                failures.append(finished.error)
            done += 1
            self._on_answer(done, len(asked))

        await asyncio.gather(*(answer(number, *pair) for number, pair in enumerate(asked)))
        asking.require_all()
        if failures:
            raise StageError(
                f"{len(failures)} of {len(asked)} requests to teacher '{self._teacher.name}' came"
                f" to nothing, e.g. {failures[0]}; the same command asks for these again"
            )
        return found
