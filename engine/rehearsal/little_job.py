"""The job in small: one process in place of eight GPUs, a few short answers in place of all.

Placement is replaced, lengths and numbers are divided or cut, and what a random model cannot do
(be right, be complete) is not asked of it. All else is the job's own: loss, adapters, schedule,
capture, precision, parsers, metrics, trackers, prices. differences.py tells what changed.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

from engine.job.spec import (
    Block,
    EngineSpec,
    JobSpec,
    LoadtestSpec,
    ServeSpec,
    VllmTeacherSpec,
)
from engine.machines.architectures import facts
from engine.rehearsal.ground import ANSWER, KEY_VARIABLE, PATIENCE_S, Ground, changed
from engine.rehearsal.little_engines import (
    little_engine,
    little_judge,
    little_sampling,
    little_teacher,
)
from engine.rehearsal.little_training import little_training

# Of `curate`: what would leave nothing of random answers, or of a few made-up rows.
OFF = (
    "max_tokens",
    "languages",
    "repetition",
    "majority",
    "difficulty",
    "near_duplicates",
    "decontaminate",
    "balance",
)


def little_job(job: JobSpec, ground: Ground) -> JobSpec:
    """The job for this machine's CPU. SpecError for a model whose architecture is not known."""
    changes = {
        "device": "cpu",
        "prompts": _prompts(job, ground),
        "generate": _generate(job, ground),
        "curate": _curate(job, ground),
        "train": little_training(job, ground),
        "evaluate": _evaluate(job, ground),
        "serve": _serve(job.serve, ground),
        "loadtest": _loadtest(job.loadtest),
    }
    little = changed(job, changes)
    generate = little.generate
    least = min(_vocabularies(little), default=0)
    if least and generate.capture.top_k > least:
        capture = changed(generate.capture, {"top_k": least})
        generate = changed(generate, {"capture": capture})
        little = changed(little, {"generate": generate})
    return JobSpec.model_validate(little.model_dump())


def lengths(job: JobSpec) -> list[int]:
    """Tokens that the job gives to a sequence anywhere; where it gives none, the model decides."""
    engines: list[EngineSpec] = [job.evaluate, job.serve]
    for teacher in job.asked().values():
        if isinstance(teacher, VllmTeacherSpec):
            engines.append(teacher)
    given = [job.train.block_tokens]
    for engine in engines:
        if engine.max_model_len:
            given.append(engine.max_model_len)
    return given


def _prompts(job: JobSpec, ground: Ground) -> Block:
    changes: dict[str, Any] = {"train": ground.train, "validation": ground.validation}
    if ground.validation is None and job.prompts.validation_fraction:
        fraction = max(0.25, job.prompts.validation_fraction)  # of a few rows, some
        changes["validation_fraction"] = fraction
    changes |= {"decontaminate": None, "near_duplicates": None}
    if job.prompts.split_by == "near_duplicates":
        changes["split_by"] = None
    return changed(job.prompts, changes)


def _generate(job: JobSpec, ground: Ground) -> Block:
    spec = job.generate
    changes = {
        "teachers": [little_teacher(teacher, ground) for teacher in spec.teachers],
        "sampling": little_sampling(spec.sampling),
        "min_teacher_score": None,
        "start_timeout_s": max(PATIENCE_S, spec.start_timeout_s),
    }
    return changed(spec, changes)


def _curate(job: JobSpec, ground: Ground) -> Block:
    """Random answers are wrong, in no language, and run into their limit; few rows are no measure
    of how much there is of what. A judge's grades order them, and drop none."""
    curate = job.curate
    changes: dict[str, Any] = dict.fromkeys(OFF)
    changes |= {"check_reference": False, "keep_truncated": True}
    changes["min_tokens"] = min(1, curate.min_tokens)
    if curate.judge:
        judge = little_judge(curate.judge, ground)
        changes["judge"] = changed(judge, {"keep": None})
    return changed(curate, changes)


def _evaluate(job: JobSpec, ground: Ground) -> Block:
    evaluate = job.evaluate
    changes = little_engine(evaluate, ground) | {"lm_eval": []}
    if evaluate.max_tokens:
        changes["max_tokens"] = min(ANSWER, evaluate.max_tokens)
    if judge := evaluate.judge:
        changes["judge"] = little_judge(judge, ground)
    return changed(evaluate, changes)


def _serve(serve: ServeSpec, ground: Ground) -> Block:
    """On loopback, with a key where the job has any."""
    changes = little_engine(serve, ground) | {
        "host": "127.0.0.1",
        "port": _free_port(),
        "api_key_env": KEY_VARIABLE if serve.has_keys else None,
        "api_keys": {},
        "api_keys_file": None,
        "tls_cert": None,
        "tls_key": None,
        "insecure": False,
        "fronts": 1,
        "adapters": {},
        "drain_s": min(5.0, serve.drain_s),
        "start_timeout_s": max(PATIENCE_S, serve.start_timeout_s),
    }
    return changed(serve, changes)


def _loadtest(load: LoadtestSpec) -> Block:
    """One short level of each kind that the job has."""
    changes: dict[str, Any] = {
        "concurrency": [min(2, level) for level in load.concurrency[:1]],
        "rates": [4.0] if load.rates else [],
        "trace": None,
        "search": None,
        "seconds": min(2.0, load.seconds),
        "warmup_seconds": min(0.5, load.warmup_seconds),
        "max_tokens": min(8, load.max_tokens),
        "output_tokens": None,
        "input_words": None,
        "processes": 1,
    }
    if load.sessions:
        changes["sessions"] = changed(load.sessions, {"users": [2]})
    if not any((load.concurrency, load.rates, load.sessions)):
        changes["concurrency"] = [1]
    return changed(load, changes)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _vocabularies(little: JobSpec) -> Iterator[int]:
    """Tokens of the models whose distributions are stored, and of the student."""
    models = []
    for teacher in little.generate.teachers:
        if isinstance(teacher, VllmTeacherSpec):
            models.append(teacher.model)
    if models:
        models.append(little.train.student)
    for model in models:
        if shape := facts(model):
            yield shape.vocab
