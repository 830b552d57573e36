"""What lm-eval found, as part of evaluate's facts."""

from __future__ import annotations

from pydantic import BaseModel

from engine.run.fact_settings import FACTS


class HarnessFacts(BaseModel):
    """Base of all: frozen, and nothing that no field names."""

    model_config = FACTS


class HarnessTask(HarnessFacts):
    """A task of lm-eval, or a group of them."""

    kind: str
    """generate_until, multiple_choice, loglikelihood, loglikelihood_rolling, or group."""
    n: int | None = None
    """Rows that are asked."""
    shots: int | None = None
    """Examples before each."""
    version: str | None = None
    """Of the task, by its own file."""


class HarnessScore(HarnessFacts):
    """One figure of one task; null: the harness cannot tell."""

    task: str
    metric: str
    filter: str
    """What was done to the answer before it was scored; none: nothing."""
    value: float | None
    stderr: float | None
    higher_is_better: bool | None = None


class HarnessInfo(HarnessFacts):
    """What lm-eval found."""

    version: str
    """Of lm-eval."""
    tasks: dict[str, HarnessTask]
    """By name, groups last."""
    scores: dict[str, list[HarnessScore]]
    """By model."""
    unknown: dict[str, dict[str, str]] = {}
    """By model and task: why it has no score."""
    chat_template: dict[str, bool] = {}
    """By model: whether it was asked in its own chat template, or without one."""
    cost_usd: float | None = None
    """What asking the teacher's API took, at its prices."""
