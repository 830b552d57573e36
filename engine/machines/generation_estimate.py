"""What the teachers' answers take: hours, dollars and bytes, what bounds them, and what would be
better."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from engine.job.spec import (
    BATCH_WINDOW_H,
    BATCHED_ROWS,
    ApiTeacher,
    FakeTeacherSpec,
    JobSpec,
    TeacherSpec,
    VllmTeacherSpec,
)
from engine.machines.advice import changes, fields_of, warnings
from engine.machines.architectures import facts
from engine.machines.better import Option, laid_out, nearest_fit
from engine.machines.ground import Ground
from engine.machines.links import NODE
from engine.machines.measured import Answered
from engine.machines.planner import signal_bytes_per_token
from engine.machines.rates import rate
from engine.machines.replica import Load, Replica
from engine.machines.serving import replica_of, split_of
from engine.machines.stage_estimate import (
    AS_MEASURED,
    MEASURED,
    PREDICTED,
    UNSURE,
    StageEstimate,
)
from engine.machines.work import Work

# Of an engine on one GPU and on several, loading besides: compilation, CUDA graphs (assumed).
ENGINE_START_S = (120.0, 240.0)
LOAD_GB_S = 1.0  # weights from a shared disk: assumed
STREAM_TOKENS_S = 40.0  # of one answer of an API, and its first token after one second: assumed
TEXT_BYTES = 5.0  # of a token, in Parquet
ID_BYTES = 8.0  # of a token's id and log-probability


def rows_of(job: JobSpec, teacher: TeacherSpec, work: Work) -> float:
    """Answers of one teacher: samples of its training prompts, one of each validation prompt."""
    samples = job.generate.sampling_of(teacher).samples
    share = 1.0
    if job.generate.route == "split":
        weights = [one.weight for one in job.generate.teachers]
        share = teacher.weight / sum(weights)
    elif job.generate.route == "by":
        share = 1 / len(job.generate.teachers)
    return share * (work.rows * samples + work.validation)


def generation(job: JobSpec, teacher: TeacherSpec, work: Work, ground: Ground) -> StageEstimate:
    """One teacher's part of the stage."""
    rows = rows_of(job, teacher, work)
    if isinstance(teacher, ApiTeacher):
        return _asked(job, teacher, work, rows)
    if isinstance(teacher, FakeTeacherSpec):
        bound = f"{teacher.name}: a stand-in for tests has no speed worth telling"
        return StageEstimate.unknown("generate", bound, _size_gb(job, work, rows))
    load = Load(work.prompt_tokens, work.answer_tokens, rows)
    if job.device == "cpu":
        return _on_cpus(job, teacher, work, load, ground)
    return _on_gpus(job, teacher, work, load, ground)


def _size_gb(job: JobSpec, work: Work, rows: float, vocab: int | None = None) -> float:
    signal = 0
    if job.generate.capture.top_k:
        signal = signal_bytes_per_token(job.generate.capture, vocab)
    answer_bytes = work.answer_tokens * (TEXT_BYTES + ID_BYTES + signal)
    return rows * answer_bytes / 1e9


def _asked(job: JobSpec, teacher: ApiTeacher, work: Work, rows: float) -> StageEstimate:
    """Of an API nobody knows how fast it is; its budgets bound it too."""
    seconds_of_one = work.answer_tokens / STREAM_TOKENS_S + 1
    limits = {"concurrency times the speed of a stream": teacher.concurrency / seconds_of_one}
    if teacher.requests_per_minute:
        limits["requests_per_minute"] = teacher.requests_per_minute / 60
    if teacher.tokens_per_minute:
        tokens = work.prompt_tokens + work.answer_tokens
        limits["tokens_per_minute"] = teacher.tokens_per_minute / 60 / tokens
    bound = min(limits, key=limits.__getitem__)
    hours = rows / limits[bound] / 3600
    note = f"{teacher.name}: {limits[bound]:,.1f} answers/s assumed"
    if teacher.batch:
        bound = f"{BATCH_WINDOW_H} hours that the vendor gives itself for a batch"
        rounds = math.ceil(rows / (job.generate.rows_in_flight or BATCHED_ROWS))
        hours = (
            rounds * BATCH_WINDOW_H / UNSURE
        )  # often much less; what is not done in time expires
        note = f"{teacher.name}: in batches, {rounds} after another"
    usd = None
    warnings = []
    charged = teacher.charged
    if charged:
        paid = work.prompt_tokens * charged.input + work.answer_tokens * charged.output
        usd = rows * paid / 1e6
        most = job.generate.max_cost_usd
        if most and usd > most:
            done = round(work.rows * most / usd)
            warnings.append(
                f"generate.max_cost_usd={most:g} ends it after about {done:,} prompts; raise it,"
                f" or lower prompts.limit"
            )
    else:
        warnings.append(f"{teacher.name} has no prices, so what it costs is not told")
    return StageEstimate(
        "generate",
        0,
        None,
        hours,
        UNSURE,
        usd,
        _size_gb(job, work, rows),
        bound,
        (note,),
        warnings=tuple(warnings),
    )


def _on_cpus(
    job: JobSpec, teacher: VllmTeacherSpec, work: Work, load: Load, ground: Ground
) -> StageEstimate:
    seen = spoken_for(ground, teacher, None, load)
    seconds = None
    if seen:
        share = load.rows / teacher.replica_range[0]
        seconds = share * load.output_tokens / seen.tokens_per_s + seen.start_s
    return StageEstimate.on_cpus("generate", seconds, _size_gb(job, work, load.rows))


def spoken_for(
    ground: Ground, teacher: VllmTeacherSpec, accelerator: str | None, load: Load
) -> Answered | None:
    """What the earlier run measured for this teacher, if it speaks for it."""
    if ground.measured:
        for seen in ground.measured.answered:
            if seen.speaks_for(teacher.model, accelerator, split_of(teacher), load):
                return seen
    return None


def _on_gpus(
    job: JobSpec, teacher: VllmTeacherSpec, work: Work, load: Load, ground: Ground
) -> StageEstimate:
    accelerator = ground.accelerator(teacher.accelerator_type)
    replicas = teacher.replica_range[0]
    split = split_of(teacher)
    devices = replicas * split.devices
    model = facts(teacher.model)
    if model is None:
        size_gb = _size_gb(job, work, load.rows)
        return StageEstimate.unsized(
            "generate", teacher.model, size_gb, devices=devices, accelerator=accelerator.name
        )
    replica = replica_of(teacher, model, accelerator, split)
    size_gb = _size_gb(job, work, load.rows, model.vocab)
    if replica.free_gb <= 0:
        return _too_large(teacher, replica, devices, size_gb, ground.node(accelerator))
    pace = _pace(teacher, replica, load, ground)
    found = laid_out(replica, load, replicas, pace.start_s, pace.factor)
    return StageEstimate(
        "generate",
        devices,
        accelerator.name,
        found.hours,
        pace.spread,
        ground.usd(accelerator, found.hours * devices),
        size_gb,
        f"{found.rate.bound} {found.rate.terms[found.rate.bound]:.0%}",
        tuple(_notes(teacher, replica, load, found, pace)),
        tuple(_better(teacher, replica, load, pace, ground)),
        tuple(warnings(found, load, replica)),
        is_measured=pace.is_measured,
    )


def _better(
    teacher: VllmTeacherSpec, replica: Replica, load: Load, pace: _Pace, ground: Ground
) -> Iterator[str]:
    replicas = teacher.replica_range[0]
    own = teacher.max_num_seqs
    return changes(replica, load, replicas, pace.start_s, ground, max_num_seqs=own)


@dataclass(frozen=True)
class _Pace:
    """How much faster than predicted a replica is, how long it takes to start, and the factor
    either way that holds for nine of ten."""

    factor: float
    start_s: float
    spread: float
    is_measured: bool


def _pace(teacher: VllmTeacherSpec, replica: Replica, load: Load, ground: Ground) -> _Pace:
    seen = spoken_for(ground, teacher, replica.accelerator.name, load)
    if seen:
        factor = seen.tokens_per_s / rate(replica, seen.load).tokens_per_s
        return _Pace(factor, seen.start_s, MEASURED, True)
    spread = PREDICTED
    if replica.split.data * replica.split.tensor > NODE:
        spread = UNSURE  # experts over nodes: few published points, and far apart
    return _Pace(1.0, start_seconds(replica), spread, False)


def _notes(
    teacher: VllmTeacherSpec, replica: Replica, load: Load, found: Option, pace: _Pace
) -> Iterator[str]:
    told = found.rate
    tokens_per_s = told.tokens_per_s * pace.factor
    basis = ""
    if pace.is_measured:
        basis = f" ({pace.factor:.2f} times what is predicted, {AS_MEASURED})"
    yield (
        f"{teacher.name}: {tokens_per_s:,.0f} tokens/s a replica of {replica.split.devices}{basis},"
        f" at most {told.sequences:,} sequences by {told.limit};"
        f" {pace.start_s / 60:,.0f} min to start ({replica.weights_gb:,.0f} GB a device)"
    )
    most = teacher.replica_range[1]
    if most > found.replicas:
        grown = laid_out(replica, load, most, pace.start_s, pace.factor)
        yield f"with all {most} replicas, on {grown.devices} GPUs: {grown.hours:.2f} h"


def start_seconds(replica: Replica) -> float:
    """From nothing to the first request: all weights from disk, then compilation."""
    model = replica.model
    all_gb = model.rest_b * replica.numbers.rest_bytes
    all_gb += model.experts_b * replica.numbers.weight_bytes
    one, several = ENGINE_START_S
    compiled_s = several if replica.split.devices > 1 else one
    return compiled_s + all_gb / LOAD_GB_S


def _too_large(
    teacher: VllmTeacherSpec, replica: Replica, devices: int, size_gb: float, node: int
) -> StageEstimate:
    accelerator = replica.accelerator
    bound = (
        f"{teacher.name} does not fit: {replica.weights_gb:,.0f} GB of weights a device, and"
        f" {accelerator.name} has room for {replica.room_gb:,.0f}"
    )
    fitting = nearest_fit(replica, node)
    better = "no layout of up to 64 of them fits; choose another accelerator or a smaller teacher"
    if fitting:
        better = f"the nearest that fits: {fields_of(fitting)}"
    return StageEstimate.unknown(
        "generate",
        bound,
        size_gb,
        devices=devices,
        accelerator=accelerator.name,
        better=(better,),
    )
