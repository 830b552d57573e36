"""What each stage says of itself when it is done: the `info` of its manifest, typed.

The blocks that report.json shows are part of its contract: fields may be added, none changes its
meaning. A percentile is null where it is infinite (more requests failed than it leaves out) or
where nothing was measured.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, RootModel

from engine.run.curate_facts import Diversity
from engine.run.fact_settings import FACTS
from engine.run.harness_facts import HarnessInfo
from engine.run.judge_facts import CurateJudge, Judge
from engine.store.paths import Folder


class Facts(BaseModel):
    """Base of all: frozen, and nothing that no field names."""

    model_config = FACTS


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
    cluster_by: str | None = None
    """Column whose equal values belong together: of one dialogue, or split as one."""
    contaminated_by: dict[str, int] = {}
    """Training prompts that hold test data, by its file, or `validation`."""


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
    usd_per_answer: float | None = None
    """Mean at the teacher's prices of the rows whose tokens are known, without tries that came to
    nothing; null without prices."""
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
    replicas: float | None = None
    """At work on average, in the last session."""
    cost_usd: float | None = None
    teachers: list[TeacherInfo] = []
    route: str = "all"
    max_tokens: int | None = None
    limit: int | None = None
    """Of a pilot: as many training prompts were asked; there are more."""
    top_k: int = 0
    rows_without_token_counts: int = 0
    unknown_finish_reasons: dict[str, int] = {}


class CurateInfo(Info):
    """From completions to examples; `funnel` is [filter, rows left] in order."""

    funnel: list[tuple[str, int]]
    dropped_by: dict[str, dict[str, int]] = {}
    """Answers by filter and reason."""
    prompts: int = 0
    """With a training answer."""
    prompts_with_no_answer_left: dict[str, int] = {}
    """By the filter that took the last one; the others keep one or more."""
    validation_examples: int = 0
    validation_unusable: dict[str, int] = {}
    diversity: Diversity | None = None
    """Of the training examples, where there are any."""
    judge: CurateJudge | None = None
    """Null where the job names none, or nothing was left to ask it."""


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


class Compared(Facts):
    """The student's score less another model's, on the same `n` prompts in `clusters` groups that
    are independent (engine/rows/comparison.py)."""

    metric: str
    test: str
    """McNemar mid-p, or paired bootstrap."""
    difference: float | None
    ci95: tuple[float, float] | None
    p: float | None
    """Two-sided."""
    p_holm: float | None
    """The same, corrected for all metrics that were compared (Holm)."""
    wins: int
    """Prompts that the student answers better."""
    losses: int
    ties: int
    n: int
    clusters: int
    mde: float | None
    """Smallest true difference that so many prompts show with a probability of 80 %."""


class Footprint(Facts):
    """What a model takes; null with its reason in `why_unknown`."""

    weights_bytes: float | None = None
    """As stored."""
    kv_bytes_per_token: float | None = None
    """Of a 16-bit cache."""
    peak_memory_bytes: float | None = None
    """Of the engine while it answered."""
    why_unknown: str | None = None


class EvaluateInfo(Info):
    """The headline, every metric by model, and the student against the others."""

    quality: Quality
    metrics: dict[str, dict[str, float | None]]
    reference: str = "gold"
    """gold, teacher (none is gold) or mixed."""
    comparisons: dict[str, list[Compared]] = {}
    """By the model that the student is compared with, the headline first; the teacher only where
    there are gold answers, and on those prompts."""
    signatures: dict[str, str] = {}
    """By metric: how it was computed, in sacrebleu's form."""
    footprint: dict[str, Footprint] = {}
    """By model."""
    verdicts: dict[str, dict[str, int]] = {}
    """By model, of tasks with right and wrong: how many answers are right, wrong, no_answer,
    ambiguous, unverified (only algebra could tell, and did not) and unchecked (no reference that
    the task can compare); the teacher's only where there is a gold answer."""
    lm_eval: HarnessInfo | None = None
    """By the job's task files of lm-eval, where it has some."""
    judge: Judge | None = None
    """What a model says of the answers, where the job names one."""


class Percentiles(Facts):
    """Milliseconds."""

    p50: float | None
    p95: float | None
    p99: float | None


class Ends(RootModel[tuple[float | None, float | None]]):
    """Both ends of a 95 % interval; null: infinite, or nobody can say."""

    model_config = ConfigDict(frozen=True, defer_build=True)


class PercentileEnds(Facts):
    """Milliseconds, the interval of each percentile."""

    p50: Ends
    p95: Ends
    p99: Ends


class Slo(Facts):
    """Bounds in milliseconds that `percentile` per cent of the requests keep all together."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None
    percentile: float = 99.0


class Goodput(Facts):
    """Requests within the SLO, and their output tokens; `met` is null where the interval of their
    share leaves it open."""

    slo: Slo
    good: int
    rps: float
    tokens_per_second: float | None
    share: float | None
    share_ci: Ends
    met: bool | None


class LevelTokens(Facts):
    """By the server's own count; `uncounted`: good answers whose length it did not say."""

    prompt: int
    output: int
    uncounted: int


class SteadyPart(Facts):
    """Since when the level was steady: seconds after the start of its window, before 0 within the
    warm-up; null: never."""

    start_s: float | None
    found: bool


class Lag(Facts):
    """Milliseconds."""

    p50: float
    p99: float


class LoadClient(Facts):
    """The client that made the load: how late it was, and how near to what it can do here."""

    processes: int
    cores: float
    ceiling_share: float
    is_calibrated: bool
    lag_ms: Lag
    loop_lag_ms: Lag
    clock_jump_s: float
    others_cpu: float
    unsent: int


class ServerSide(Facts):
    """The level by the server's own metrics, over the looks that fell into its window. `parts_ms`
    are means of a request and add up to `e2e_ms`; null: unknown, and `unknown` says why."""

    url: str
    looks: int
    missed_looks: int
    look_cpu_s: float
    slowest_look_ms: float
    parts_ms: dict[str, float | None]
    unknown: list[str] = []
    from_s: float | None = None
    to_s: float | None = None
    said: dict[str, float | None] = {}
    answers: int | None = None
    ttft_ms: float | None = None
    e2e_ms: float | None = None
    engine_ttft_ms: float | None = None


class Level(Facts):
    """One load on one model: `concurrency`, `rate` (requests per second), or neither of a trace.
    Intervals (`_ci`) hold the truth in 95 of 100 runs."""

    kind: str = ""
    concurrency: int | None = None
    rate: float | None = None
    requests: int
    failed: int
    failures: dict[str, int] = {}
    failure_examples: dict[str, str] = {}
    offered_rps: float | None = None
    """Requests of the window per second; null where the load waits for the answers."""
    served_rps: float | None = None
    served_rps_ci: Ends | None = None
    request_throughput: float
    output_tokens_per_second: float
    output_tokens_per_second_ci: Ends | None = None
    ttft_ms: Percentiles
    tpot_ms: Percentiles
    e2e_ms: Percentiles
    first_byte_ms: Percentiles | None = None
    ttft_ms_ci: PercentileEnds | None = None
    tpot_ms_ci: PercentileEnds | None = None
    e2e_ms_ci: PercentileEnds | None = None
    first_byte_ms_ci: PercentileEnds | None = None
    goodput: Goodput | None = None
    tokens: LevelTokens | None = None
    oddities: dict[str, int] = {}
    """What the client met in answers and did not understand, by kind."""
    steady: SteadyPart | None = None
    client: LoadClient | None = None
    server: ServerSide | None = None
    verdict: str = ""
    """ok, overloaded, client limited or failed."""
    verdict_reason: str = ""
    valid: bool
    """Whether the figures describe the server: not where the client was the limit."""
    invalid_reason: str | None
    notes: list[str] = []


class Knee(Facts):
    """The largest load within the SLO: requests in flight, or requests per second; null: not
    found, and `reason` says why. `interval` holds it in 95 of 100 searches."""

    search: str
    load: float | None
    interval: Ends
    decided: bool
    reason: str
    levels: int
    sentence: str


class Serving(Facts):
    """The levels of one model, in the order of the job; those of a search stand last."""

    levels: list[Level]
    knee: Knee | None = None


class Estimated(Facts):
    """A figure with its 95 % interval, and how it came about; null: unknown, and `how` says why."""

    value: float | None
    ci: Ends
    how: str


class Versus(Facts):
    """One figure of two models; a ratio above 1: the second is better."""

    first: Estimated
    second: Estimated
    ratio: Estimated


class EqualSlo(Facts):
    """Two models at the same SLO: `load` is what each carries within it, in `unit` (null: both had
    no kind of load in common that can be counted); latency is at the largest load at which both
    were ok."""

    first: str
    second: str
    slo: Slo
    unit: str | None
    load: Versus
    good_tokens_per_second: Versus
    usd_per_million_good_tokens: Versus
    latency: dict[str, Versus | str | None]


class LoadtestInfo(Info):
    """By model; and teacher against student, where both were loaded and there is an SLO."""

    serving: dict[str, Serving]
    equal_slo: EqualSlo | None = None


INFO: dict[str, type[Info]] = {
    "prompts": PromptsInfo,
    "generate": GenerateInfo,
    "curate": CurateInfo,
    "train": TrainInfo,
    "evaluate": EvaluateInfo,
    "loadtest": LoadtestInfo,
    "report": Info,
}
