"""Tiny configurations keep what decides, and what is known of an architecture is found by name or
by folder."""

from __future__ import annotations

import json

import pytest

from engine.errors import SpecError
from engine.machines.limits import model_type_of, quantization_of
from engine.machines.tiny_models import FAMILIES, family_of, tiny_config


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("deepseek-ai/DeepSeek-V3", "DeepSeek-V3"),
        ("deepseek-ai/DeepSeek-R1", "DeepSeek-V3"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", None),
        ("meta-llama/Llama-3.1-405B-Instruct-FP8", "Llama-3.1"),
        ("microsoft/Phi-3-mini-4k-instruct", "Phi-3-mini-4k"),
        ("microsoft/Phi-3-mini-128k-instruct", "Phi-3.5-mini"),
        ("microsoft/Phi-3.5-mini-instruct", "Phi-3.5-mini"),
        ("microsoft/Phi-3.5-MoE-instruct", None),
        ("microsoft/Phi-4-mini-instruct", "Phi-4-mini"),
        ("Qwen/Qwen3-235B-A22B", "Qwen3 MoE"),
        ("Qwen/Qwen3-0.6B", "Qwen3"),
        ("google/gemma-3-1b-it", "Gemma 3"),
        ("mistralai/Mistral-7B-Instruct-v0.1", "Mistral-7B-v0.1"),
        ("mistralai/Mistral-7B-v0.3", "Mistral-7B-v0.3"),
        ("openai/gpt-oss-20b", "gpt-oss"),
        ("allenai/OLMo-2-1124-7B-Instruct", "OLMo-2"),
        ("allenai/Olmo-3-7B-Instruct", "OLMo-3"),
    ],
)
def test_a_hub_name_has_its_architecture(model, family):
    found = family_of(model)
    assert (found and found.name) == family


def test_positions_and_windows_shrink_together():
    small = tiny_config("microsoft/Phi-4-mini-instruct", 16)
    assert small["max_position_embeddings"] == 8192
    assert small["original_max_position_embeddings"] == 256
    assert tiny_config("DeepSeek-V3", 8)["rope_parameters"]["original_max_position_embeddings"] == (
        512
    )
    assert tiny_config("gpt-oss", 8)["sliding_window"] == 16
    assert tiny_config("Mistral-7B-v0.3", 8)["sliding_window"] is None


def test_the_factors_of_a_long_rope_are_as_many_as_half_of_what_is_rotated():
    for name, rotated in (("Phi-3.5-mini", 32), ("Phi-4-mini", 24)):
        rope = tiny_config(name)["rope_parameters"]
        assert len(rope["short_factor"]) == len(rope["long_factor"]) == rotated // 2
        assert rope["partial_rotary_factor"] * 32 == rotated


def test_what_is_not_known_is_named_with_what_is():
    with pytest.raises(SpecError, match=r"DeepSeek-V3, Llama-3\.1.*OLMo-3"):
        tiny_config("mosaicml/mpt-7b")


def test_a_folder_goes_by_its_config(tmp_path):
    config = {"model_type": "phi3", "max_position_embeddings": 4096}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert family_of(str(tmp_path)).name == "Phi-3-mini-4k"
    rope = {"rope_type": "longrope"}
    longer = config | {"rope_scaling": rope, "original_max_position_embeddings": 4096}
    (tmp_path / "config.json").write_text(json.dumps(longer))
    assert family_of(str(tmp_path)).is_long_rope
    assert model_type_of(str(tmp_path)) == "phi3"


def test_how_weights_are_quantised_is_known_of_a_folder_and_of_some_hub_models(tmp_path):
    quantized = {"model_type": "llama", "quantization_config": {"quant_method": "fbgemm_fp8"}}
    (tmp_path / "config.json").write_text(json.dumps(quantized))
    assert quantization_of(str(tmp_path)) == "fbgemm_fp8"
    assert quantization_of("deepseek-ai/DeepSeek-V3") == "fp8"
    assert quantization_of("openai/gpt-oss-20b") == "mxfp4"
    assert quantization_of("unsloth/gpt-oss-20b-BF16") is None
    assert quantization_of("Qwen/Qwen3-8B") is None


def test_each_family_is_found_by_one_of_its_names():
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert all(tiny_config(family.name)["model_type"] == family.model_type for family in FAMILIES)
