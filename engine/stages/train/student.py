"""The student as a model: load, start untrained, and forward to a loss.

Shapes: B blocks, L tokens, N targets, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from engine.records import derive_seed
from engine.spec import TrainSpec
from engine.stages.train.export import export
from engine.stages.train.losses import LOSSES
from engine.stages.train.packing import Batch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Student(nn.Module):
    """A causal model whose forward pass is the summed loss of a batch."""

    def __init__(self, model: PreTrainedModel, spec: TrainSpec) -> None:
        super().__init__()
        self.model, self.spec = model, spec
        self._where_N = torch.zeros(0, dtype=torch.long)
        # Only targets enter the head, so logits of prompts and padding never exist; what the model does to its
        # logits afterwards (scaling, soft caps) stays the model's own.
        model.get_output_embeddings().register_forward_pre_hook(self._select_targets)

    def _select_targets(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (args[0].flatten(0, 1)[self._where_N], *args[1:])

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the loss over the batch's N targets, and how many of them have the largest logit; both fp32."""
        self._where_N = batch.where_N
        # Without a mask, transformers derives the examples' borders from the position ids.
        logits_NV = self.model(input_ids=batch.input_ids_BL, position_ids=batch.position_ids_BL, use_cache=False).logits
        loss = LOSSES[self.spec.loss](logits_NV.float(), batch, self.spec)
        return loss, (logits_NV.detach().argmax(1) == batch.labels_N).sum().float()


def load_tokenizer(spec: TrainSpec) -> PreTrainedTokenizerBase:
    """The student's tokenizer: train.tokenizer, else the one beside the student."""
    source, revision = (spec.tokenizer, None) if spec.tokenizer else (spec.student, spec.revision)
    return AutoTokenizer.from_pretrained(source, revision=revision)


def load_model(source: str, spec: TrainSpec) -> PreTrainedModel:
    """The model to train, in the type of train.precision."""
    revision = spec.revision if source == spec.student else None
    dtype = DTYPES[spec.precision]
    model = AutoModelForCausalLM.from_pretrained(source, revision=revision, dtype=dtype, attn_implementation="sdpa")
    if spec.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def write_untrained(spec: TrainSpec, tokenizer: Any, seed: int, folder: Path) -> None:
    """The baseline of `init: random`: the student's config with seeded random weights."""
    config = AutoConfig.from_pretrained(spec.student, revision=spec.revision)
    config.dtype = DTYPES[spec.precision]
    # An architecture's default special ids belong to its own tokenizer; with another one they end answers at random words.
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer, name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "init"))
        # Weights are drawn in fp32, so that precision does not change the draw.
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(DTYPES[spec.precision])
    export(model, model.state_dict(), tokenizer, folder)


def vocabulary_size(spec: TrainSpec) -> int:
    """Rows of the student's embedding, from its config."""
    return int(AutoConfig.from_pretrained(spec.student, revision=spec.revision).get_text_config().vocab_size)
