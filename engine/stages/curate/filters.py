"""Which answers are worth learning from: one pure function per rule, one table of all rules.

A filter sees one answer and its prompt and returns Keep() or Drop("reason"). It knows neither files
nor counts. Token arrays are not loaded for filters; `completion_tokens` says how many there are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.job.spec import CurateSpec
from engine.rows.final_answer import Verdict as Answered
from engine.rows.records import Completion, Prompt
from engine.rows.tools import is_sound, offered_in
from engine.stages.curate.referee import Referee


@dataclass(frozen=True)
class Keep:
    """The answer stays."""


@dataclass(frozen=True)
class Drop:
    """The answer goes; the reason is counted in the manifest."""

    reason: str


Verdict = Keep | Drop
_REASONS = {
    Answered.WRONG: "wrong_answer",
    Answered.NO_ANSWER: "no_answer",
    Answered.AMBIGUOUS: "ambiguous",
    Answered.UNVERIFIED: "unverified",
}
Settings = dict[str, Any]  # what a filter is told besides answer and prompt
SettingsOf = Callable[[CurateSpec, Referee], Settings | None]


def is_answered(answer: Completion, prompt: Prompt) -> Verdict:
    """Drop what never became an answer, under its status: empty, loop, too_long, refused, error."""
    if answer.status in ("ok", "truncated"):
        return Keep()
    return Drop(answer.status)


def is_complete(answer: Completion, prompt: Prompt, *, keep_truncated: bool) -> Verdict:
    """Drop answers that ran into max_tokens: a student taught by them learns not to stop."""
    if answer.status == "truncated" and not keep_truncated:
        return Drop("truncated")
    return Keep()


def has_length(
    answer: Completion, prompt: Prompt, *, min_tokens: int, max_tokens: int | None
) -> Verdict:
    """Drop answers outside the wanted length, in tokens; keep those whose length nobody told."""
    tokens = answer.completion_tokens
    if tokens is None:
        return Keep()
    if tokens < min_tokens:
        return Drop("too_few_tokens")
    if max_tokens is not None and tokens > max_tokens:
        return Drop("too_many_tokens")
    return Keep()


def agrees_with_reference(answer: Completion, prompt: Prompt, *, referee: Referee) -> Verdict:
    """Drop answers that are none of the prompt's references, and say why: wrong, no or several
    answers, or one that nobody could check; keep where there is no reference to compare."""
    if prompt.reference_calls is not None:  # what is called is no final answer
        return Keep()
    verdict = referee.verdict(answer, prompt)
    if verdict is None or verdict == Answered.RIGHT:
        return Keep()
    return Drop(_REASONS[verdict])


def calls_offered_tools(answer: Completion, prompt: Prompt) -> Verdict:
    """Drop answers whose calls a student must not copy: arguments that are no JSON object, and
    tools that nobody offered."""
    if answer.tool_calls is None:
        return Keep()
    calls = json.loads(answer.tool_calls)
    if not all(map(is_sound, calls)):
        return Drop("broken_tool_call")
    offered = {tool["function"]["name"] for tool in offered_in(prompt.tools)}
    if any(call["name"] not in offered for call in calls):
        return Drop("unknown_tool")
    return Keep()


def is_new(answer: Completion, prompt: Prompt, *, seen: set[int]) -> Verdict:
    """Drop an answer that the same prompt already has; `seen` is the memory of one run.

    Answers are judged in canonical order, so it is the first in that order that stays.
    """
    key = hash((answer.prompt_id, answer.said))
    if key in seen:
        return Drop("duplicate_answer")
    seen.add(key)
    return Keep()


def _whatever_the_spec(spec: CurateSpec, referee: Referee) -> Settings:
    return {}


def _truncation(spec: CurateSpec, referee: Referee) -> Settings:
    return {"keep_truncated": spec.keep_truncated}


def _bounds(spec: CurateSpec, referee: Referee) -> Settings:
    return {"min_tokens": spec.min_tokens, "max_tokens": spec.max_tokens}


def _reference(spec: CurateSpec, referee: Referee) -> Settings | None:
    if spec.check_reference:
        return {"referee": referee}
    return None


def _memory(spec: CurateSpec, referee: Referee) -> Settings | None:
    if spec.dedup == "exact":
        return {"seen": set()}
    return None


# In the order in which they judge. The second entry gives a filter's settings from the spec; None
# leaves it out.
FILTERS: dict[str, tuple[Callable[..., Verdict], SettingsOf]] = {
    "status": (is_answered, _whatever_the_spec),
    "truncated": (is_complete, _truncation),
    "length": (has_length, _bounds),
    "tool_calls": (calls_offered_tools, _whatever_the_spec),
    "reference": (agrees_with_reference, _reference),
    "duplicate": (is_new, _memory),
}
