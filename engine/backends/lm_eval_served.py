"""A model behind an endpoint of ours, as lm-eval asks it, in the harness' own process.

Conversations are formed by the model's own chat template where it has one; their answers come
through the chat route, as everybody gets them (reasoning told apart). All else goes as token ids,
so that context and continuation meet where the harness cut them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM  # ty: ignore[import-not-found]  # an extra
from lm_eval.models.utils import (  # ty: ignore[import-not-found]
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import (  # ty: ignore[import-not-found]
    get_rolling_token_windows,
    make_disjoint_window,
)

from engine.backends.lm_eval_client import Client, OnAnswer
from engine.rows.ids import derive_seed
from engine.rows.records import Messages

_READ = ("do_sample", "until", "max_gen_toks", "temperature")  # others go on as they are


def temperature_of(wanted: Mapping[str, Any]) -> float:
    """Of the settings that a task gives its answers: greedy, unless it asks for a draw."""
    usual = 1.0 if wanted.get("do_sample") else 0.0
    return float(wanted.get("temperature", usual))


class ServedModel(TemplateLM):
    """Answers and log-likelihoods. `max_tokens` bounds answers where a task does not; `is_chat`:
    texts are conversations in the tokenizer's template, which brings its own first token."""

    def __init__(
        self,
        client: Client,
        tokenizer: Any,
        *,
        is_chat: bool,
        max_tokens: int,
        seed: int,
        on_answer: OnAnswer,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.max_length = client.max_model_len
        self.shortened = 0  # texts whose beginning was left out
        self._client = client
        self._is_chat = is_chat
        self._max_tokens = max_tokens
        self._seed = seed
        self._on_answer = on_answer
        self._conversations: dict[str, Messages] = {}  # by their text in the template
        self._askings: Counter[str] = Counter()

    @property
    def eot_token_id(self) -> int:
        """What ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What a text without a context begins with."""
        if self.tokenizer.bos_token_id is not None:
            return self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id

    @property
    def tokenizer_name(self) -> str:
        """For a cache of the harness, which is not used."""
        return self.tokenizer.name_or_path

    def apply_chat_template(
        self, chat_history: Messages, add_generation_prompt: bool = True
    ) -> str:
        """A conversation as text; where its answer is begun already, the text ends there."""
        text = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        if add_generation_prompt:
            self._conversations[text] = chat_history
        return text

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Ids, by default with the tokenizer's first token where the text has none."""
        if add_special_tokens is None:
            has_its_own = has_bos_prefix(string, self.tokenizer.bos_token)
            add_special_tokens = not (self._is_chat or has_its_own)
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answer to each (text, settings), cut where the settings say."""
        keys = [request.args for request in requests]
        asked = [self._generation(*key) for key in keys]
        return self._all(asked, keys, "generate_until")

    def _generation(self, text: str, given: dict[str, Any]) -> Callable[[], Awaitable[str]]:
        wanted = normalize_gen_kwargs(given, self._max_tokens)
        until = [stop for stop in wanted["until"] if stop]
        max_tokens = min(wanted["max_gen_toks"], self.max_length - 1)
        body = {name: value for name, value in wanted.items() if name not in _READ}
        body["temperature"] = temperature_of(wanted)
        body["max_tokens"] = max_tokens
        if body["temperature"]:  # the same text may be asked several times
            body["seed"] = derive_seed(self._seed, text, self._askings[text])
            self._askings[text] += 1
        if until:
            body["stop"] = until
        ids = self.tok_encode(text)
        room = self.max_length - max_tokens
        messages = self._conversations.get(text)
        if len(ids) > room:
            self.shortened += 1
            messages = None

        async def answer() -> str:
            if messages is None:
                said = await self._client.complete(ids[-room:], body)
            else:
                said = await self._client.chat(messages, body)
            return postprocess_generated_text(said, until, None)

        return answer

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """Of each (key, context ids, continuation ids): the continuation's log-probability, and
        whether it is what the model would say."""
        keys = [key for key, _, _ in requests]
        asked = [self._scoring(context, more) for _, context, more in requests]
        return self._all(asked, keys, "loglikelihood")

    def _scoring(
        self, context: list[int], continuation: list[int]
    ) -> Callable[[], Awaitable[tuple[float, bool]]]:
        whole = context + continuation
        ids = whole[-(self.max_length - 1) :]  # one token is always written
        self.shortened += len(ids) < len(whole)
        wanted = min(len(continuation), len(ids) - 1)

        async def score() -> tuple[float, bool]:
            found = await self._client.logprobs(ids)
            total = 0.0
            is_greedy = True
            for logprob, rank in found[len(ids) - wanted :]:
                total += logprob
                is_greedy &= rank == 1
            return total, is_greedy

        return score

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-probability of each whole text, in windows of the model's length."""
        texts = [request.args[0] for request in requests]
        pieces: list[Any] = []
        owners: list[int] = []
        for number, text in enumerate(texts):
            windows = get_rolling_token_windows(
                self.tok_encode(text, add_special_tokens=False),
                self.prefix_token_id,
                self.max_length - 2,  # beside the token before, and the one that is written
                1,
            )
            for window in windows:
                pieces.append((None, *make_disjoint_window(window)))
                owners.append(number)
        totals = [0.0] * len(texts)
        for owner, (score, _) in zip(owners, self._loglikelihood_tokens(pieces), strict=True):
            totals[owner] += score
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def _all(
        self, asked: Sequence[Callable[[], Awaitable[Any]]], keys: Sequence[Any], kind: str
    ) -> list[Any]:
        """All answers in order, each kept as soon as it is there, so that a killed run goes on."""

        def keep(number: int, answer: Any) -> None:
            if keys[number] is not None:
                self.cache_hook.add_partial(kind, keys[number], answer)

        return asyncio.run(self._client.gather(asked, keep, self._on_answer))
