"""What training the student takes, and evaluating and load-testing it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from engine.job.spec import EngineSpec, JobSpec, TrainSpec, VllmTeacherSpec
from engine.machines.accelerators import Accelerator
from engine.machines.advice import saving
from engine.machines.architectures import facts
from engine.machines.better import laid_out
from engine.machines.generation_estimate import start_seconds
from engine.machines.ground import Ground
from engine.machines.measured import Trained
from engine.machines.planner import adapters_b, state_gb, teacher_gb
from engine.machines.replica import Load, Replica
from engine.machines.serving import replica_of, split_of
from engine.machines.shape import Architecture
from engine.machines.stage_estimate import AS_MEASURED, MEASURED, PREDICTED, StageEstimate
from engine.machines.training_time import MFU, START_S, activations_gb, training_time
from engine.machines.work import Work

USABLE = 0.95  # of a GPU's memory, before allocation fails
LIBRARIES_GB = 3.0  # CUDA context, NCCL and kernels of a worker (assumed)
STARTING = "starting engines"
ANSWER_BYTES = 10.0  # of a token of an answer with its scores, in Parquet
BLOCK_BYTES = 6.0  # of a token in packed blocks: id, position, mask
STATE_BYTES = 12.0  # of a parameter in a checkpoint: fp32 weight and two moments
SEARCH_LEVELS = 8  # that finding the largest load takes, about


def training(job: JobSpec, work: Work, answers: float, ground: Ground) -> StageEstimate:
    """`answers`: training rows of all teachers, before curate."""
    spec = job.train
    model = facts(spec.student)
    size_gb = _size_gb(spec, model, work, answers)
    if job.device == "cpu":
        seen = _measured(ground, spec, None)
        seconds = _measured_seconds(seen, spec, work, answers) if seen else None
        return StageEstimate.on_cpus("train", seconds, size_gb)
    accelerator = ground.accelerator(_kind_of(job, ground))
    workers = spec.worker_range[0]
    if model is None:
        return StageEstimate.unsized(
            "train", spec.student, size_gb, devices=workers, accelerator=accelerator.name
        )
    teacher = facts(spec.teacher.model) if spec.teacher else None
    time = training_time(spec, model, accelerator, work, answers, teacher)
    low, typical, high = MFU
    seconds = time.seconds + START_S
    spread = time.spread
    bound = f"arithmetic at {typical:.0%} of the peak ({low:.0%} to {high:.0%})"
    seen = _measured(ground, spec, accelerator.name)
    if seen:
        seconds = _measured_seconds(seen, spec, work, answers)
        spread = MEASURED
        bound = AS_MEASURED
    hours = seconds / 3600
    held_gb = worker_gb(spec, model, teacher)
    tokens = f"{time.tokens / 1e6:,.1f}M tokens"
    room = f"a worker holds about {held_gb:,.0f} of {accelerator.memory_gb:g} GB"
    return StageEstimate(
        "train",
        workers,
        accelerator.name,
        hours,
        spread,
        ground.usd(accelerator, hours * workers),
        size_gb,
        bound,
        (f"{tokens}; {room}",),
        warnings=tuple(_room(spec, held_gb, accelerator)),
        is_measured=seen is not None,
    )


def worker_gb(spec: TrainSpec, model: Architecture, teacher: Architecture | None) -> float:
    """What one worker holds in GB: model state, activations, a live teacher, libraries."""
    held_gb = state_gb(spec, model) + activations_gb(spec, model) + LIBRARIES_GB
    if teacher:
        held_gb += teacher_gb(spec, teacher)
    return held_gb


def _kind_of(job: JobSpec, ground: Ground) -> str | None:
    """Workers take any GPU: on a cluster of one kind that one; else that of the teachers."""
    if ground.gpu or ground.kinds:
        return None
    for teacher in job.generate.teachers:
        if isinstance(teacher, VllmTeacherSpec) and teacher.accelerator_type:
            return teacher.accelerator_type
    return None


def _measured(ground: Ground, spec: TrainSpec, accelerator: str | None) -> Trained | None:
    seen = ground.measured.trained if ground.measured else None
    if seen is None or (seen.student, seen.accelerator) != (spec.student, accelerator):
        return None
    return seen


def _measured_seconds(seen: Trained, spec: TrainSpec, work: Work, answers: float) -> float:
    """By the run's target tokens per second and worker: those of the answers."""
    targets = answers * work.kept * work.answer_tokens * spec.epochs
    return targets / seen.tokens_per_s / spec.worker_range[0] + seen.start_s


def _room(spec: TrainSpec, held_gb: float, accelerator: Accelerator) -> Iterator[str]:
    if held_gb <= USABLE * accelerator.memory_gb:
        return
    remedies = []
    if not spec.gradient_checkpointing:
        remedies.append("gradient_checkpointing: true")
    if spec.batch_size > 1:
        remedies.append("batch_size: 1")
    if spec.zero_stage < 3:
        remedies.append("zero_stage: 3")
    remedies += ["more workers", "offload: cpu"]
    yield (
        f"a worker would hold about {held_gb:,.0f} GB, and {accelerator.name} has"
        f" {accelerator.memory_gb:g}; try {', or '.join(remedies)}"
    )


def _size_gb(spec: TrainSpec, model: Architecture | None, work: Work, answers: float) -> float:
    """Blocks, checkpoints (kept, best and the one being written), and student and baseline in 16
    bits."""
    tokens = answers * work.kept * (work.prompt_tokens + work.answer_tokens)
    blocks_gb = tokens * BLOCK_BYTES / 1e9
    if model is None:
        return blocks_gb
    trained_b = adapters_b(spec.lora, model) if spec.lora else model.params_b
    checkpoints_gb = (spec.keep_checkpoints + 2) * STATE_BYTES * trained_b
    return blocks_gb + checkpoints_gb + 2 * 2 * model.params_b


def loadtest(job: JobSpec, work: Work, ground: Ground) -> StageEstimate:
    """Levels one after the other, all models served side by side."""
    spec = job.loadtest
    levels = len(spec.closed_levels) + len(spec.rates)
    levels += len(spec.sessions.users) if spec.sessions else 0
    levels += 1 if spec.trace else 0
    levels += SEARCH_LEVELS if spec.search else 0
    seconds = levels * len(spec.models) * (spec.seconds + spec.warmup_seconds)
    if job.device == "cpu":
        hours = seconds / 3600
        return StageEstimate("loadtest", 0, None, hours, PREDICTED, None, 0.01, "levels x seconds")
    replicas = max(1, job.serve.replica_range[0])
    served = _student_replica(job, job.serve, ground)
    devices = replicas * split_of(job.serve).devices
    teacher = job.generate.teachers[0]
    if "teacher" in spec.models and isinstance(teacher, VllmTeacherSpec):
        devices += replicas * teacher.devices
    if served is None:
        return _unsized_engines("loadtest", job, job.serve, devices, ground)
    start_s = start_seconds(served)
    bound = "levels x seconds" if seconds > start_s else STARTING
    return _costed("loadtest", served, devices, seconds + start_s, bound, 0.01, ground)


def evaluation(job: JobSpec, work: Work, ground: Ground) -> StageEstimate:
    """Student and baseline answer the validation prompts, one after the other; the teachers have
    already."""
    models = 2 if job.evaluate.baseline else 1
    size_gb = models * work.validation * work.answer_tokens * ANSWER_BYTES / 1e9
    if job.device == "cpu":
        return StageEstimate.on_cpus("evaluate", _evaluate_seconds(work, ground), size_gb)
    replicas = job.evaluate.replica_range[0]
    devices = replicas * job.evaluate.devices
    replica = _student_replica(job, job.evaluate, ground)
    if replica is None:
        return _unsized_engines("evaluate", job, job.evaluate, devices, ground)
    start_s = start_seconds(replica)
    load = Load(work.prompt_tokens, work.answer_tokens, work.validation)
    now = laid_out(replica, load, replicas, start_s)
    bound = f"{now.rate.bound} {now.rate.terms.get(now.rate.bound, 1.0):.0%}"
    if start_s > 0.5 * now.hours * 3600:
        bound = STARTING
    seconds = models * now.hours * 3600
    found = _costed("evaluate", replica, devices, seconds, bound, size_gb, ground)
    note = f"at most {now.rate.tokens_per_s:,.0f} tokens/s a replica"
    better = tuple(saving(replica, load, now, start_s, ground))
    return replace(found, notes=(note,), better=better)


def _evaluate_seconds(work: Work, ground: Ground) -> float | None:
    """By the run's, which is mostly starting engines: no less of it for fewer rows."""
    measured = ground.measured
    if not measured or not measured.evaluate_s or not measured.evaluated_rows:
        return None
    return measured.evaluate_s * max(1, work.validation / measured.evaluated_rows)


def _student_replica(job: JobSpec, engine: EngineSpec, ground: Ground) -> Replica | None:
    """None where the student's size is not known."""
    model = facts(job.train.student)
    if model is None:
        return None
    accelerator = ground.accelerator(engine.accelerator_type or _kind_of(job, ground))
    return replica_of(engine, model, accelerator, split_of(engine))


def _unsized_engines(
    stage: str, job: JobSpec, engine: EngineSpec, devices: int, ground: Ground
) -> StageEstimate:
    accelerator = ground.accelerator(engine.accelerator_type or _kind_of(job, ground))
    return StageEstimate.unsized(
        stage, job.train.student, 0.01, devices=devices, accelerator=accelerator.name
    )


def _costed(
    stage: str,
    replica: Replica,
    devices: int,
    seconds: float,
    bound: str,
    size_gb: float,
    ground: Ground,
) -> StageEstimate:
    hours = seconds / 3600
    usd = ground.usd(replica.accelerator, hours * devices)
    name = replica.accelerator.name
    return StageEstimate(stage, devices, name, hours, PREDICTED, usd, size_gb, bound)
