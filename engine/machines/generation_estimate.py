"""What the teachers' answers take: hours, dollars and bytes, what bounds them, and what would be
better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from engine.job.spec import ApiTeacher, FakeTeacherSpec, JobSpec, TeacherSpec, VllmTeacherSpec
from engine.machines.architectures import facts
from engine.machines.better import (
    FEW_SEQUENCES,
    Option,
    is_roomy,
    laid_out,
    nearest_fit,
    options,
)
from engine.machines.ground import Ground
from engine.machines.measured import Answered
from engine.machines.planner import signal_bytes_per_token
from engine.machines.rates import rate
from engine.machines.replica import Load, Replica, Split
from engine.machines.serving import replica_of, split_of
from engine.machines.stage_estimate import MEASURED, PREDICTED, UNSURE, StageEstimate
from engine.machines.work import Work

ENGINE_START_S = 240.0  # of a GPU engine, loading besides: compilation, CUDA graphs (assumed)
LOAD_GB_S = 1.0  # weights from a shared disk: assumed
STREAM_TOKENS_S = 40.0  # of one answer of an API, and its first token after one second: assumed
WORTH = 1.15  # a change that makes a stage faster by less is not told
SLOW_START = 0.4  # share of a stage from which on starting engines is worth a word
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
        return StageEstimate("generate", 0, None, None, 1.0, None, _size_gb(job, work, rows), bound)
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
    usd = None
    warnings = []
    if teacher.prices:
        paid = (
            work.prompt_tokens * teacher.prices.input + work.answer_tokens * teacher.prices.output
        )
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
        rows / limits[bound] / 3600,
        UNSURE,
        usd,
        _size_gb(job, work, rows),
        bound,
        (f"{teacher.name}: {limits[bound]:,.1f} answers/s assumed",),
        warnings=tuple(warnings),
    )


def _on_cpus(
    job: JobSpec, teacher: VllmTeacherSpec, work: Work, load: Load, ground: Ground
) -> StageEstimate:
    replicas = teacher.replica_range[0]
    seen = spoken_for(ground, teacher, None, load)
    size_gb = _size_gb(job, work, load.rows)
    hours = None
    bound = "not known on CPUs before a run: try some rows, then --from-run"
    if seen:
        seconds = load.rows * load.output_tokens / seen.tokens_per_s / replicas
        hours = (seconds + seen.start_s) / 3600
        bound = "as measured"
    return StageEstimate("generate", 0, None, hours, MEASURED, None, size_gb, bound)


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
        bound = f"{teacher.model}: its size is not known before it is here as a folder"
        return StageEstimate(
            "generate",
            devices,
            accelerator.name,
            None,
            UNSURE,
            None,
            _size_gb(job, work, load.rows),
            bound,
        )
    replica = replica_of(teacher, model, accelerator, split)
    size_gb = _size_gb(job, work, load.rows, model.vocab)
    start_s = start_seconds(replica)
    found = laid_out(replica, load, replicas, start_s)
    if not found.rate.tokens_per_s:
        return _too_large(teacher, replica, devices, size_gb, ground.node(accelerator))
    seen = spoken_for(ground, teacher, accelerator.name, load)
    factor = 1.0
    spread = PREDICTED
    basis = ""
    if seen:
        factor = seen.tokens_per_s / rate(replica, seen.load).tokens_per_s
        start_s = seen.start_s
        spread = MEASURED
        basis = f", {factor:.2f} times as fast as foretold, as measured"
    elif split.data * split.tensor > 8:
        spread = UNSURE
    tokens_per_s = found.rate.tokens_per_s * factor
    hours = (load.rows / replicas * load.output_tokens / tokens_per_s + start_s) / 3600
    price = ground.price(accelerator)
    usd = hours * devices * price.typical if price else None
    note = (
        f"{teacher.name}: {tokens_per_s:,.0f} tokens/s a replica of {split.devices}, at most"
        f" {found.rate.sequences:,} sequences by {found.rate.limit}{basis};"
        f" {start_s / 60:,.0f} min to start ({replica.weights_gb:,.0f} GB a device)"
    )
    notes = [note]
    most = teacher.replica_range[1]
    if most > replicas:
        grown = laid_out(replica, load, most, start_s)
        notes.append(f"with all {most} replicas, on {most * split.devices}: {grown.hours:.2f} h")
    better = _better(teacher, replica, load, found, ground)
    return StageEstimate(
        "generate",
        devices,
        accelerator.name,
        hours,
        spread,
        usd,
        size_gb,
        f"{found.rate.bound} {found.rate.terms[found.rate.bound]:.0%}",
        tuple(notes),
        tuple(better),
        tuple(_warnings(found, load, replica)),
    )


def start_seconds(replica: Replica) -> float:
    """From nothing to the first request: all weights from disk, then compilation."""
    model = replica.model
    all_gb = model.rest_b * replica.numbers.rest_bytes
    all_gb += model.experts_b * replica.numbers.weight_bytes
    return ENGINE_START_S + all_gb / LOAD_GB_S


def _too_large(
    teacher: VllmTeacherSpec, replica: Replica, devices: int, size_gb: float, node: int
) -> StageEstimate:
    accelerator = replica.accelerator
    room = accelerator.memory_gb * replica.numbers.memory - replica.efficiencies.engine_gb
    bound = (
        f"{teacher.name} does not fit: {replica.weights_gb:,.0f} GB of weights a device, and"
        f" {accelerator.name} has room for {room:,.0f}"
    )
    fitting = nearest_fit(replica, node)
    better = "no layout of up to 64 of them fits; choose another accelerator or a smaller teacher"
    if fitting:
        better = f"the nearest that fits: {fields_of(fitting)}"
    return StageEstimate(
        "generate", devices, accelerator.name, None, UNSURE, None, size_gb, bound, (), (better,)
    )


def fields_of(split: Split) -> str:
    """A split as a job says it."""
    told = [f"tensor_parallel: {split.tensor}"]
    if split.pipeline > 1:
        told.append(f"pipeline_parallel: {split.pipeline}")
    if split.data > 1:
        told += [f"data_parallel: {split.data}", "expert_parallel: true"]
    return ", ".join(told)


def _better(
    teacher: VllmTeacherSpec, replica: Replica, load: Load, found: Option, ground: Ground
) -> Iterator[str]:
    """Changes that are worth it, the largest first."""
    price = ground.price(replica.accelerator)
    start_s = start_seconds(replica)
    if teacher.max_num_seqs and found.rate.limit == "max_num_seqs":
        more = replace(replica, numbers=replace(replica.numbers, max_num_seqs=1024))
        freed = laid_out(more, load, found.replicas, start_s)
        if found.hours > WORTH * freed.hours:
            yield (
                f"max_num_seqs: {teacher.max_num_seqs} holds it back; left out, {freed.hours:.2f} h"
                f" in place of {found.hours:.2f} (memory holds {freed.rate.sequences:,})"
            )
    node = ground.node(replica.accelerator)
    best = options(replica, load, found.devices, start_s, node)[0]
    if found.hours > WORTH * best.hours:
        yield (
            f"replicas: {best.replicas}, {fields_of(best.split)}: {best.hours:.2f} h in place of"
            f" {found.hours:.2f} on as many GPUs"
        )
    fewer = _fewer(replica, load, found, start_s)
    if fewer and price:
        saved = (found.hours * found.devices - fewer.hours * fewer.devices) * price.typical
        yield (
            f"replicas: {fewer.replicas} costs ${saved:,.0f} less and takes {fewer.hours:.2f} h:"
            f" {start_s / 3600 / found.hours:.0%} of the time goes into starting"
        )


def _fewer(replica: Replica, load: Load, found: Option, start_s: float) -> Option | None:
    """Half the replicas or fewer, where starting them takes most of the time."""
    best = None
    replicas = found.replicas
    hours = found.hours
    while replicas > 1 and start_s / 3600 > SLOW_START * hours:
        replicas //= 2
        tried = laid_out(replica, load, replicas, start_s)
        hours = tried.hours
        best = tried
    return best


def _warnings(found: Option, load: Load, replica: Replica) -> Iterator[str]:
    if found.rate.limit == "memory" and not is_roomy(found.rate):
        yield (
            f"only {found.rate.sequences} sequences of {load.input_tokens:,.0f} +"
            f" {load.output_tokens:,.0f} tokens fit by memory ({replica.free_gb:,.0f} GB a device"
            f" for caches), fewer than {FEW_SEQUENCES}: long rows may run out of it. More devices"
            " a replica, or kv_cache_dtype: fp8"
        )
