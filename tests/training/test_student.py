from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BioGptConfig, LlamaConfig

from engine.errors import StageError
from engine.job.spec import LoraSpec, TrainSpec
from engine.training.student import _backbone, load_student, with_adapters, write_untrained


def test_the_untrained_student_is_seeded_and_ends_with_the_tokenizers_eos(
    spec: TrainSpec, tokenizer: Any, tmp_path: Path
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_untrained(spec, tokenizer, seed, tmp_path / name)
    a, b, c = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name).lm_head.weight for name in "abc"
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert (
        AutoModelForCausalLM.from_pretrained(tmp_path / "a").generation_config.eos_token_id
        == tokenizer.eos_token_id
    )


def test_bf16_students_are_stored_in_bf16(spec: TrainSpec, tokenizer: Any, tmp_path: Path) -> None:
    write_untrained(spec.model_copy(update={"precision": "bf16"}), tokenizer, 1, tmp_path / "a")
    assert (
        load_student(
            str(tmp_path / "a"), spec.model_copy(update={"precision": "bf16"}), "cpu", 0
        ).model.dtype
        == torch.bfloat16
    )
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "a").dtype == torch.bfloat16


def test_adapters_of_an_output_head_by_another_name_are_refused() -> None:
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "vocab_size": 50,
    }
    model = AutoModelForCausalLM.from_config(BioGptConfig(**shape))
    with pytest.raises(StageError, match=r"targets=\['output_projection'\] adapt the output head"):
        with_adapters(model, LoraSpec(targets=["output_projection"]))


@pytest.mark.parametrize("tied", [True, False])
def test_adapters_of_embeddings_that_are_the_output_head_are_refused(tied: bool) -> None:
    """Merged, they would change a head that the losses had read without them."""
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "vocab_size": 50,
    }
    model = AutoModelForCausalLM.from_config(LlamaConfig(**shape, tie_word_embeddings=tied))
    lora = LoraSpec(targets=["q_proj", "embed_tokens"])
    if tied:
        with pytest.raises(StageError, match="adapt the embeddings, here also the output head"):
            with_adapters(model, lora)
    else:
        assert any(
            "embed_tokens.lora_" in name
            for name, _ in with_adapters(model, lora).named_parameters()
        )


def test_adapters_have_the_models_type() -> None:
    """DeepSpeed's ZeRO-3 shards weights of one type."""
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "vocab_size": 50,
    }
    model = AutoModelForCausalLM.from_config(LlamaConfig(**shape), dtype=torch.bfloat16)
    assert {weight.dtype for weight in with_adapters(model, LoraSpec(rank=2)).parameters()} == {
        torch.bfloat16
    }


def test_flash_attention_gets_one_row_whose_positions_restart_at_each_example() -> None:
    """transformers reads examples' borders for it from a single row only; with several it would
    attend across them."""
    from types import SimpleNamespace

    seen = {}
    base = lambda **inputs: seen.update(inputs)  # noqa: E731
    causal = SimpleNamespace(
        config=SimpleNamespace(_attn_implementation="flash_attention_2"), base_model=base
    )
    ids, positions = torch.arange(8).view(2, 4), torch.tensor([[0, 1, 0, 1], [0, 1, 2, 3]])
    _backbone(causal, SimpleNamespace(input_ids_BL=ids, position_ids_BL=positions), {})
    assert seen["input_ids"].tolist() == [list(range(8))]
    assert seen["position_ids"].tolist() == [[0, 1, 0, 1, 0, 1, 2, 3]]
