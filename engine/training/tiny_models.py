"""Tiny random models on disk, with a tokenizer of their own: they train and answer as the real ones
of their architecture do, only not well.

Their configurations are in engine/machines/tiny_models.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from engine.machines.tiny_models import SHRINK, tiny_config

START, END = "<|im_start|>", "<|im_end|>"
# ChatML, with the marks by which a trainer finds the answers
TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- message['content'] + '<|im_end|>' -}}{%- endif -%}"
    "{{- '\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def train_tokenizer(texts: Iterable[str], size: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `size` tokens, at least 258 (bytes and two marks), learnt from
    `texts`; it spells any text, and chats in ChatML.

    The end is the only special token, and the padding too: a random model says any token, and what
    a text leaves out could not be learnt from it.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_tokens([AddedToken(START, special=False, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=END, eos_token=END, chat_template=TEMPLATE
    )


def save_tiny(
    model: str,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    shrink: int = SHRINK,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """Write a random model of the architecture of `model` (see `tiny_config`) with this tokenizer,
    in bfloat16; `changes` win over its configuration. Returns the folder."""
    special: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    fields = tiny_config(model, shrink) | special | changes
    config = AutoConfig.for_model(**fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tiny = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tiny.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
