"""Log-probabilities in the OpenAI protocol's form -> the signal fields of a Generation.

Shapes: T generated tokens, k captured log-probabilities.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.backends.api_words import ApiError, storable

_ID = "token_id:"  # vLLM's return_tokens_as_token_ids
_NO_TOKEN = ("", -math.inf)


def signal_of_positions(positions: list[Any], k: int) -> dict[str, Any]:
    """T log-probabilities in OpenAI's form -> the signal fields of a Generation: each position's k
    most likely tokens, in order.

    Ids where all tokens are `token_id:123`; else texts, filled up with "" and -inf where the API
    gives fewer than k. ApiError if there are ids, but fewer than k.
    """
    entries: list[tuple[str, float]] = []
    fewest = k
    for position in positions:
        row = _most_likely(position, k)
        entries += row
        missing = k - len(row)
        if missing:
            fewest = min(fewest, len(row))
            entries += [_NO_TOKEN] * missing
    most_likely = [token for token, _ in entries]
    logprobs = np.asarray([logprob for _, logprob in entries])
    masses = np.exp(logprobs).reshape(-1, k)
    mass = masses.sum(axis=1)
    tail = np.clip(1.0 - mass, 0.0, 1.0)
    tokens = [position.token for position in positions]
    sampled = [position.logprob for position in positions]
    signal: dict[str, Any] = {
        "token_logprobs": np.asarray(sampled, np.float32),
        "topk_logprobs": logprobs.astype(np.float32),
        "tail": tail.astype(np.float32),
    }
    has_ids = all(token.startswith(_ID) for token in tokens)
    if not has_ids:
        signal["topk_tokens"] = list(map(storable, most_likely))
        return signal
    if fewest < k:
        raise ApiError(
            f"the server gives {fewest} log-probabilities at a position; capture.top_k wants {k}"
        )
    signal["token_ids"] = _ids(tokens)
    signal["topk_ids"] = _ids(most_likely)
    return signal


def _most_likely(position: Any, k: int) -> list[tuple[str, float]]:
    entries = [(entry.token, entry.logprob) for entry in position.top_logprobs]
    falling = sorted(entries, key=lambda entry: -entry[1])
    return falling[:k]


def _ids(tokens: list[str]) -> np.ndarray:
    numbers = [int(token.removeprefix(_ID)) for token in tokens]
    return np.asarray(numbers, np.int32)
