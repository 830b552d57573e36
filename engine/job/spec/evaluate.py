"""The block `evaluate`: how the models are scored."""

from __future__ import annotations

from typing import Literal

from engine.job.spec.base import identity, placement
from engine.job.spec.engines import EngineSpec
from engine.job.spec.judge import JudgeSpec

MetricName = Literal[
    "exact_match",
    "f1",
    "accuracy",
    "macro_f1",
    "no_label",
    "bleu",
    "chrf",
    "rouge1",
    "rouge2",
    "rougeL",
    "length_ratio",
    "new_numbers",
    "slots",
    "tool_calls",
    "needless_calls",
]


class EvaluateSpec(EngineSpec):
    """Checkpoint + validation prompts -> scores of teacher, untrained baseline and student, whose
    engines run as the other fields say."""

    metrics: Literal["auto"] | list[MetricName] = identity("auto")
    """`auto`: the metrics of the job's task."""
    baseline: bool = identity(True)
    """Also score the student as it was before training."""
    tool_parser: str | None = identity(None)
    """vLLM's name of the parser that reads calls of tools out of the student's answers and the
    baseline's; wanted where prompts offer tools."""
    max_tokens: int | None = identity(None, ge=1)
    """Longest answer; none: generate.sampling.max_tokens."""
    reasoning_parser: str | None = identity(None)
    """vLLM's name of the parser that tells the student's (and the baseline's) reasoning from its
    answer, e.g. deepseek_r1: the answer alone is scored. None: the text is all answer."""
    cluster_by: str | None = identity(None)
    """Column of the prompts whose equal values belong together, such as the dialogue that several
    turns are of: intervals and tests count them as one. None: prompts are independent, and those of
    `prompts.turns: each` belong to their dialogue."""
    bootstrap_samples: int = identity(10_000, ge=1000, le=100_000)
    """Resamples of bootstrap intervals and tests. No p is smaller than one of them can tell: with
    few, and corrected for several metrics, no difference would ever be shown."""
    lm_eval: list[str] = placement([])
    """Task files of lm-eval (YAML) that teacher, baseline and student are scored by too, offline.
    Identity is their content, and that of the data that they name."""
    judge: JudgeSpec | None = identity(None)
    """A model that compares the answers; none: metrics alone."""

    def sources(self) -> list[str]:
        """Files and models whose content decides the result, but for what training made."""
        if self.judge is None:
            return []
        return [self.judge.rubric, self.judge.teacher.model]
