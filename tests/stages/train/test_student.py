from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config

from engine.spec import TrainSpec
from engine.stages.train.cpu_kernels import PER_EXAMPLE
from engine.stages.train.student import _backbone, attention_of, load_student, write_untrained


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


def test_flash_attention_gets_one_row_whose_positions_restart_at_each_example() -> None:
    """transformers reads examples' borders for it from a single row only; with several it would attend across them."""
    from types import SimpleNamespace

    seen = {}
    base = lambda **inputs: seen.update(inputs)  # noqa: E731
    causal = SimpleNamespace(config=SimpleNamespace(_attn_implementation="flash_attention_2"), base_model=base)
    ids, positions = torch.arange(8).view(2, 4), torch.tensor([[0, 1, 0, 1], [0, 1, 2, 3]])
    _backbone(causal, SimpleNamespace(input_ids_BL=ids, position_ids_BL=positions), {})
    assert seen["input_ids"].tolist() == [list(range(8))]
    assert seen["position_ids"].tolist() == [[0, 1, 0, 1, 0, 1, 2, 3]]


@pytest.mark.parametrize(("cap", "device", "expected"), [(50.0, "cpu", "eager"), (None, "cpu", PER_EXAMPLE), (50.0, "gpu", "eager")])
def test_a_student_that_caps_its_attention_keeps_the_cap(cap: float | None, device: str, expected: str) -> None:
    assert attention_of(TrainSpec(student="x"), device, Gemma2Config(attn_logit_softcapping=cap)) == expected
