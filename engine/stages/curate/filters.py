"""Which answers are worth learning from, one by one: a pure function per rule, one table of all.

A filter sees one answer and its prompt and returns Keep() or Drop("reason"), with what it found
for the verdict's columns. It knows neither files nor counts. Token arrays are not loaded for
filters; `completion_tokens` says how many there are. What depends on other answers is a rule over
a table (rules.py).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.curation.languages import language_of
from engine.curation.privacy import pii_in
from engine.curation.refusals import is_refusal
from engine.curation.repetition import repetition
from engine.job.spec import CurateSpec
from engine.rows.final_answer import Rules
from engine.rows.final_answer import Verdict as Answered
from engine.rows.ids import bare_prompt
from engine.rows.records import Completion, Prompt
from engine.rows.stated_answer import stated
from engine.rows.tools import is_sound, offered_in
from engine.stages.curate.leaks import Leaks
from engine.stages.curate.referee import Referee

Found = Mapping[str, Any]  # by column of CompletionVerdict


@dataclass(frozen=True)
class Keep:
    """The answer stays."""

    found: Found = field(default_factory=dict)


@dataclass(frozen=True)
class Drop:
    """The answer goes; the reason is counted in the manifest."""

    reason: str
    found: Found = field(default_factory=dict)


@dataclass(frozen=True)
class Experts:
    """Those who look at a slice of answers together before filters ask them about each."""

    referee: Referee
    leaks: Leaks | None = None


Verdict = Keep | Drop
_REMEMBERED = 1024  # messages of prompts, of which it is known what personal data they hold
_REASONS = {
    Answered.WRONG: "wrong_answer",
    Answered.NO_ANSWER: "no_answer",
    Answered.AMBIGUOUS: "ambiguous",
    Answered.UNVERIFIED: "unverified",
}
Settings = dict[str, Any]  # what a filter is told besides answer and prompt
SettingsOf = Callable[[CurateSpec, Experts], Settings | None]


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


def speaks(answer: Completion, prompt: Prompt, *, languages: list[str] | None) -> Verdict:
    """Drop answers in another language than those wanted; keep those too short to tell."""
    language = language_of(answer.text)
    found = {"language": language}
    if languages is None or language is None or language in languages:
        return Keep(found)
    return Drop("language", found)


def says_it_once(answer: Completion, prompt: Prompt, *, most: float) -> Verdict:
    """Drop answers that repeat themselves: teachers that loop, teach looping."""
    share = repetition(answer.text)
    found = {"repetition": share}
    return Drop("repetition", found) if share > most else Keep(found)


def answers_at_all(answer: Completion, prompt: Prompt, *, drops: bool) -> Verdict:
    """Drop, or only mark, what is nothing but a refusal."""
    refuses = is_refusal(answer.text)
    found = {"refusal": refuses}
    return Drop("refusal", found) if refuses and drops else Keep(found)


def holds_no_pii(
    answer: Completion, prompt: Prompt, *, kinds: tuple[str, ...] | None, drops: bool
) -> Verdict:
    """Drop, or only mark, examples with personal data in the answer, in the thoughts before it, or
    in what it answers, earlier calls of tools included."""
    kinds_found = {one.kind for one in pii_in(answer.written, kinds)}
    for message in prompt.messages:
        kinds_found |= _kinds_asked(message["content"], kinds)
    if prompt.tools is not None:
        kinds_found |= _kinds_asked(prompt.tools, kinds)
    found = {"pii": sorted(kinds_found)}
    return Drop("pii", found) if kinds_found and drops else Keep(found)


@functools.lru_cache(maxsize=_REMEMBERED)
def _kinds_asked(text: str, kinds: tuple[str, ...] | None) -> frozenset[str]:
    """Of a prompt's message. Remembered, because the samples of a prompt are to the same text, and
    a system's message may stand in all prompts."""
    return frozenset(one.kind for one in pii_in(text, kinds))


def is_unseen(answer: Completion, prompt: Prompt, *, leaks: Leaks) -> Verdict:
    """Drop answers that hold an item of the test data or of the validation prompts."""
    leak = leaks.found(answer)
    if leak is None:
        return Keep()
    found = {"contaminated_by": leak.item, "coverage": leak.coverage}
    return Drop("contaminated", found) if leak.counts else Keep(found)


def agrees_with_reference(
    answer: Completion, prompt: Prompt, *, referee: Referee, drops: bool = True
) -> Verdict:
    """Drop answers that are none of the prompt's references, and say why: wrong, no or several
    answers, or one that nobody could check; keep where there is no reference to compare."""
    if prompt.reference_calls is not None:  # what is called is no final answer
        return Keep()
    verdict = referee.verdict(answer, prompt)
    if verdict is None:
        return Keep()
    is_right = None if verdict == Answered.UNVERIFIED else verdict == Answered.RIGHT
    found = {"correct": is_right, "checked_by": referee.checked_by(answer)}
    if verdict == Answered.RIGHT or not drops:
        return Keep(found)
    return Drop(_REASONS[verdict], found)


def states(answer: Completion, prompt: Prompt, *, rules: Rules) -> Verdict:
    """Keep all, and find the final answer, and the label by which rules over tables go where there
    is no gold one."""
    said = stated(prompt.task, answer.text, rules, prompt=bare_prompt(prompt.messages))
    found = {"answer": said}
    if prompt.task == "nli" and not prompt.right_answers:
        found["label"] = said
    return Keep(found)


def _whatever_the_spec(spec: CurateSpec, experts: Experts) -> Settings:
    return {}


def _truncation(spec: CurateSpec, experts: Experts) -> Settings:
    return {"keep_truncated": spec.keep_truncated}


def _bounds(spec: CurateSpec, experts: Experts) -> Settings:
    return {"min_tokens": spec.min_tokens, "max_tokens": spec.max_tokens}


def _languages(spec: CurateSpec, experts: Experts) -> Settings | None:
    is_counted = spec.balance is not None and spec.balance.by == "language"
    if spec.languages is None and not is_counted:
        return None
    return {"languages": spec.languages}


def _repetition(spec: CurateSpec, experts: Experts) -> Settings | None:
    return None if spec.repetition is None else {"most": spec.repetition}


def _refusals(spec: CurateSpec, experts: Experts) -> Settings | None:
    return None if spec.refusals is None else {"drops": spec.refusals == "drop"}


def _pii(spec: CurateSpec, experts: Experts) -> Settings | None:
    if spec.pii is None:
        return None
    return {"kinds": tuple(spec.pii.kinds) or None, "drops": spec.pii.action == "drop"}


def _leaks(spec: CurateSpec, experts: Experts) -> Settings | None:
    return None if spec.decontaminate is None else {"leaks": experts.leaks}


def _reference(spec: CurateSpec, experts: Experts) -> Settings | None:
    if spec.checks_answers:
        return {"referee": experts.referee, "drops": spec.check_reference}
    return None


def _stated(spec: CurateSpec, experts: Experts) -> Settings | None:
    is_counted = spec.balance is not None and spec.balance.by == "label"
    return {"rules": experts.referee.rules} if is_counted or spec.majority else None


# In the order in which they judge. The second entry gives a filter's settings from the spec; None
# leaves it out.
FILTERS: dict[str, tuple[Callable[..., Verdict], SettingsOf]] = {
    "status": (is_answered, _whatever_the_spec),
    "truncated": (is_complete, _truncation),
    "length": (has_length, _bounds),
    "tool_calls": (calls_offered_tools, _whatever_the_spec),
    "language": (speaks, _languages),
    "repetition": (says_it_once, _repetition),
    "refusal": (answers_at_all, _refusals),
    "pii": (holds_no_pii, _pii),
    "contaminated": (is_unseen, _leaks),
    "reference": (agrees_with_reference, _reference),
    "stated": (states, _stated),
}
