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
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from engine.errors import StageError
from engine.job.spec import TrainSpec
from engine.machines.architectures import load_config, short_context
from engine.run.identity import git_commit, versions
from engine.store.files import write_atomic

MAX_SHARD = "5GB"
CARD = "README.md"


def export(
    model: Any,
    weights: Mapping[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> None:
    """Write `weights`, a plain state dict of `model`'s architecture, with config, generation
    config, tokenizer and chat template.

    The folder appears whole or not at all. `model` gives its configurations only, so it may be
    wrapped, quantised or adapted.
    """
    skeleton = _skeleton(model.config, model.generation_config, next(iter(weights.values())).dtype)
    wanted = {name: tensor.shape for name, tensor in skeleton.state_dict().items()}
    given = {name: tensor.shape for name, tensor in weights.items()}
    tied = set(skeleton.all_tied_weights_keys)
    wrong = {name for name, _ in given.items() ^ wanted.items()} - (tied - given.keys())
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
        generation = GenerationConfig.from_pretrained(spec.student, revision=spec.revision)
    except OSError:  # as transformers does where the model has none
        generation = GenerationConfig.from_model_config(config)
    with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=out) as folder:
        _write(_skeleton(config, generation, torch.float32), {}, tokenizer, Path(folder))


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
    weights: Mapping[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> None:
    known, end = skeleton.generation_config.eos_token_id, tokenizer.eos_token_id
    ends = known if isinstance(known, list) else [known] if known is not None else []
    if (
        end is not None and end not in ends
    ):  # a base model's own ends, trained with the tokenizer of its chat sibling
        skeleton.generation_config.eos_token_id = [*ends, end] if ends else end
    try:
        skeleton.generation_config.validate(strict=True)
    except ValueError as error:
        reason = next(
            (line.strip("- ") for line in str(error).splitlines() if line.startswith("- ")),
            str(error),
        )
        raise StageError(
            "train: the student's generation_config.json contradicts itself, and transformers"
            f" refuses to save it ({reason});"
            " correct it in a local copy of the student, and name that folder in train.student"
        ) from None
    skeleton.save_pretrained(folder, state_dict=dict(weights), max_shard_size=MAX_SHARD)
    tokenizer.save_pretrained(folder)
    _check_tokenizer(folder, tokenizer)


def _check_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Beside some config.json files (Qwen2's) transformers rebuilds the tokenizer instead of
    reading tokenizer.json."""
    again = AutoTokenizer.from_pretrained(folder)
    ours, theirs = (
        (t.get_vocab(), str(getattr(t, "_tokenizer", None) and t._tokenizer.pre_tokenizer))
        for t in (tokenizer, again)
    )
    if ours != theirs:
        raise StageError(
            "train: next to the student's config.json transformers loads the tokenizer as a"
            f" {type(again).__name__}, which splits"
            " text otherwise than the one trained with; take a student of another architecture (for"
            " example Llama or Qwen3), or"
            " its own tokenizer"
        )


def write_card(folder: Path, spec: TrainSpec, facts: Mapping[str, Any]) -> None:
    """Put the model card into an exported `folder`; `facts` as `model_card` takes them."""
    write_atomic(folder / CARD, model_card(spec, facts, load_config(folder) or {}))


def model_card(spec: TrainSpec, facts: Mapping[str, Any], config: dict[str, Any]) -> str:
    """The card as Markdown behind a front matter that `huggingface_hub.ModelCardData` reads.

    `facts`: `job`, `task`, `folder` (name of the train stage's folder), `teachers` (metadata of the
    curated files, see asking/replica.py), `data` (by step: rows in, rows out, drops by reason), and
    the `info` of the stage's manifest. `config` is the student's config.json. The section Scores
    comes last: the report stage puts its table there.
    """
    info = facts["info"]
    front = ModelCardData(
        base_model=None if spec.init == "random" or os.path.isdir(spec.student) else spec.student,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["distillation", "distill-engine", *(["lora"] if spec.lora else [])],
    )
    figures = {
        "loss": _loss_text(spec),
        "learning rate": f"{spec.learning_rate:g}, {spec.schedule}",
        "optimizer steps": f"{info['steps']:,}",
        "target tokens": f"{info['tokens']:,}",
        "blocks per step": f"{info['global_batch']:,} of {spec.block_tokens:,} tokens",
        "training loss, last step": _nats(info["final_loss"]),
        "validation loss": _nats(info["validation_loss"]),
        "precision": spec.precision,
        "adapters": f"LoRA of rank {spec.lora.rank}, merged" if spec.lora else None,
        "live teacher": f"`{spec.teacher.model}`" if spec.teacher else None,
    }
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return pages.get_template("card.md.jinja").render(
        facts,
        spec=spec,
        front=front.to_yaml(),
        teachers=[_teacher_text(teacher) for teacher in facts["teachers"]],
        figures=figures,
        versions=versions(),
        commit=git_commit(),
        short=_limit(spec, config),
    )


def _teacher_text(teacher: Mapping[str, Any]) -> str:
    model, revision = (
        teacher.get("teacher_model", teacher["teacher"]),
        teacher.get("teacher_revision"),
    )
    return f"`{model}`" + (f" at revision {revision}" if revision else "")


def _loss_text(spec: TrainSpec) -> str:
    own = {
        "jsd": f"beta {spec.jsd_beta:g}",
        "skew_forward_kl": f"skew {spec.skew:g}",
        "skew_reverse_kl": f"skew {spec.skew:g}",
        "adaptive_kl": f"head {spec.adaptive_head:g}",
    }
    distribution = (
        []
        if spec.loss == "sft"
        else [f"temperature {spec.temperature:g}", *([] if spec.teacher else [f"tail {spec.tail}"])]
    )
    settings = [*([own[spec.loss]] if spec.loss in own else []), *distribution]
    text = f"{spec.loss} ({', '.join(settings)})" if settings else spec.loss
    mixed = (
        f"{1 - spec.sft_weight:g} x {text} + {spec.sft_weight:g} x sft" if spec.sft_weight else text
    )
    terms = [
        f" + {term.weight:g} x {name}"
        for name in ("hidden", "attention_transfer")
        if (term := getattr(spec, name))
    ]
    return mixed + "".join(terms).replace("_", " ")


def _nats(loss: float | None) -> str | None:
    return None if loss is None else f"{loss:.4f} nats per target token"


def _limit(spec: TrainSpec, config: dict[str, Any]) -> int | None:
    """The length that a long-rope model should be served with: up to it vLLM rotates as the
    training did (rope.py)."""
    original = short_context(config)
    return (
        original
        if original and spec.block_tokens <= original < config["max_position_embeddings"]
        else None
    )
