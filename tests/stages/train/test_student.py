from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from engine.spec import TrainSpec
from engine.stages.train.student import load_student, write_untrained


def test_the_untrained_student_is_seeded_and_ends_with_the_tokenizers_eos(spec: TrainSpec, tokenizer: Any, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_untrained(spec, tokenizer, seed, tmp_path / name)
    a, b, c = (AutoModelForCausalLM.from_pretrained(tmp_path / name).lm_head.weight for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "a").generation_config.eos_token_id == tokenizer.eos_token_id


def test_bf16_students_are_stored_in_bf16(spec: TrainSpec, tokenizer: Any, tmp_path: Path) -> None:
    write_untrained(spec.model_copy(update={"precision": "bf16"}), tokenizer, 1, tmp_path / "a")
    assert load_student(str(tmp_path / "a"), spec.model_copy(update={"precision": "bf16"}), "cpu", 0).model.dtype == torch.bfloat16
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "a").dtype == torch.bfloat16
