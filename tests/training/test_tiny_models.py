"""Each tiny configuration is one that transformers builds, and a tiny model is whole on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from engine.machines.tiny_models import FAMILIES, tiny_config
from engine.training.tiny_models import save_tiny, train_tokenizer

NAMES = [family.name for family in FAMILIES]


@pytest.mark.parametrize("name", NAMES)
def test_each_architecture_is_built_and_small(name: str) -> None:
    config = AutoConfig.for_model(**tiny_config(name), vocab_size=300, pad_token_id=0)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert model.num_parameters() < 3e6
    assert type(model.config).model_type == tiny_config(name)["model_type"]


def test_a_tiny_model_lies_there_with_its_tokenizer_and_its_seed(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["two and two are four", "three and three are six"], 280)
    folder = save_tiny("Qwen/Qwen3-8B", tmp_path / "a", tokenizer, shrink=16, num_hidden_layers=1)
    same = save_tiny("Qwen3", tmp_path / "b", tokenizer, shrink=16, num_hidden_layers=1)
    other = save_tiny("Qwen3", tmp_path / "c", tokenizer, shrink=16, num_hidden_layers=1, seed=1)
    weights = [(one / "model.safetensors").read_bytes() for one in (folder, same, other)]
    assert weights[0] == weights[1] != weights[2]
    read = AutoTokenizer.from_pretrained(folder)
    assert len(read) == AutoConfig.from_pretrained(folder).vocab_size
    question = [{"role": "user", "content": "Zwei und zwei? ∑"}]
    text = read.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    assert text.endswith("<|im_start|>assistant\n")
    assert read.decode(read(text)["input_ids"]) == text
