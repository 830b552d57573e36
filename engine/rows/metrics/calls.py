"""Metrics of what an answer calls: right where tools and arguments are those of the gold answer."""

from __future__ import annotations

from engine.rows.metrics.metric import Asked
from engine.rows.tools import same_calls


def right_calls(text: str, asked: Asked) -> list[float]:
    """Whether the answer calls what the gold answer calls, no more and no less, with the same
    arguments; counted where the gold answer calls anything."""
    if asked.calls is None or asked.calls.wanted is None:
        return [0.0, 0.0]
    return [float(same_calls(asked.calls.said, asked.calls.wanted)), 1.0]


def needless_calls(text: str, asked: Asked) -> list[float]:
    """Whether the answer calls a tool where the gold answer calls none; counted where tools are
    offered."""
    if asked.calls is None or asked.calls.wanted is not None:
        return [0.0, 0.0]
    return [float(asked.calls.said is not None), 1.0]
