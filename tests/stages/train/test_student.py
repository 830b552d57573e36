from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from engine.errors import StageError
from engine.spec import TrainSpec
from engine.stages.train.student import export, load_student, write_untrained


def test_the_untrained_student_is_seeded_and_ends_with_the_tokenizers_eos(spec: TrainSpec, tokenizer: Any, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_untrained(spec, tokenizer, seed, tmp_path / name)
    a, b, c = (AutoModelForCausalLM.from_pretrained(tmp_path / name).lm_head.weight for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "a").generation_config.eos_token_id == tokenizer.eos_token_id


def test_bf16_students_are_stored_in_bf16(spec: TrainSpec, tokenizer: Any, tmp_path: Path) -> None:
    write_untrained(spec.model_copy(update={"precision": "bf16"}), tokenizer, 1, tmp_path / "a")
    assert load_student(str(tmp_path / "a"), spec.model_copy(update={"precision": "bf16"}), "cpu").model.dtype == torch.bfloat16
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "a").dtype == torch.bfloat16


def test_a_tokenizer_that_would_load_as_another_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(
        Qwen2Config(vocab_size=48, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    with pytest.raises(StageError, match="loads the tokenizer as a Qwen2Tokenizer"):
        export(model, model.state_dict(), tokenizer, tmp_path / "student")
    assert not (tmp_path / "student").exists()
