"""What is wrong with the train block, as far as files and settings tell."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.check.models import model_problems
from engine.job.spec import JobSpec
from engine.machines.architectures import facts


def white_box_problems(job: JobSpec) -> Iterator[str]:
    """A live teacher must be a model that is here, with the student's vocabulary where
    distributions are compared, and with the layers."""
    train = job.train
    if not train.teacher:
        return
    yield from model_problems("train.teacher.model", train.teacher.model)
    student, teacher = facts(train.student), facts(train.teacher.model)
    if student and teacher and train.loss != "sft" and student.vocab != teacher.vocab:
        yield (
            f"train.teacher.model has {teacher.vocab:,} tokens and train.student {student.vocab:,},"
            f" but loss={train.loss} compares"
            " whole distributions entry by entry; learn from a stored top-k in place of a live"
            " teacher (leave train.teacher out, set"
            " generate.capture.top_k), or take models of one vocabulary"
        )
    for name, first in (
        ("hidden", 0),
        ("attention_transfer", 1),
    ):  # layer 0 is the embeddings, which have no attention
        for pair in getattr(train, name).layers if getattr(train, name) else ():
            for whose, shape, layer in zip(
                ("student", "teacher"), (student, teacher), pair, strict=True
            ):
                if layer < first or (shape and layer > shape.layers):
                    last = shape.layers if shape else "its last"
                    yield (
                        f"train.{name}.layers: {pair} names layer {layer} of the {whose}, which has"
                        f" {first} to {last}"
                    )


def signal_problems(job: JobSpec) -> Iterator[str]:
    """A stored distribution is over the teacher's tokens: only `uld` compares it with a student of
    other ones."""
    train, shape = job.train, facts(job.train.student)
    if train.loss == "uld" and shape and job.generate.capture.top_k > shape.vocab:
        yield (
            f"generate.capture.top_k={job.generate.capture.top_k}, but train.student has"
            f" {shape.vocab} tokens for uld; choose fewer"
        )
    if (
        train.loss in ("sft", "uld")
        or train.teacher
        or (ours := _vocabulary(train.tokenizer or train.student)) is None
    ):
        return
    for number, teacher in enumerate(job.generate.teachers):
        if (
            teacher.kind == "vllm"
            and (theirs := _vocabulary(teacher.model)) is not None
            and theirs != ours
        ):
            whose = "train.tokenizer" if train.tokenizer else "train.student"
            yield (
                f"train.loss={train.loss} compares distributions over the same tokens, but"
                f" generate.teachers.{number}.model"
                f" ({len(theirs):,} tokens) has another tokenizer than {whose} ({len(ours):,}); set"
                " train.loss: uld, which aligns"
                " tokenizers, or sft, or take a student with the teacher's"
            )


def _vocabulary(model: str) -> Any:
    """Tokens of a local tokenizer.json without those added to it; None where it does not tell."""
    try:
        return json.loads((Path(model) / "tokenizer.json").read_text(encoding="utf-8"))["model"][
            "vocab"
        ]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def training_problems(job: JobSpec) -> Iterator[str]:
    """Settings that need a package, a GPU or data that are not there, and folders that each node
    would understand otherwise."""
    from engine.stages.prompts import holds_unlearnt

    train = job.train
    if train.learn_turns == "all" and holds_unlearnt(job.prompts):
        yield (
            "train.learn_turns: all would learn answers that the prompt files give weight 0; set"
            " learn_turns: last"
        )
    if train.attention in ("flash_attention_2", "flex_attention") and job.device == "cpu":
        yield f"train.attention={train.attention} wants GPUs; set attention: sdpa, or device: gpu"
    wanted = {f"train.trackers: {name}": name for name in train.trackers}
    wanted |= (
        {"train.attention=flash_attention_2": "flash_attn"}
        if train.attention == "flash_attention_2" and job.device == "gpu"
        else {}
    )
    wanted |= (
        {"train.lora.quantize=nf4": "bitsandbytes"}
        if train.lora and train.lora.quantize == "nf4"
        else {}
    )
    for what, package in wanted.items():
        if importlib.util.find_spec(package) is None:
            yield (
                f"{what} needs a package that is not installed: pip install"
                f" {package.replace('_', '-')}"
            )
    for name in ("cache_dir", "nvme_path"):
        if (path := getattr(train, name)) and not os.path.isabs(path):
            yield f"train.{name}={path} is a folder on each node; give an absolute path"
    watched = [
        name
        for name, wants in (
            ("export: best", train.export == "best"),
            ("early_stopping", train.early_stopping),
        )
        if wants
    ]
    if watched and not (job.prompts.validation or job.prompts.validation_fraction):
        yield (
            f"train.{' and '.join(watched)} goes by the validation loss, but there are no"
            " validation prompts; set prompts.validation"
        )
