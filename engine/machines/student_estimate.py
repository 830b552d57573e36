"""What training the student takes, and evaluating and load-testing it."""

from __future__ import annotations

from collections.abc import Iterator

from engine.job.spec import EngineSpec, JobSpec, TrainSpec, VllmTeacherSpec
from engine.machines.architectures import facts
from engine.machines.generation_estimate import ENGINE_START_S, start_seconds
from engine.machines.ground import Ground
from engine.machines.measured import Trained
from engine.machines.planner import adapters_b, state_gb, teacher_gb
from engine.machines.rates import rate
from engine.machines.replica import Load
from engine.machines.serving import replica_of, split_of
from engine.machines.shape import Architecture
from engine.machines.stage_estimate import MEASURED, PREDICTED, UNSURE, StageEstimate
from engine.machines.training_time import MFU, START_S, activations_gb, training_time
from engine.machines.work import Work

LIBRARIES_GB = 3.0  # CUDA context, NCCL and kernels of a worker (assumed)
BLOCK_BYTES = 6.0  # of a token in packed blocks: id, position, mask
STATE_BYTES = 12.0  # of a parameter in a checkpoint: fp32 weight and two moments
SEARCH_LEVELS = 8  # that finding the largest load takes, about


def training(job: JobSpec, work: Work, answers: float, ground: Ground) -> StageEstimate:
    """`answers`: training rows of all teachers, before curate."""
    spec = job.train
    model = facts(spec.student)
    workers = spec.worker_range[0]
    seen = _measured(ground, spec, job, None)
    if job.device == "cpu":
        hours = None
        bound = "not known on CPUs before a run: try some rows, then --from-run"
        if seen:
            hours = _as_measured(seen, spec, work, answers)
            bound = "as measured"
        size_gb = _size_gb(spec, model, work, answers)
        return StageEstimate("train", 0, None, hours, MEASURED, None, size_gb, bound)
    accelerator = ground.accelerator(_kind_of(job, ground))
    size_gb = _size_gb(spec, model, work, answers)
    if model is None:
        bound = f"{spec.student}: its size is not known before it is here as a folder"
        return StageEstimate("train", workers, accelerator.name, None, UNSURE, None, size_gb, bound)
    teacher = facts(spec.teacher.model) if spec.teacher else None
    time = training_time(spec, model, accelerator, work, answers, teacher)
    hours = (time.seconds + START_S) / 3600
    low, typical, high = MFU
    spread = time.spread
    bound = f"arithmetic at {typical:.0%} of the peak ({low:.0%} to {high:.0%})"
    seen = _measured(ground, spec, job, accelerator.name)
    if seen:
        hours = _as_measured(seen, spec, work, answers)
        spread = MEASURED
        bound = "as measured"
    held_gb = state_gb(spec, model) + activations_gb(spec, model) + LIBRARIES_GB
    if teacher:
        held_gb += teacher_gb(spec, teacher)
    price = ground.price(accelerator)
    usd = hours * workers * price.typical if price else None
    notes = (
        f"{time.tokens / 1e6:,.1f}M tokens; a worker holds about {held_gb:,.0f} of"
        f" {accelerator.memory_gb:g} GB",
    )
    warnings = tuple(_room(spec, held_gb, accelerator.memory_gb, accelerator.name))
    return StageEstimate(
        "train",
        workers,
        accelerator.name,
        hours,
        spread,
        usd,
        size_gb,
        bound,
        notes,
        warnings=warnings,
    )


def _kind_of(job: JobSpec, ground: Ground) -> str | None:
    """Workers take any GPU: on a cluster of one kind that one; else that of the teachers."""
    if ground.gpu or ground.kinds:
        return None
    for teacher in job.generate.teachers:
        if isinstance(teacher, VllmTeacherSpec) and teacher.accelerator_type:
            return teacher.accelerator_type
    return None


def _measured(
    ground: Ground, spec: TrainSpec, job: JobSpec, accelerator: str | None
) -> Trained | None:
    seen = ground.measured.trained if ground.measured else None
    if seen is None or (seen.student, seen.accelerator) != (spec.student, accelerator):
        return None
    return seen


def _as_measured(seen: Trained, spec: TrainSpec, work: Work, answers: float) -> float:
    """Hours by the run's target tokens per second and worker: those of the answers."""
    targets = answers * work.kept * work.answer_tokens * spec.epochs
    return (targets / seen.tokens_per_s / spec.worker_range[0] + seen.start_s) / 3600


def _room(spec: TrainSpec, held_gb: float, memory_gb: float, name: str) -> Iterator[str]:
    if held_gb <= 0.95 * memory_gb:
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
        f"a worker would hold about {held_gb:,.0f} GB, and {name} has {memory_gb:g}; try"
        f" {', or '.join(remedies)}"
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


def evaluation(job: JobSpec, work: Work, ground: Ground) -> StageEstimate:
    """Student and baseline answer the validation prompts, one after the other; the teachers have
    already."""
    models = 2 if job.evaluate.baseline else 1
    size_gb = models * work.validation * work.answer_tokens * 2 * BLOCK_BYTES / 1e9
    measured = ground.measured
    if job.device == "cpu":
        hours = None
        bound = "not known on CPUs before a run: try some rows, then --from-run"
        if measured and measured.evaluate_s and measured.evaluated_rows:
            hours = measured.evaluate_s / 3600 * max(1, work.validation / measured.evaluated_rows)
            bound = "as measured"
        return StageEstimate("evaluate", 0, None, hours, MEASURED, None, size_gb, bound)
    load = Load(work.prompt_tokens, work.answer_tokens, work.validation)
    return _engines("evaluate", job, job.evaluate, load, ground, size_gb, models=models)


def loadtest(job: JobSpec, work: Work, ground: Ground) -> StageEstimate:
    """Levels one after the other, all models served side by side."""
    spec = job.loadtest
    levels = len(spec.closed_levels) + len(spec.rates)
    levels += len(spec.sessions.users) if spec.sessions else 0
    levels += 1 if spec.trace else 0
    levels += SEARCH_LEVELS if spec.search else 0
    seconds = levels * len(spec.models) * (spec.seconds + spec.warmup_seconds)
    if job.device == "cpu":
        hours = (seconds + ENGINE_START_S) / 3600
        return StageEstimate("loadtest", 0, None, hours, PREDICTED, None, 0.01, "levels x seconds")
    load = Load(work.prompt_tokens, spec.max_tokens)
    return _engines("loadtest", job, job.serve, load, ground, 0.01, seconds=seconds)


def _engines(
    stage: str,
    job: JobSpec,
    engine: EngineSpec,
    load: Load,
    ground: Ground,
    size_gb: float,
    *,
    models: int = 1,
    seconds: float = 0.0,
) -> StageEstimate:
    """Engines of the student that answer `load`, or are up for so many seconds."""
    accelerator = ground.accelerator(engine.accelerator_type or _kind_of(job, ground))
    split = split_of(engine)
    replicas = max(1, engine.replica_range[0])
    devices = replicas * split.devices
    teacher = job.generate.teachers[0]
    serves_teacher = stage == "loadtest" and "teacher" in job.loadtest.models
    if serves_teacher and isinstance(teacher, VllmTeacherSpec):
        devices += replicas * teacher.devices
    model = facts(job.train.student)
    if model is None:
        bound = f"{job.train.student}: its size is not known before it is here as a folder"
        return StageEstimate(stage, devices, accelerator.name, None, UNSURE, None, size_gb, bound)
    replica = replica_of(engine, model, accelerator, split)
    found = rate(replica, Load(load.input_tokens, load.output_tokens, max(1, load.rows / replicas)))
    start_s = start_seconds(replica)
    bound = "starting engines"
    if not seconds and found.tokens_per_s:
        seconds = load.rows / replicas * load.output_tokens / found.tokens_per_s
        if seconds > start_s:
            bound = f"{found.bound} {found.terms[found.bound]:.0%}"
    elif seconds > start_s:
        bound = "levels x seconds"
    hours = models * (seconds + start_s) / 3600
    price = ground.price(accelerator)
    usd = hours * devices * price.typical if price else None
    notes = (f"at most {found.tokens_per_s:,.0f} tokens/s a replica",)
    return StageEstimate(
        stage, devices, accelerator.name, hours, PREDICTED, usd, size_gb, bound, notes
    )
