"""Inside transformers: what engine/training and engine/check lean on beyond its documentation."""

from __future__ import annotations

import inspect

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AttentionInterface,
    GptOssConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from engine.check.models import _is_built_in

SHAPE = {
    "vocab_size": 16,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}


def llama(**more):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, **more)).eval()


@pytest.fixture
def long_rope():
    """A model with short factors up to 4 positions, and its rotary module."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, **factors}
    config = Phi3Config(
        **SHAPE,
        max_position_embeddings=16,
        original_max_position_embeddings=4,
        rope_parameters=rope,
    )
    model = Phi3ForCausalLM(config).eval()
    (rotary,) = [module for module in model.modules() if hasattr(module, "rope_type")]
    return model, rotary


# Rotation (training/rope.py)


def test_a_long_rope_module_chooses_its_factors_by_the_length_it_is_given(long_rope):
    model, rotary = long_rope
    assert rotary.rope_type == "longrope"
    short = rotary.inv_freq.clone()
    model(input_ids=torch.ones(1, 8, dtype=torch.long))
    assert not torch.equal(rotary.inv_freq, short), "pin_long_rope may be needless now"


def test_under_the_name_default_the_factors_stay(long_rope):
    model, rotary = long_rope
    rotary.rope_type = "default"
    short = rotary.inv_freq.clone()
    model(input_ids=torch.ones(1, 8, dtype=torch.long))
    assert torch.equal(rotary.inv_freq, short)


def test_the_long_factors_are_computed_by_a_function_of_the_table(long_rope):
    _, rotary = long_rope
    compute = ROPE_INIT_FUNCTIONS["longrope"]
    assert list(inspect.signature(compute).parameters)[:3] == ["config", "device", "seq_len"]
    factors, _ = compute(rotary.config, rotary.inv_freq.device, seq_len=5)
    assert factors.shape == rotary.inv_freq.shape
    assert rotary.config.rope_parameters["original_max_position_embeddings"] == 4


# Attention (training/attention.py, student.py)


def test_an_attention_of_ours_gets_position_ids_and_no_mask():
    seen = {}

    def attention(module, query, key, value, attention_mask, *, position_ids, **more):
        seen.update(mask=attention_mask, positions=position_ids, scaling=more["scaling"])
        return value.transpose(1, 2), None

    AttentionInterface.register("upstream_contract", attention)
    model = llama(attn_implementation="upstream_contract")
    assert model.config._attn_implementation == "upstream_contract"
    positions = torch.tensor([[0, 1, 0, 1]])
    model.base_model(input_ids=torch.ones(1, 4, dtype=torch.long), position_ids=positions)
    assert seen["mask"] is None
    assert torch.equal(seen["positions"], positions)
    assert seen["scaling"] == pytest.approx(8**-0.5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_position_ids_that_start_again_are_the_border_of_an_example(attention):
    model = llama(attn_implementation=attention)
    ids = torch.tensor([[3, 5, 7, 9]])
    packed = model(input_ids=ids, position_ids=torch.tensor([[0, 1, 0, 1]]), use_cache=False)
    alone = model(input_ids=ids[:, 2:], use_cache=False)
    torch.testing.assert_close(packed.logits[:, 2:], alone.logits)


def test_a_model_with_attention_sinks_says_that_sdpa_cannot():
    assert not MODEL_FOR_CAUSAL_LM_MAPPING[GptOssConfig]._supports_sdpa
    assert MODEL_FOR_CAUSAL_LM_MAPPING[LlamaConfig]._supports_sdpa


# Files (training/export.py, check/models.py)


def test_a_model_names_the_weights_that_are_tied():
    assert llama(tie_word_embeddings=True).all_tied_weights_keys == {
        "lm_head.weight": "model.embed_tokens.weight"
    }
    assert not llama(tie_word_embeddings=False).all_tied_weights_keys


def test_a_tokenizer_shows_the_rules_by_which_it_cuts():
    fast = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast)
    assert "Whitespace" in str(tokenizer._tokenizer.pre_tokenizer)
    assert tokenizer.backend_tokenizer is tokenizer._tokenizer, "export.py could ask for it"


@pytest.mark.parametrize(
    ("kind", "known"), [("LlamaForCausalLM", True), ("OursForCausalLM", False)]
)
def test_a_class_is_found_in_the_source_of_its_model_type(kind, known):
    config = {"model_type": "llama", "auto_map": {"AutoModelForCausalLM": f"modeling.{kind}"}}
    assert _is_built_in(config) == known
