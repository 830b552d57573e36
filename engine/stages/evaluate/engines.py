"""Baseline and student answer the validation prompts through the replicas' own code, greedily, each prompt once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from engine import parts
from engine.backends import ray_data
from engine.backends.answering import Stream, answer_prompts
from engine.progress import Context
from engine.records import Completion, read_tables, to_rows
from engine.spec import EvaluateSpec, GenerateSpec, SamplingSpec, TeacherSpec


def answer_with_engines(
    *, models: Mapping[str, str], files: Sequence[Path], out: Path, max_tokens: int, spec: EvaluateSpec, ctx: Context,
    stream: Stream = ray_data.stream,
) -> dict[str, list[Completion]]:
    """One completion per prompt of `files` and model (name -> folder or hub name); parts under `out` make it resumable."""
    placed = {name: getattr(spec, name) for name in ("tensor_parallel", "replicas", "max_num_seqs", "kv_cache_gib", "dtype")}
    wanted = GenerateSpec(
        teachers=[TeacherSpec(name=name, model=model, **placed) for name, model in models.items()],
        sampling=SamplingSpec(temperature=0.0, max_tokens=max_tokens),
    )
    answer_prompts(wanted, files, out, ctx, stream=stream)
    settled = parts.settle(out)
    answers: dict[str, list[Completion]] = {name: [] for name in models}
    for table in read_tables([out / name for name in settled.files]):
        for row in to_rows(table, Completion):
            answers[row.teacher].append(row)
    return answers
