"""report.json as a type: the contract that other tools may rely on.

New fields may be added; none changes its meaning. A percentile is null where it is infinite (more
requests failed than it leaves out) or where nothing was measured.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from engine.run.manifests import Manifest


class _Block(BaseModel):
    model_config = ConfigDict(extra="allow")


class Generate(_Block):
    """Teachers' answers; tokens are those of all final rows, `tokens_per_second` is output of the
    last session."""

    prompts: int
    completions: int
    tokens_in: int
    tokens_out: int
    tokens_per_second: float | None
    status: dict[str, int]


class Curate(_Block):
    """From completions to examples; `funnel` is [filter, rows left] in order."""

    rows_in: int
    rows_kept: int
    dropped: dict[str, int]
    funnel: list[tuple[str, int]]


class Train(_Block):
    """Losses are nats per target token; `tokens` are target tokens."""

    steps: int
    tokens: int
    tokens_per_second: float | None
    final_loss: float | None
    validation_loss: float | None
    zero_stage: int
    workers: int


class Quality(_Block):
    """Scores on `n` validation prompts; `ci95` by model (and `retention`); retention = student /
    teacher."""

    metric: str
    n: int
    teacher: float | None
    baseline: float | None
    student: float | None
    retention: float | None
    ci95: dict[str, tuple[float, float] | None]


class Percentiles(_Block):
    """Milliseconds."""

    p50: float | None
    p95: float | None
    p99: float | None


class Level(_Block):
    """One load on one model: either `concurrency` or `rate` (requests per second) is given."""

    concurrency: int | None = None
    rate: float | None = None
    requests: int
    failed: int
    request_throughput: float
    output_tokens_per_second: float
    ttft_ms: Percentiles
    tpot_ms: Percentiles
    e2e_ms: Percentiles
    valid: bool
    invalid_reason: str | None


class Serving(_Block):
    """The levels of one model, in the order of the job."""

    levels: list[Level]


class Report(_Block):
    """The whole of report.json."""

    schema_version: Literal[1]
    job: str
    git_commit: str | None
    versions: dict[str, str]
    stages: dict[str, Manifest]
    """At every stage rows in = rows out + dropped."""
    generate: Generate
    curate: Curate
    train: Train
    quality: Quality
    metrics: dict[str, dict[str, float | None]]
    serving: dict[str, Serving]
    warnings: list[str]
    """What a stage found doubtful, with its name in front."""
    lineage: dict[str, dict[str, str]]
    """By stage: `folder` under the run's root, and `manifest_sha256`."""
