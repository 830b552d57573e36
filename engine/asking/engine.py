"""What a kind of teacher offers, what it is asked and what it gives: the seam between a replica and
an engine.

A new kind of teacher is a subclass of `AnswerEngine`, one line in ENGINES, and its block in the
spec.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa

from engine.asking.respondents import Asked
from engine.job.spec import AskingSpec
from engine.rows.tools import Call, Conversation, Tool
from engine.run.batches import BatchLedger
from engine.run.parts import Key
from engine.store.paths import Folder

ENGINES = {
    "vllm": "engine.backends.vllm_engine:VllmEngine",
    "openai": "engine.backends.api_teacher:OpenAITeacher",
    "anthropic": "engine.backends.api_teacher:AnthropicTeacher",
    "openai batch": "engine.backends.api_batch:BatchTeacher",
    "anthropic batch": "engine.backends.api_batch:BatchTeacher",
    "fake": "engine.backends.fake:FakeTeacher",
}


@dataclass(frozen=True)
class Sampling:
    """How one request is sampled; `seed=None` leaves the draw to the engine."""

    temperature: float
    max_tokens: int
    top_p: float = 1.0
    seed: int | None = None
    stop_loops: bool = False
    # Those that a budget holds, of an API which may charge each; None: as many as the job allows.
    tries: int | None = None
    # Who asks, and the most that it may cost: what a batch's results are known by after a restart.
    row: Key | None = None
    most_usd: float = 0.0


@dataclass(frozen=True)
class Generation:
    """One finished answer: token ids (T,), sampled log-probabilities (T,), top-k (T*k,) flat, tail
    mass (T,).

    An engine that gives text and no ids (an API) sets `text`, the tools that it `calls`, the token
    counts, and the texts of its top log-probabilities as `topk_tokens` (T*k,). `lost_tries` were
    sent before, came to nothing, and may be charged all the same; of others it is known what they
    were charged: `lost_tokens` in and out.
    """

    finish_reason: str
    token_ids: Any = field(default_factory=lambda: np.zeros(0, np.int32))
    token_logprobs: Any = field(default_factory=lambda: np.zeros(0, np.float32))
    topk_ids: Any = field(default_factory=lambda: np.zeros(0, np.int32))
    topk_logprobs: Any = field(default_factory=lambda: np.zeros(0, np.float32))
    tail: Any = field(default_factory=lambda: np.zeros(0, np.float32))
    text: str | None = None
    reasoning: str | None = None
    calls: list[Call] = field(default_factory=list)
    topk_tokens: list[str] = field(default_factory=list)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    lost_tries: int = 0
    lost_tokens: tuple[int, int] = (0, 0)

    @property
    def size_bytes(self) -> int:
        """About what it adds to a part."""
        signal = (self.token_logprobs, self.topk_ids, self.topk_logprobs, self.tail)
        return self.token_ids.nbytes + sum(array.nbytes for array in signal)

    @property
    def tokens(self) -> int | None:
        """Tokens of the answer, by the server's count where it gives no ids; None where it does not
        say."""
        if self.completion_tokens is not None:
            return self.completion_tokens
        if self.text is not None and not len(self.token_ids):
            return None
        return len(self.token_ids)


class Said(NamedTuple):
    """What the tokens of an answer say: text, the reasoning before it where it is told apart, and
    the tools that it calls."""

    text: str
    reasoning: str | None = None
    calls: Sequence[Call] = ()


class PromptTooLong(Exception):
    """A server's word that a prompt does not fit its model; the row's status is `too_long`."""


class AnswerEngine(ABC):
    """What answers inside a replica. Built as `Kind(model, capture, device=..., timeout_s=...,
    attempts=...)`.

    An EngineError from `generate` ends the stage (a refused key, say); any other error is one row's
    status.
    """

    takes: ClassVar[Literal["token_ids", "messages"]] = "token_ids"
    keeps_deadlines: ClassVar[bool] = False  # its client does, and tries again by itself
    max_model_len: int | None = None  # tokens of prompt and answer; None: the server checks it
    max_num_seqs: int | None = None  # sequences at a time; None: the job decides alone
    metadata: dict[str, Any]

    @abstractmethod
    def encode(self, conversations: list[Conversation]) -> list[Any]:
        """What `generate` takes: token ids (P,) each, or conversations as they are."""

    def decode(self, token_ids: list[Any], tools: Sequence[Sequence[Tool]]) -> list[Said]:
        """Ids (T,) of finished answers, and the tools that each could call, -> what they say; not
        asked for a Generation with `text`."""
        raise TypeError(f"{type(self).__name__} gives text, not token ids")

    async def open(self) -> None:  # noqa: B027 - most have nothing to do
        """Before the first request: the last chance to fail for free, with an EngineError."""

    @abstractmethod
    async def generate(self, prompt: Any, sampling: Sampling) -> Generation:
        """One answer to one prompt; many calls are open at a time."""

    def figures(self) -> dict[str, float]:
        """What a client says of itself in the live view."""
        return {}

    def notes(self) -> list[str]:
        """What people may want to know of what it waits for."""
        return []

    def under_way(self) -> Mapping[Key, float]:
        """After `open`: rows that an earlier process asked and may have paid for, and the most that
        each can cost in USD."""
        return {}

    async def let_go(self) -> None:  # noqa: B027
        """Nothing more is asked, and what takes hours is not waited for: it raises Stopped."""

    def silent_s(self) -> float:
        """Seconds since the engine last took a step, while it has something to do."""
        return 0.0

    def on_step(self, step: str, path: Folder, data: pa.Buffer) -> None:  # noqa: B027
        """Told where in a commit the writer of its answers is, for fault tests."""


def build_engine(
    model: Asked, spec: AskingSpec, device: str, ledger: BatchLedger | None = None
) -> AnswerEngine:
    """The engine of a kind of teacher, in this process; its library is imported here. One that asks
    in batches remembers them in `ledger`."""
    called = model.kind
    more: dict[str, Any] = {}
    if ledger is not None:
        called += " batch"
        more["ledger"] = ledger
    module_name, name = ENGINES[called].split(":")
    kind = getattr(importlib.import_module(module_name), name)
    return kind(
        model,
        spec.capture,
        device=device,
        timeout_s=spec.request_timeout_s,
        attempts=spec.max_attempts,
        **more,
    )


def end_process(why: str) -> NoReturn:
    """End this process: Ray replaces a dead actor, and would give a live one around a broken engine
    every retry."""
    if sys.exc_info()[0]:
        traceback.print_exc()
    sys.stderr.write(f"{why}: this replica ends\n")
    os._exit(1)
