"""The block `evaluate`: how the models are scored."""

from __future__ import annotations

from typing import Literal

from engine.job.spec.base import identity
from engine.job.spec.engines import EngineSpec


class EvaluateSpec(EngineSpec):
    """Checkpoint + validation prompts -> scores of teacher, untrained baseline and student, whose
    engines run as the other fields say."""

    metrics: Literal["auto"] | list[Literal["exact_match", "f1", "accuracy", "bleu", "rougeL"]] = (
        identity("auto")
    )
    """`auto`: the metrics of the job's task."""
    baseline: bool = identity(True)
    """Also score the student as it was before training."""
    max_tokens: int | None = identity(None, ge=1)
    """Longest answer; none: generate.sampling.max_tokens."""
    bootstrap_samples: int = identity(1000, ge=100, le=100_000)
    """Resamples of the bootstrap interval of means and of retention."""
