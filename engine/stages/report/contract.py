"""report.json as a type: the contract that other tools may rely on.

New fields may be added; none changes its meaning. A block is null where its stage had nothing to say, a percentile is
null where it is infinite (more requests failed than it leaves out) or where nothing was measured.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Interval = tuple[float, float]


class _Block(BaseModel):
    model_config = ConfigDict(extra="allow")


class StageEntry(_Block):
    """A finished stage: rows in = rows out + dropped."""

    seconds: float
    rows_in: int
    rows_out: int
    dropped: dict[str, int]
    finished_at: str


class Generate(_Block):
    """Teachers' answers; tokens are those of all final rows, `tokens_per_second` is output of the last session."""

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
    funnel: list[tuple[str, int]] = []


class Train(_Block):
    """Losses are nats per target token; `tokens` are target tokens."""

    steps: int
    tokens: int
    tokens_per_second: float | None
    final_loss: float | None
    validation_loss: float | None = None
    zero_stage: int
    workers: int


class Quality(_Block):
    """Scores on `n` validation prompts; `ci95` by model (and `retention`); retention = student / teacher."""

    metric: str
    n: int
    teacher: float | None
    baseline: float | None
    student: float | None
    retention: float | None
    ci95: dict[str, Interval | None]


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
    invalid_reason: str | None = None


class Serving(_Block):
    """The levels of one model."""

    levels: list[Level]


class Lineage(_Block):
    """Where a stage's files lie (folder under the run's root), and what they were."""

    folder: str
    manifest_sha256: str


class Report(_Block):
    """The whole of report.json."""

    schema_version: Literal[1] = 1
    job: str
    git_commit: str | None
    versions: dict[str, str]
    stages: dict[str, StageEntry]
    generate: Generate | None
    curate: Curate | None
    train: Train | None
    quality: Quality | None
    metrics: dict[str, dict[str, float | None]] = {}
    serving: dict[str, Serving]
    lineage: dict[str, Lineage]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; of a level's two keys only the one that it has."""
        plain = self.model_dump(mode="json")
        for serving in plain["serving"].values():
            for level in serving["levels"]:
                del level["rate" if level["rate"] is None else "concurrency"]
        return plain
