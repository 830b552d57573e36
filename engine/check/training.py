"""What is wrong with the train block, as far as files and settings tell."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.backends.library_names import (
    attributes_made_by,
    nearest_names,
    package_folder,
)
from engine.check.models import model_problems, tokenizer_of
from engine.job.spec import JobSpec, SftLoss, TrainSpec
from engine.machines.architectures import Architecture, facts
from engine.machines.limits import SINKS, model_type_of

_ALIKE = 0.02  # share by which embeddings of one tokenizer may differ: some are padded
_ADAPTED = ("Linear", "Embedding", "Conv1D")


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
    for number, teacher in enumerate(job.generate.teachers):
        if teacher.kind != "vllm":
            continue
        if counts := _other_tokens(teacher.model, model):
            yield (
                f"train.loss={train.loss.kind} compares distributions over the same tokens, but"
                f" generate.teachers.{number}.model"
                f" ({counts[0]:,} tokens) has another tokenizer than {whose} ({counts[1]:,}); set"
                " train.loss: uld, which aligns"
                " tokenizers, or sft, or take a student with the teacher's"
            )


def _other_tokens(teacher: str, student: str) -> tuple[int, int] | None:
    """How many tokens each has, where their tokenizers are known to differ: by what lies in their
    folders, or by the sizes of known models."""
    theirs = _vocabulary(teacher)
    ours = _vocabulary(student)
    if theirs is not None and ours is not None:
        return None if theirs == ours else (len(theirs), len(ours))
    shapes = facts(teacher), facts(student)
    if shapes[0] is None or shapes[1] is None:
        return None
    counts = shapes[0].vocab, shapes[1].vocab
    if abs(counts[0] - counts[1]) <= _ALIKE * max(counts):
        return None
    return counts


def lora_problems(job: JobSpec) -> Iterator[str]:
    """Targets that name no layer of the student's architecture, as transformers' source has it."""
    train = job.train
    kind = model_type_of(train.student)
    if train.lora is None or train.lora.targets == "all-linear" or kind is None:
        return
    known = _layers_of(kind)
    for target in train.lora.targets:
        last = target.rpartition(".")[2]
        if known and not last.isdigit() and last not in known:
            yield (
                f"train.lora.targets: {train.student} ({kind}) has no {target};"
                f" {nearest_names(last, known)}"
            )


def _layers_of(model_type: str) -> list[str]:
    """Names of the layers that can have adapters; none where the architecture's source is not
    here."""
    transformers = package_folder("transformers")
    if transformers is None:
        return []
    name = model_type.replace("-", "_")
    for folder in (name, name.removesuffix("_text")):
        files = sorted((transformers / "models" / folder).glob("modeling_*.py"))
        if files:
            names = [name for file in files for name in attributes_made_by(file, _ADAPTED)]
            return sorted(set(names) - {"lm_head"})
    return []


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
    if model_type_of(train.student) in SINKS:
        yield from _sink_problems(train)
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


def _sink_problems(train: TrainSpec) -> Iterator[str]:
    """Attention sinks are computed by our own attention, which makes no maps."""
    if train.attention != "auto":
        yield (
            f"train.attention={train.attention} leaves out the attention sinks of train.student, or"
            " sees across the examples of a block; set attention: auto"
        )
    if train.attention_transfer:
        yield (
            "train.attention_transfer wants attention maps, and those of train.student, which has"
            " attention sinks, see across the examples of a block; leave it out"
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
