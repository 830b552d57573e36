"""Which answers are worth learning from: one pure function per rule, one table of all rules.

A filter sees one answer and its prompt and returns Keep() or Drop("reason"). It knows neither files
nor counts. Token arrays are not loaded for filters; `completion_tokens` says how many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.job.spec import CurateSpec
from engine.rows.final_answer import same_final_answer
from engine.rows.records import Completion, Prompt


@dataclass(frozen=True)
class Keep:
    """The answer stays."""


@dataclass(frozen=True)
class Drop:
    """The answer goes; the reason is counted in the manifest."""

    reason: str


Verdict = Keep | Drop


def is_answered(answer: Completion, prompt: Prompt) -> Verdict:
    """Drop what never became an answer, under its status: empty, loop, too_long, refused, error."""
    return Keep() if answer.status in ("ok", "truncated") else Drop(answer.status)


def is_complete(answer: Completion, prompt: Prompt, *, keep_truncated: bool) -> Verdict:
    """Drop answers that ran into max_tokens: a student taught by them learns not to stop."""
    return Drop("truncated") if answer.status == "truncated" and not keep_truncated else Keep()


def has_length(
    answer: Completion, prompt: Prompt, *, min_tokens: int, max_tokens: int | None
) -> Verdict:
    """Drop answers outside the wanted length, in tokens; keep those whose length nobody told."""
    if answer.completion_tokens is None:
        return Keep()
    if answer.completion_tokens < min_tokens:
        return Drop("too_few_tokens")
    return (
        Drop("too_many_tokens")
        if max_tokens is not None and answer.completion_tokens > max_tokens
        else Keep()
    )


def agrees_with_reference(answer: Completion, prompt: Prompt) -> Verdict:
    """Drop answers whose final answer is not the reference's; keep where there is none to
    compare."""
    return (
        Drop("wrong_answer")
        if same_final_answer(prompt.task, answer.text, prompt.reference) is False
        else Keep()
    )


def is_new(answer: Completion, prompt: Prompt, *, seen: set[int]) -> Verdict:
    """Drop an answer that the same prompt already has; `seen` is the memory of one run."""
    key = hash((answer.prompt_id, answer.text))
    if key in seen:
        return Drop("duplicate_answer")
    seen.add(key)
    return Keep()


# In the order in which they judge. The second entry gives a filter's settings from the spec; None
# leaves it out.
FILTERS: dict[str, tuple[Callable[..., Verdict], Callable[[CurateSpec], dict[str, Any] | None]]] = {
    "status": (is_answered, lambda spec: {}),
    "truncated": (is_complete, lambda spec: {"keep_truncated": spec.keep_truncated}),
    "length": (
        has_length,
        lambda spec: {"min_tokens": spec.min_tokens, "max_tokens": spec.max_tokens},
    ),
    "reference": (agrees_with_reference, lambda spec: {} if spec.check_reference else None),
    "duplicate": (is_new, lambda spec: {"seen": set()} if spec.dedup == "exact" else None),
}
