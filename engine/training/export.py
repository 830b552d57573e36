"""The student on disk: a Hugging Face folder that transformers and vLLM load as is, and the card
that says how it came about.

What it holds is decided by the student's config and the weights alone: adapters, quantisation and
other means of training leave no trace. It computes no weight; scores are not known yet when it is
written (stages/report writes the finished card).
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import torch
from huggingface_hub import ModelCardData
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from engine.errors import StageError
from engine.job.spec import DistributionLoss, TrainSpec
from engine.machines.architectures import load_config, short_context
from engine.run.facts import TrainInfo
from engine.run.identity import git_commit, versions
from engine.store.files import write_atomic
from engine.training.tokenizer import read_tokenizer

MAX_SHARD = "5GB"
CARD = "README.md"


def export(
    model: Any,
    weights: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> None:
    """Write `weights`, a plain state dict of `model`'s architecture, with config, generation
    config, tokenizer and chat template.

    The folder appears whole or not at all. `model` gives its configurations only, so it may be
    wrapped, quantised or adapted.
    """
    dtype = next(iter(weights.values())).dtype
    skeleton = _skeleton(model.config, model.generation_config, dtype)
    wanted = {name: tensor.shape for name, tensor in skeleton.state_dict().items()}
    given = {name: tensor.shape for name, tensor in weights.items()}
    differing = {name for name, _ in given.items() ^ wanted.items()}
    may_lack = set(skeleton.all_tied_weights_keys) - given.keys()
    wrong = differing - may_lack
    assert not wrong, (
        f"weights that are not the student's, or are missing: {sorted(wrong)[:6]} (of {len(wrong)})"
    )
    staged = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(staged, ignore_errors=True)
    _write(skeleton, weights, tokenizer, staged)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(staged, folder)


def rehearse(spec: TrainSpec, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Export the student without weights, to a folder that is thrown away: what cannot be written
    is known before the first step."""
    config = AutoConfig.from_pretrained(spec.student, revision=spec.revision)
    try:
        generation = GenerationConfig.from_pretrained(
            spec.student, revision=spec.revision or "main"
        )
    except OSError:  # as transformers does where the model has none
        generation = GenerationConfig.from_model_config(config)
    skeleton = _skeleton(config, generation, torch.float32)
    with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=out) as folder:
        _write(skeleton, {}, tokenizer, Path(folder))


def _skeleton(
    config: PretrainedConfig, generation: GenerationConfig, dtype: torch.dtype
) -> PreTrainedModel:
    """The bare architecture without memory: what save_pretrained says of it is what a reader of the
    folder gets."""
    config = copy.deepcopy(config)
    config.use_cache = True
    if hasattr(config, "quantization_config"):  # the weights are whole again
        del config.quantization_config
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, dtype=dtype)
    skeleton.generation_config = copy.deepcopy(generation)
    return skeleton


def _write(
    skeleton: PreTrainedModel,
    weights: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> None:
    _end_at(tokenizer.eos_token_id, skeleton.generation_config)
    try:
        skeleton.generation_config.validate(strict=True)
    except ValueError as error:
        raise StageError(
            "train: the student's generation_config.json contradicts itself, and transformers"
            f" refuses to save it ({_first_reason(str(error))}); correct it in a local copy of the"
            " student, and name that folder in train.student"
        ) from None
    skeleton.save_pretrained(folder, state_dict=dict(weights), max_shard_size=MAX_SHARD)
    tokenizer.save_pretrained(folder)
    _check_tokenizer(folder, tokenizer)


def _end_at(end: int | None, generation: GenerationConfig) -> None:
    """Let answers end at the tokenizer's end, too: a base model has ends of its own, and may be
    trained with the tokenizer of its chat sibling."""
    known = generation.eos_token_id
    ends: list[int] = []
    if isinstance(known, list):
        ends = known
    elif known is not None:
        ends = [known]
    if end is not None and end not in ends:
        generation.eos_token_id = [*ends, end] if ends else end


def _first_reason(text: str) -> str:
    """The first of the lines in which transformers lists what is wrong."""
    for line in text.splitlines():
        if line.startswith("- "):
            return line.strip("- ")
    return text


def _check_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Beside some config.json files (Qwen2's) transformers rebuilds the tokenizer instead of
    reading tokenizer.json."""
    again = read_tokenizer(folder)
    if _what_splits(again) != _what_splits(tokenizer):
        raise StageError(
            "train: next to the student's config.json transformers loads the tokenizer as a"
            f" {type(again).__name__}, which splits"
            " text otherwise than the one trained with; take a student of another architecture (for"
            " example Llama or Qwen3), or"
            " its own tokenizer"
        )


def _what_splits(tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, int], str]:
    """The vocabulary of a tokenizer, and the rules by which it cuts text before it looks there."""
    fast = getattr(tokenizer, "_tokenizer", None)
    rules = fast and fast.pre_tokenizer
    return tokenizer.get_vocab(), str(rules)


def write_card(folder: Path, spec: TrainSpec, facts: Mapping[str, Any]) -> None:
    """Put the model card into an exported `folder`; `facts` as `model_card` takes them."""
    config = load_config(folder) or {}
    write_atomic(folder / CARD, model_card(spec, facts, config))


def model_card(spec: TrainSpec, facts: Mapping[str, Any], config: dict[str, Any]) -> str:
    """The card as Markdown behind a front matter that `huggingface_hub.ModelCardData` reads.

    `facts`: `job`, `task`, `folder` (name of the train stage's folder), `teachers` (metadata of the
    curated files, see asking/replica.py), `data` (by step: rows in, rows out, drops by reason), and
    the `info` of the stage's manifest. `config` is the student's config.json. The section Scores
    comes last: the report stage puts its table there.
    """
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return pages.get_template("card.md.jinja").render(
        facts,
        spec=spec,
        front=_front_matter(spec),
        teachers=[_teacher_text(teacher) for teacher in facts["teachers"]],
        figures=_figures(spec, facts["info"]),
        versions=versions(),
        commit=git_commit(),
        short=_limit(spec, config),
    )


def _front_matter(spec: TrainSpec) -> str:
    base = None
    if spec.init != "random" and not os.path.isdir(spec.student):
        base = spec.student  # its page on the hub names what was made from it
    tags = ["distillation", "distill-engine"]
    if spec.lora:
        tags.append("lora")
    return ModelCardData(
        base_model=base, library_name="transformers", pipeline_tag="text-generation", tags=tags
    ).to_yaml()


def _figures(spec: TrainSpec, info: TrainInfo) -> dict[str, str | None]:
    """The card's table of what was trained, and how; None leaves a line out."""
    figures = {
        "loss": _loss_text(spec),
        "learning rate": f"{spec.learning_rate:g}, {spec.schedule}",
        "optimizer steps": f"{info.steps:,}",
        "target tokens": f"{info.tokens:,}",
        "blocks per step": f"{info.global_batch:,} of {spec.block_tokens:,} tokens",
        "training loss, last step": _nats(info.final_loss),
        "validation loss": _nats(info.validation_loss),
        "precision": spec.precision,
    }
    if spec.lora:
        figures["adapters"] = f"LoRA of rank {spec.lora.rank}, merged"
    if spec.teacher:
        figures["live teacher"] = f"`{spec.teacher.model}`"
    return figures


def _teacher_text(teacher: Mapping[str, Any]) -> str:
    model = teacher.get("teacher_model", teacher["teacher"])
    revision = teacher.get("teacher_revision")
    if revision:
        return f"`{model}` at revision {revision}"
    return f"`{model}`"


def _loss_text(spec: TrainSpec) -> str:
    loss = spec.loss
    text = loss.kind
    if isinstance(loss, DistributionLoss):
        settings = [*_own_settings(loss), f"temperature {loss.temperature:g}"]
        if not spec.teacher:
            settings.append(f"tail {loss.tail}")
        text += f" ({', '.join(settings)})"
        if loss.sft_weight:
            text = f"{1 - loss.sft_weight:g} x {text} + {loss.sft_weight:g} x sft"
    if spec.hidden:
        text += f" + {spec.hidden.weight:g} x hidden"
    if spec.attention_transfer:
        text += f" + {spec.attention_transfer.weight:g} x attention transfer"
    return text


def _own_settings(loss: DistributionLoss) -> list[str]:
    """What this kind of loss has beside what all have."""
    shared = DistributionLoss.model_fields
    own = [name for name in type(loss).model_fields if name not in shared]
    return [f"{name} {getattr(loss, name):g}" for name in own]


def _nats(loss: float | None) -> str | None:
    if loss is None:
        return None
    return f"{loss:.4f} nats per target token"


def _limit(spec: TrainSpec, config: dict[str, Any]) -> int | None:
    """The length that a long-rope model should be served with: up to it vLLM rotates as the
    training did (rope.py)."""
    original = short_context(config)
    if original and spec.block_tokens <= original < config["max_position_embeddings"]:
        return original
    return None
