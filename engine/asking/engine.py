"""What a kind of teacher offers, what it is asked and what it gives: the seam between a replica and
an engine.

An engine is any class with the members of `AnswerEngine`; a new kind of teacher is one such class
and one line in ENGINES.
"""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import numpy as np

from engine.rows.records import Messages

ENGINES = {
    "vllm": "engine.backends.vllm_engine:VllmEngine",
    "openai": "engine.backends.api_teacher:OpenAITeacher",
    "anthropic": "engine.backends.api_teacher:AnthropicTeacher",
    "fake": "engine.backends.fake:FakeTeacher",
}
MAX_NUM_SEQS = {
    "cpu": 128,
    "gpu": 1024,
}  # ours, and what vLLM takes on a large GPU; before an engine says what it has


@dataclass(frozen=True)
class Sampling:
    """How one request is sampled; `seed=None` leaves the draw to the engine."""

    temperature: float
    max_tokens: int
    top_p: float = 1.0
    seed: int | None = None
    stop_loops: bool = False
    tries: int | None = (
        # that a budget holds, of an API which may charge each; None: as many as the job allows
        None
    )


@dataclass(frozen=True)
class Generation:
    """One finished answer: token ids (T,), sampled log-probabilities (T,), top-k (T*k,) flat, tail
    mass (T,).

    An engine that gives text and no ids (an API) sets `text` and the token counts, and the texts of
    its top log-probabilities as `topk_tokens` (T*k,). `lost_tries` were sent before, came to
    nothing, and may be charged all the same; of others it is known what they were charged:
    `lost_tokens` in and out.
    """

    finish_reason: str
    token_ids: Any = field(default_factory=lambda: np.zeros(0, np.int32))
    token_logprobs: Any = field(default_factory=lambda: np.zeros(0, np.float32))
    topk_ids: Any = field(default_factory=lambda: np.zeros(0, np.int32))
    topk_logprobs: Any = field(default_factory=lambda: np.zeros(0, np.float32))
    tail: Any = field(default_factory=lambda: np.zeros(0, np.float32))
    text: str | None = None
    reasoning: str | None = None
    topk_tokens: list[str] = field(default_factory=list)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    lost_tries: int = 0
    lost_tokens: tuple[int, int] = (0, 0)

    @property
    def size_bytes(self) -> int:
        """About what it adds to a part."""
        return sum(
            array.nbytes
            for array in (
                self.token_ids,
                self.token_logprobs,
                self.topk_ids,
                self.topk_logprobs,
                self.tail,
            )
        )

    @property
    def tokens(self) -> int | None:
        """Tokens of the answer, by the server's count where it gives no ids; None where it does not
        say."""
        untold = (
            self.completion_tokens is None and self.text is not None and not len(self.token_ids)
        )
        return (
            None
            if untold
            else len(self.token_ids)
            if self.completion_tokens is None
            else self.completion_tokens
        )


class PromptTooLong(Exception):
    """A server's word that a prompt does not fit its model; the row's status is `too_long`."""


class AnswerEngine(Protocol):
    """What a kind of teacher offers. Built as `Kind(teacher, capture, device=..., timeout_s=...,
    attempts=...)`.

    `max_model_len` None means a server that checks lengths, keeps deadlines and retries itself,
    through its client. An EngineError from `generate` ends the stage (a refused key, say); any
    other error is one row's status.
    """

    max_model_len: int | None
    metadata: dict[str, Any]

    def encode(self, conversations: list[Messages]) -> list[Any]:
        """What `generate` takes: token ids (P,) each, or, where `max_model_len` is None, whatever
        it likes."""

    def decode(self, token_ids: list[Any]) -> list[tuple[str, str | None]]:
        """Ids (T,) of finished answers -> answer, and reasoning where it is told apart; not asked
        for a Generation with `text`."""

    async def open(self) -> None:
        """Before the first request: the last chance to fail for free, with an EngineError."""

    async def generate(self, prompt: Any, sampling: Sampling) -> Generation:
        """One answer to one prompt; many calls are open at a time."""


def leave(why: str) -> NoReturn:
    """End this process: Ray replaces a dead actor, and would give a live one around a broken engine
    every retry."""
    if sys.exc_info()[0]:
        traceback.print_exc()
    sys.stderr.write(f"{why}: this replica ends\n")
    os._exit(1)
