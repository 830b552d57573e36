"""Which small model stands for which model of the job.

A model that is small already is taken as it is. Any other is made anew with random weights, of its
architecture (engine/machines/tiny_models.py), with its own tokenizer where that is on this machine,
else with one of its family that is learnt from the job's rows. Models of one tokenizer share it,
and those of two do not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from engine.check.models import has_tokenizer
from engine.errors import SpecError
from engine.machines.architectures import facts
from engine.machines.tiny_models import Family, family_of, require_family, tiny_config
from engine.rehearsal.chats import CHATS, Chat
from engine.rehearsal.tokenizers import train_tokenizer
from engine.training.tiny_models import save_tiny

LITTLE_B = 0.02  # parameters, in billions, up to which a model is small already


def is_little(model: str) -> bool:
    """Whether the model is a folder here, and small."""
    shape = facts(model)
    return os.path.isdir(model) and shape is not None and shape.params_b <= LITTLE_B


def on_disk(model: str, revision: str | None = None) -> Path | None:
    """The folder of a model whose config.json is here: its own, or one of the hub's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if os.path.isdir(model):
        return Path(model)
    try:
        found = try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError:  # the path of another machine
        return None
    return Path(found).parent if isinstance(found, str) else None


class LittleModels:
    """The models of a rehearsal, each made once, in `folder`; tokenizers learn from `texts`, and
    positions are divided by `shrink`."""

    def __init__(self, folder: Path, texts: Sequence[str], shrink: int) -> None:
        self._folder = folder
        self._texts = texts
        self._shrink = shrink
        self._tokenizers: dict[Path | Chat, PreTrainedTokenizerBase] = {}
        self.said: dict[str, str] = {}  # by model, what stands for it

    def model(
        self,
        model: str,
        revision: str | None = None,
        *,
        speaks: str | None = None,
        layers: int = 0,
        answers: bool = False,
    ) -> str:
        """The folder of the small model. `speaks`: a model whose tokenizer it has in place of its
        own; `layers`: at least so many; `answers`: a student learns its tokens, so they are words.
        SpecError where its architecture is not known."""
        if is_little(model):
            self.said[model] = "itself"
            return model
        tokenizer = self._tokenizer(speaks or model, None if speaks else revision)
        family = self._family(model, revision).name
        changes: dict[str, Any] = {"tie_word_embeddings": False} if answers else {}
        config = tiny_config(family, self._shrink)
        if layers > config["num_hidden_layers"] and "layer_types" not in config:
            changes["num_hidden_layers"] = layers
        folder = self._named(f"{model}-{layers}" + "-answers" * answers)
        if not folder.exists():
            save_tiny(family, folder, tokenizer, shrink=self._shrink, **changes)
            if answers:
                _keep_to_words(folder, tokenizer)
        self.said[model] = f"a random {config['model_type']} of {len(tokenizer):,} tokens"
        return str(folder)

    def tokenizer(self, model: str) -> str:
        """The folder of the tokenizer of `model`."""
        here = on_disk(model)
        if here and has_tokenizer(str(here)):
            return str(here)
        folder = self._named(f"{model}-tokenizer")
        self._tokenizer(model).save_pretrained(folder)
        return str(folder)

    def _named(self, name: str) -> Path:
        return self._folder / re.sub(r"[^\w.-]+", "-", name).strip("-")

    def _tokenizer(self, model: str, revision: str | None = None) -> PreTrainedTokenizerBase:
        source: Path | Chat | None = on_disk(model, revision)
        if source is None or not has_tokenizer(str(source)):
            source = CHATS[self._family(model, revision).name]
        if source not in self._tokenizers:
            self._tokenizers[source] = self._load(source)
        return self._tokenizers[source]

    def _load(self, source: Path | Chat) -> PreTrainedTokenizerBase:
        if isinstance(source, Path):
            loaded = AutoTokenizer.from_pretrained(source)
            assert loaded is not None, source  # transformers raises where there is none
            return loaded
        return train_tokenizer(source, self._texts)

    def _family(self, model: str, revision: str | None) -> Family:
        """By the model's name, else by its folder."""
        found = family_of(model)
        if found is None and (here := on_disk(model, revision)):
            found = family_of(str(here))
        if found:
            return found
        try:
            return require_family(model)
        except SpecError as error:
            raise SpecError(
                f"{error}; or rehearse with a model of a known one: --set FIELD=NAME"
            ) from None


def _keep_to_words(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a random model say hardly anything but words and its end: a mark inside an answer is
    refused in training, and for good reason.

    One dimension of all embeddings is constant, which the norms and layers between keep positive;
    the head reads it for marks alone, against them. The others are widened to be told beside it.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    end = tokenizer.eos_token_id
    marks = [number for number in tokenizer.added_tokens_decoder if number != end]
    with torch.no_grad():
        words = model.get_input_embeddings().weight.data
        words *= 20
        words[:, 0] = 30.0
        head = model.get_output_embeddings().weight.data
        head[:, 0] = 0.0
        head[marks] = 0.0
        head[marks, 0] = -20.0
    model.save_pretrained(folder)
