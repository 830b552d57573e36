"""Who is asked in a rehearsal: engines on one CPU with small models, and a local server in place of
APIs."""

from __future__ import annotations

from typing import Any, TypeVar

from engine.job.spec import (
    ApiTeacher,
    CurateJudgeSpec,
    EngineSpec,
    JudgeSpec,
    OpenAITeacherSpec,
    SamplingSpec,
    TeacherSpec,
    VllmTeacherSpec,
)
from engine.rehearsal.ground import ANSWER, KEY_VARIABLE, Ground, changed

_Judge = TypeVar("_Judge", JudgeSpec, CurateJudgeSpec)
# One engine on one CPU, as small as it goes.
_ENGINE: dict[str, Any] = {
    "tensor_parallel": 1,
    "pipeline_parallel": 1,
    "data_parallel": 1,
    "expert_parallel": False,
    "replicas": 1,
    "accelerator_type": None,
    "quantization": None,  # random weights are not quantised
    "kv_cache_dtype": "auto",
    "max_num_seqs": 8,
    "kv_cache_gib": 0.25,
    "gpu_memory_utilization": 0.9,
}
# Engine arguments that a CPU takes as it takes them on a GPU; of the others, `check` knows the
# names.
_ON_A_CPU = (
    "generation_config",
    "hf_overrides",
    "tokenizer_mode",
    "seed",
    "enable_prefix_caching",
    "chat_template",
    "config_format",
    "load_format",
)


def little_teacher(teacher: TeacherSpec, ground: Ground) -> TeacherSpec:
    """A teacher whose model is small, or whose API is the local server."""
    changes: dict[str, Any] = {}
    if teacher.sampling:
        changes["sampling"] = little_sampling(teacher.sampling)
    if isinstance(teacher, VllmTeacherSpec):
        model = ground.models.model(teacher.model, teacher.revision, answers=True)
        changes |= little_engine(teacher, ground) | {"model": model, "revision": None}
    elif isinstance(teacher, ApiTeacher):
        teacher = teacher.asked_live()
        suffix = ""
        if isinstance(teacher, OpenAITeacherSpec) and not teacher.api_version:
            suffix = "/v1"
        changes |= {"base_url": ground.api + suffix, "api_key_env": KEY_VARIABLE}
        changes |= {"concurrency": min(4, teacher.concurrency)}
        changes |= {"requests_per_minute": None, "tokens_per_minute": None}
    return changed(teacher, changes)


def little_sampling(sampling: SamplingSpec) -> SamplingSpec:
    """A few short answers."""
    few = {
        "max_tokens": min(ANSWER, sampling.max_tokens),
        "samples": min(2, sampling.samples),
    }
    return changed(sampling, few)


def little_engine(engine: EngineSpec, ground: Ground) -> dict[str, Any]:
    """Fields of a block whose model runs here."""
    kept = {}
    for name in _ON_A_CPU:
        if name in engine.engine_args:
            kept[name] = engine.engine_args[name]
    dtype = "bfloat16" if engine.dtype == "float16" else engine.dtype
    length = ground.shorter(engine.max_model_len)
    return _ENGINE | {"engine_args": kept, "dtype": dtype, "max_model_len": length}


def little_judge(judge: _Judge, ground: Ground) -> _Judge:
    """One of an API replies as it likes: the local server gives verdicts."""
    changes: dict[str, Any] = {"teacher": little_teacher(judge.teacher, ground)}
    if isinstance(judge.teacher, VllmTeacherSpec):
        changes["max_tokens"] = min(ANSWER, judge.max_tokens)
    return changed(judge, changes)
