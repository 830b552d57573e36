"""Verdicts on answers against the references of their prompts, a slice of answers at a time.

Most are decided by rules. What only algebra can tell is asked together, because its processes work
side by side; which answers that are depends on their texts alone.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

from engine.backends.math_verifier import OpenAlgebra, algebra_for
from engine.job.spec import VerifySpec
from engine.rows.final_answer import (
    Algebra,
    Rules,
    Undecided,
    Verdict,
    judge,
    rules_for,
    settle,
)
from engine.rows.ids import bare_prompt
from engine.rows.records import Completion, Prompt

Key = tuple[int, str, int]


class Referee:
    """Judges answers, and remembers the verdicts of the slice that it studied last."""

    def __init__(self, rules: Rules, algebra: Algebra | None = None) -> None:
        self.rules = rules
        self._algebra = algebra
        self._verdicts: dict[Key, Verdict | None] = {}
        self._by_algebra: set[Key] = set()

    def study(self, answers: Sequence[Completion], prompts: Sequence[Prompt]) -> None:
        """Judge the answers of a slice, each with its prompt."""
        judged = []
        for answer, prompt in zip(answers, prompts, strict=True):
            asked = bare_prompt(prompt.messages)
            gold = prompt.right_answers
            judged.append(judge(prompt.task, answer.text, gold, self.rules, prompt=asked))
        verdicts = settle(judged, self._algebra)
        keys = [answer.key for answer in answers]
        self._verdicts = dict(zip(keys, verdicts, strict=True))
        self._by_algebra = set()
        for key, one in zip(keys, judged, strict=True):
            if isinstance(one, Undecided):
                self._by_algebra.add(key)

    def verdict(self, answer: Completion, prompt: Prompt) -> Verdict | None:
        """What the answer is; None where the prompt has no reference to compare."""
        key = answer.key
        if key not in self._verdicts:
            self.study([answer], [prompt])
        return self._verdicts[key]

    def checked_by(self, answer: Completion) -> str:
        """Who told the verdict of an answer: rule, math_verify, or none where only algebra could
        have told it."""
        if answer.key not in self._by_algebra:
            return "rule"
        is_told = self._verdicts[answer.key] != Verdict.UNVERIFIED
        return "math_verify" if is_told else "none"


@contextmanager
def referee_for(
    spec: VerifySpec, labels: Mapping[str, str], open_algebra: OpenAlgebra
) -> Generator[Referee]:
    """A referee who compares as the spec says; its processes end with the block."""
    rules = rules_for(spec.qa, labels)
    with algebra_for(spec, open_algebra) as algebra:
        yield Referee(rules, algebra)
