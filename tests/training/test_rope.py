from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from engine.training.rope import pin_long_rope

SHAPE = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}
FACTORS = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


def phi(rope_type: str = "longrope", **factors: Any) -> Phi3ForCausalLM:
    torch.manual_seed(0)
    rope = {"rope_type": rope_type, "rope_theta": 10_000.0} | (factors or FACTORS)
    config = Phi3Config(
        **SHAPE,
        max_position_embeddings=64,
        original_max_position_embeddings=16,
        rope_parameters=rope,
    )
    return Phi3ForCausalLM(config).eval()


def logits(model: Any, length: int) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(length)[None] % 48).logits


@pytest.mark.parametrize(("longest", "used"), [(16, "short_factor"), (17, "long_factor")])
def test_a_pinned_model_rotates_by_one_set_of_factors_at_every_length(
    longest: int, used: str
) -> None:
    model, one = phi(), phi(short_factor=FACTORS[used], long_factor=FACTORS[used])
    pin_long_rope(model, longest)
    for length in (8, 40, 8):
        torch.testing.assert_close(logits(model, length), logits(one, length), rtol=0, atol=0)


def test_an_example_alone_and_packed_behind_a_long_one_has_the_same_logits() -> None:
    short, long = torch.arange(8), torch.arange(30) % 48
    packed = {
        "input_ids": torch.cat([long, short])[None],
        "position_ids": torch.cat([torch.arange(30), torch.arange(8)])[None],
    }
    model = phi()
    with torch.no_grad():
        assert (
            model(**packed, use_cache=False).logits[0, 30:] - logits(model, 8)[0]
        ).abs().max() > 1e-3  # what pinning is for
        pin_long_rope(model, 64)
        torch.testing.assert_close(
            model(**packed, use_cache=False).logits[0, 30:],
            logits(model, 8)[0],
            rtol=1e-5,
            atol=1e-6,
        )


def test_models_without_long_rope_stay_as_they_are() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    before, kind = logits(model, 40), model.model.rotary_emb.rope_type
    pin_long_rope(model, 64)
    assert model.model.rotary_emb.rope_type == kind
    assert torch.equal(logits(model, 40), before)
