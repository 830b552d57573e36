"""report.json as a type: the contract that other tools may rely on.

Its blocks are what the stages published (engine/run/facts.py). New fields may be added; none
changes its meaning. A percentile is null where it is infinite (more requests failed than it leaves
out) or where nothing was measured.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from engine.run.facts import (
    Compared,
    CurateInfo,
    EqualSlo,
    Footprint,
    GenerateInfo,
    Judge,
    Quality,
    Serving,
    TrainInfo,
)
from engine.run.harness_facts import HarnessInfo
from engine.run.manifests import Manifest


class Curate(CurateInfo):
    """From completions to examples, with the rows of the manifest."""

    rows_in: int
    rows_kept: int
    dropped: dict[str, int]


class Ratio(BaseModel):
    """The student's gain over the teacher, more is better: either a value and how it was measured,
    or why it is not known."""

    value: float | None
    how: str | None
    why_unknown: str | None


class Report(BaseModel):
    """The whole of report.json."""

    schema_version: Literal[1]
    job: str
    git_commit: str | None
    versions: dict[str, str]
    stages: dict[str, Manifest]
    """At every stage rows in = rows out + dropped."""
    generate: GenerateInfo
    curate: Curate
    train: TrainInfo
    quality: Quality
    metrics: dict[str, dict[str, float | None]]
    signatures: dict[str, str]
    """By metric: how it was computed, in sacrebleu's form."""
    comparisons: dict[str, list[Compared]]
    """The student against baseline and teacher, the headline metric first."""
    ratios: dict[str, Ratio]
    """latency, memory, cost_per_answer: times less than the teacher; concurrent_users: times more;
    kept_accuracy: student / teacher."""
    footprint: dict[str, Footprint]
    verdicts: dict[str, dict[str, int]] = {}
    """By model: answers that are right, wrong, no_answer, ambiguous, unverified, unchecked."""
    lm_eval: HarnessInfo | None = None
    """By the job's task files of lm-eval; null where it names none."""
    serving: dict[str, Serving]
    equal_slo: EqualSlo | None = None
    judge: Judge | None = None
    """What a model says of the answers; null where the job names none."""
    warnings: list[str]
    """What a stage found doubtful, with its name in front."""
    lineage: dict[str, dict[str, str]]
    """By stage: `folder` under the run's root, and `manifest_sha256`."""
