"""Validation prompts with every model's answer beside each other: the best, the worst, and where
student and baseline differ most. The whole of it is in evaluate's data/answers.parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from engine.curation.privacy import redacted
from engine.rows.records import Answer, Prompt
from engine.run.manifests import Finished
from engine.stages.report.table import MODELS, Table, figure, words

Shown = Callable[[str], str]  # a text, as it may stand in a table
EACH = 5
MOST_CHARACTERS = 500  # of a text in the report


@dataclass(frozen=True)
class Example:
    """One prompt, its answers by model, and their scores in the headline metric."""

    prompt: str
    reference: str
    texts: dict[str, str]
    scores: dict[str, float | None]

    def score(self, model: str) -> float:
        """0 where there is nothing to score, or no such model."""
        return self.scores.get(model) or 0.0


def examples_of(metric: str, prompts: Iterable[Prompt], answers: Iterable[Answer]) -> list[Example]:
    """One per prompt that was answered, in the order of the prompts."""
    by_prompt: dict[int, list[Answer]] = {}
    for answer in answers:
        by_prompt.setdefault(answer.prompt_id, []).append(answer)
    found = []
    for prompt in prompts:
        rows = by_prompt.get(prompt.prompt_id, [])
        if rows:
            texts = {row.model: row.text for row in rows}
            scores = {row.model: json.loads(row.scores).get(metric) for row in rows}
            asked = prompt.messages[-1]["content"]
            found.append(
                Example(
                    asked,
                    rows[0].reference or "",
                    texts,
                    scores,
                )
            )
    return found


def side_by_side(metric: str, examples: Sequence[Example], shown: Shown) -> list[Table]:
    """Five of each kind, each prompt once."""
    models = [model for model in MODELS if any(model in each.texts for each in examples)]
    other = "baseline" if "baseline" in models else "teacher"
    kinds: dict[str, Callable[[Example], float]] = {
        "Best answers of the student": lambda each: -each.score("student"),
        "Worst answers of the student": lambda each: each.score("student"),
        f"Where student and {other} differ most": lambda each: -_apart(each, other),
    }
    left = list(examples)
    tables = []
    for title, order in kinds.items():
        chosen = sorted(left, key=order)[:EACH]
        left = [each for each in left if each not in chosen]
        if chosen:
            tables.append(
                _table(
                    title,
                    metric,
                    models,
                    chosen,
                    shown,
                )
            )
    return tables


def _apart(example: Example, other: str) -> float:
    return abs(example.score("student") - example.score(other))


def _table(
    title: str,
    metric: str,
    models: Sequence[str],
    chosen: Sequence[Example],
    shown: Shown,
) -> Table:
    rows = []
    for example in chosen:
        row = [shown(example.prompt), shown(example.reference)]
        for model in models:
            text = shown(example.texts.get(model, ""))
            row.append(f"[{figure(example.scores.get(model))}] {text}")
        rows.append(row)
    note = f"In brackets: {words(metric)} of the answer."
    return Table(
        title,
        ["prompt", "reference", *models],
        rows,
        note,
        is_text=True,
    )


def shown_after(curate: Finished) -> Shown:
    """How a text may stand in the report: without personal data, where curate looked for it."""
    pii = curate.manifest.identity.get("blocks", {}).get("curate", {}).get("pii")
    if pii is None:
        return clipped
    kinds = pii.get("kinds") or None
    return lambda text: clipped(redacted(text, kinds))


def clipped(text: str) -> str:
    """A text that may stand in a table."""
    if len(text) <= MOST_CHARACTERS:
        return text
    more = len(text) - MOST_CHARACTERS
    return f"{text[:MOST_CHARACTERS]}… ({more:,} characters more)"
