"""The tokenizers of the student and of its teachers, and where they must be one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from engine.errors import StageError
from engine.job.spec import GenerateSpec, TrainSpec, VllmTeacherSpec
from engine.rows.ids import tokenizer_fingerprint


def read_tokenizer(source: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name."""
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    assert tokenizer is not None, source  # transformers raises where there is none
    return tokenizer


def load_tokenizer(spec: TrainSpec) -> PreTrainedTokenizerBase:
    """The student's tokenizer: train.tokenizer, else the one beside the student."""
    if spec.tokenizer:
        return read_tokenizer(spec.tokenizer)
    return read_tokenizer(spec.student, spec.revision)


def teacher_tokenizers(spec: TrainSpec, generate: GenerateSpec) -> Mapping[str, Any]:
    """By teacher, what the loss `uld` aligns the student's tokens with; none for other losses."""
    tokenizers = {}
    for teacher in generate.teachers:
        if spec.loss.kind == "uld" and isinstance(teacher, VllmTeacherSpec):
            tokenizers[teacher.name] = read_tokenizer(teacher.model, teacher.revision)
    return tokenizers


def require_one_tokenizer(spec: TrainSpec, tokenizer: PreTrainedTokenizerBase) -> None:
    """A live teacher reads the student's token ids: they must mean the same to it."""
    if spec.teacher is None:
        return
    teachers = read_tokenizer(spec.teacher.model, spec.teacher.revision)
    theirs = tokenizer_fingerprint(teachers.get_vocab())
    ours = tokenizer_fingerprint(tokenizer.get_vocab())
    if theirs != ours:
        raise StageError(
            f"train: train.teacher {spec.teacher.model} has another tokenizer than the student, so"
            " it would read other text than the student does; take a teacher with the student's"
            " tokenizer, or learn from its stored answers (loss: sft or uld)"
        )
