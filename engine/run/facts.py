"""What each stage says of itself when it is done: the `info` of its manifest, typed.

The blocks that report.json shows are part of its contract: fields may be added, none changes its
meaning. A percentile is null where it is infinite (more requests failed than it leaves out) or
where nothing was measured.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from engine.store.paths import Folder


class Facts(BaseModel):
    """Base of all: frozen, and nothing that no field names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Info(Facts):
    """Base of what a stage publishes."""

    warnings: list[str] = []
    """What it found doubtful, a sentence each."""


class PromptsInfo(Info):
    """Source files -> prompts, by split."""

    train: int = 0
    validation: int = 0
    skipped_files: list[str] = []
    """Files of the sources that are no prompts."""
    labels: dict[str, str] = {}
    """The job's own names of labels, and what they mean."""


class TeacherInfo(Facts):
    """One teacher's answers; sums leave out rows whose tokens an API did not count."""

    name: str
    kind: str = "vllm"
    revision: str | None = None
    rows: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    status: dict[str, int] = {}
    validation_score: float | None = None
    tokenizer_fingerprint: str | None = None
    vocab_size: int | None = None


class GenerateInfo(Info):
    """Teachers' answers; tokens are those of all final rows, `tokens_per_second` is output of the
    last session."""

    prompts: int
    completions: int
    tokens_in: int
    tokens_out: int
    tokens_per_second: float | None
    status: dict[str, int]
    answered_this_run: int = 0
    cost_usd: float | None = None
    teachers: list[TeacherInfo] = []
    route: str = "all"
    max_tokens: int | None = None
    top_k: int = 0
    rows_without_token_counts: int = 0
    unknown_finish_reasons: dict[str, int] = {}


class CurateInfo(Info):
    """From completions to examples; `funnel` is [filter, rows left] in order."""

    funnel: list[tuple[str, int]]
    validation_examples: int = 0
    validation_unusable: dict[str, int] = {}


class TrainInfo(Info):
    """Losses are nats per target token; `tokens` are target tokens."""

    steps: int
    tokens: int
    tokens_per_second: float | None
    final_loss: float | None
    validation_loss: float | None
    zero_stage: int
    workers: int
    global_batch: int = 0
    best_step: int | None = None
    best_validation_loss: float | None = None
    student: str = "student"
    """Folder of the trained model, inside the stage's."""
    baseline: str = "baseline"
    """The same of the untrained one, or the model that training started from."""
    baseline_revision: str | None = None
    packing: dict[str, Any] = {}
    gates: dict[str, Any] = {}

    def weights_of(self, name: str, folder: Folder) -> tuple[str, str | None]:
        """(model, revision) of student or baseline: a folder of the stage's `folder`, or the hub
        model that training started from."""
        where = {"student": self.student, "baseline": self.baseline}[name]
        own = folder / where
        if own.exists():
            return str(own), None
        return where, self.baseline_revision if name == "baseline" else None


class Quality(Facts):
    """Scores on `n` validation prompts; `ci95` by model (and `retention`); retention = student /
    teacher."""

    metric: str
    n: int
    teacher: float | None
    baseline: float | None
    student: float | None
    retention: float | None
    ci95: dict[str, tuple[float, float] | None]


class EvaluateInfo(Info):
    """The headline, and every metric by model."""

    quality: Quality
    metrics: dict[str, dict[str, float | None]]
    reference: str = "gold"
    """gold, teacher (none is gold) or mixed."""


class Percentiles(Facts):
    """Milliseconds."""

    p50: float | None
    p95: float | None
    p99: float | None


class Level(Facts):
    """One load on one model: either `concurrency` or `rate` (requests per second) is given."""

    concurrency: int | None = None
    rate: float | None = None
    requests: int
    failed: int
    failures: dict[str, int] = {}
    request_throughput: float
    output_tokens_per_second: float
    ttft_ms: Percentiles
    tpot_ms: Percentiles
    e2e_ms: Percentiles
    valid: bool
    invalid_reason: str | None


class Serving(Facts):
    """The levels of one model, in the order of the job."""

    levels: list[Level]


class LoadtestInfo(Info):
    """By model."""

    serving: dict[str, Serving]


INFO: dict[str, type[Info]] = {
    "prompts": PromptsInfo,
    "generate": GenerateInfo,
    "curate": CurateInfo,
    "train": TrainInfo,
    "evaluate": EvaluateInfo,
    "loadtest": LoadtestInfo,
    "report": Info,
}
