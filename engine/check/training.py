"""What is wrong with the train block, as far as files and settings tell."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.check.models import model_problems, tokenizer_of
from engine.job.spec import JobSpec, SftLoss, TrainSpec
from engine.machines.architectures import Architecture, facts


def white_box_problems(job: JobSpec) -> Iterator[str]:
    """A live teacher must be a model that is here, with the student's vocabulary where
    distributions are compared, and with the layers."""
    train = job.train
    if not train.teacher:
        return
    yield from model_problems("train.teacher.model", train.teacher.model)
    student = facts(train.student)
    teacher = facts(train.teacher.model)
    if student and teacher and train.loss.reads_signal and student.vocab != teacher.vocab:
        yield (
            f"train.teacher.model has {teacher.vocab:,} tokens and train.student {student.vocab:,},"
            f" but loss={train.loss.kind} compares"
            " whole distributions entry by entry; learn from a stored top-k in place of a live"
            " teacher (leave train.teacher out, set"
            " generate.capture.top_k), or take models of one vocabulary"
        )
    models = (("student", student), ("teacher", teacher))
    if train.hidden:
        yield from _layer_problems("hidden", train.hidden.layers, models, first=0)
    if train.attention_transfer:
        # Layer 0 is the embeddings, which have no attention.
        layers = train.attention_transfer.layers
        yield from _layer_problems("attention_transfer", layers, models, first=1)


def _layer_problems(
    name: str,
    pairs: Iterable[Sequence[int]],
    models: Sequence[tuple[str, Architecture | None]],
    *,
    first: int,
) -> Iterator[str]:
    for pair in pairs:
        for (whose, shape), layer in zip(models, pair, strict=True):
            if layer < first or (shape and layer > shape.layers):
                last = shape.layers if shape else "its last"
                yield (
                    f"train.{name}.layers: {pair} names layer {layer} of the {whose}, which has"
                    f" {first} to {last}"
                )


def signal_problems(job: JobSpec) -> Iterator[str]:
    """A stored distribution is over the teacher's tokens: only `uld` compares it with a student of
    other ones."""
    train = job.train
    shape = facts(train.student)
    if train.loss.kind == "uld" and shape and job.generate.capture.top_k > shape.vocab:
        yield (
            f"generate.capture.top_k={job.generate.capture.top_k}, but train.student has"
            f" {shape.vocab} tokens for uld; choose fewer"
        )
    if train.loss.kind in ("sft", "uld") or train.teacher:
        return
    whose, model = tokenizer_of(job)
    ours = _vocabulary(model)
    if ours is None:
        return
    for number, teacher in enumerate(job.generate.teachers):
        theirs = _vocabulary(teacher.model) if teacher.kind == "vllm" else None
        if theirs is not None and theirs != ours:
            yield (
                f"train.loss={train.loss.kind} compares distributions over the same tokens, but"
                f" generate.teachers.{number}.model"
                f" ({len(theirs):,} tokens) has another tokenizer than {whose} ({len(ours):,}); set"
                " train.loss: uld, which aligns"
                " tokenizers, or sft, or take a student with the teacher's"
            )


def _vocabulary(model: str) -> Any:
    """Tokens of a local tokenizer.json without those added to it; None where it does not tell."""
    try:
        tokenizer = json.loads((Path(model) / "tokenizer.json").read_text(encoding="utf-8"))
        return tokenizer["model"]["vocab"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def training_problems(job: JobSpec) -> Iterator[str]:
    """Settings that need a package, a GPU or data that are not there, and folders that each node
    would understand otherwise."""
    from engine.stages.prompts.heads import holds_unlearnt

    train = job.train
    learns_all = isinstance(train.loss, SftLoss) and train.loss.learn_turns == "all"
    if learns_all and holds_unlearnt(job.prompts):
        yield (
            "train.loss.learn_turns: all would learn answers that the prompt files give weight 0;"
            " set learn_turns: last"
        )
    if train.attention in ("flash_attention_2", "flex_attention") and job.device == "cpu":
        yield f"train.attention={train.attention} wants GPUs; set attention: sdpa, or device: gpu"
    yield from _package_problems(train, job.device)
    for name in ("cache_dir", "nvme_path"):
        path = getattr(train, name)
        if path and not os.path.isabs(path):
            yield f"train.{name}={path} is a folder on each node; give an absolute path"
    watched = []
    if train.export == "best":
        watched.append("export: best")
    if train.early_stopping:
        watched.append("early_stopping")
    if watched and not (job.prompts.validation or job.prompts.validation_fraction):
        yield (
            f"train.{' and '.join(watched)} goes by the validation loss, but there are no"
            " validation prompts; set prompts.validation"
        )


def _package_problems(train: TrainSpec, device: str) -> Iterator[str]:
    wanted: dict[str, str] = {f"train.trackers: {name}": name for name in train.trackers}
    if train.attention == "flash_attention_2" and device == "gpu":
        wanted["train.attention=flash_attention_2"] = "flash_attn"
    if train.lora and train.lora.quantize == "nf4":
        wanted["train.lora.quantize=nf4"] = "bitsandbytes"
    for what, package in wanted.items():
        if importlib.util.find_spec(package) is None:
            name = package.replace("_", "-")
            yield f"{what} needs a package that is not installed: pip install {name}"
