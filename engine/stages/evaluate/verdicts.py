"""What each answer is, against the references of its prompt: right, wrong, or neither.

The same rules as in curate, and the same second opinion. The metrics score what was found here; an
answer that nobody could check is not right, and not wrong either: it is counted apart, and a
sentence says what the score would be if all of those were right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from engine.backends.math_verifier import OpenAlgebra, settled
from engine.job.spec import VerifySpec
from engine.rows.final_answer import Rules, Verdict, is_compared, judge
from engine.rows.ids import bare_prompt
from engine.rows.records import Prompt
from engine.stages.evaluate.scoring import Answers, References

Verdicts = dict[str, list[Verdict | None]]  # model -> one per prompt; None: nothing to compare
UNCHECKED = "unchecked"  # no reference that the task can compare
KINDS = (*Verdict, UNCHECKED)


def verdicts_of(
    task: str,
    answers: Answers,
    references: References,
    prompts: Sequence[Prompt],
    rules: Rules,
    spec: VerifySpec,
    open_algebra: OpenAlgebra,
) -> Verdicts:
    """The verdict on every answer of every model; none where the task has no right and wrong."""
    if not is_compared(task):
        return {}
    asked = [bare_prompt(prompt.messages) for prompt in prompts]
    judged = []
    for rows in answers.values():
        for row, gold, prompt in zip(rows, references.texts, asked, strict=True):
            judged.append(judge(task, row.text, gold, rules, prompt=prompt))
    found = iter(settled(judged, spec, open_algebra))
    return {model: [next(found) for _ in rows] for model, rows in answers.items()}


def counts_of(verdicts: Verdicts, references: References) -> dict[str, dict[str, int]]:
    """How many answers of each model are what; of the teacher those with a gold answer, for the
    others are their own reference."""
    counts = {}
    for model, found in verdicts.items():
        counted = np.ones(len(found), bool)
        if model == "teacher":
            counted = references.is_gold
        names = [
            verdict or UNCHECKED for verdict, is_in in zip(found, counted, strict=True) if is_in
        ]
        if names:
            tally = Counter(map(str, names))
            counts[model] = {str(kind): tally[str(kind)] for kind in KINDS}
    return counts


def doubts_of(counts: Mapping[str, Mapping[str, int]], spec: VerifySpec) -> list[str]:
    """A sentence for each model of which answers could not be checked: between what its score
    lies."""
    why = f"math-verify gave no verdict within {spec.timeout_s:g} s (curate.verify.timeout_s)"
    if spec.math == "rules":
        why = "curate.verify.math is `rules`; rules+math_verify asks algebra"
    sentences = []
    for model, tally in counts.items():
        unverified = tally[Verdict.UNVERIFIED]
        if not unverified:
            continue
        count = sum(tally.values())
        least = tally[Verdict.RIGHT] / count
        most = (tally[Verdict.RIGHT] + unverified) / count
        sentences.append(
            f"{unverified:,} of {count:,} answers of the {model} are unverified, neither right nor"
            f" wrong: {why}; its share of right answers lies between {least:.3g} and {most:.3g}"
        )
    return sentences
