"""A row on its way through a replica, and which rows must go alone because engines died while they
were asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.asking.engine import Generation
from engine.rows.tools import Tool
from engine.run import parts

DEATHS_OF_A_POISON = 3  # a row that was in so many engines when they died is not asked again


@dataclass(frozen=True)
class Request:
    """A row on its way: first a request, then with an answer or a final status."""

    prompt_id: int
    sample_index: int
    split: str
    seed: int
    prompt: Any
    attempt: int
    generation: Generation | None = None
    status: str | None = None
    error: str | None = None
    lost_usd: float = 0.0  # what its tries that came to nothing may have cost
    tools: Sequence[Tool] = ()  # that its answer may call

    @property
    def key(self) -> parts.Key:
        return self.prompt_id, self.sample_index


def set_apart(requests: list[Request]) -> tuple[list[Request], list[list[Request]]]:
    """Requests that run together, and groups of suspects: a quarter of the shard each after one
    death, one row each after two.

    Most deaths are a machine's and not a row's, so the first suspicion may not cost much; alone, a
    row proves itself.
    """
    poisoned = f"its engine died {DEATHS_OF_A_POISON} times while it was asked, the last time alone"
    together: list[Request] = []
    suspects: list[
        Request
    ] = []  # they were in one engine when it died: it may have been any of them
    alone: list[list[Request]] = []
    for request in requests:
        if request.attempt == 1:
            together.append(request)
        elif request.attempt == 2:
            suspects.append(request)
        elif request.attempt <= DEATHS_OF_A_POISON:
            alone.append([request])
        else:  # it died alone too: asked no more, it passes through as it is
            together.append(replace(request, status="error", error=poisoned))
    size = math.ceil(len(suspects) / 4) or 1
    groups = [suspects[start : start + size] for start in range(0, len(suspects), size)]
    return together, groups + alone


def room_for_answer(max_model_len: int | None, prompt: Any) -> int:
    """Tokens left for the answer; an engine that checks lengths itself always has room."""
    return 2**31 if max_model_len is None else max_model_len - len(prompt)
