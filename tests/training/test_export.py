from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config, Qwen3Config

from engine.errors import StageError
from engine.job.spec import TrainSpec
from engine.run.facts import TrainInfo
from engine.training import export as export_module
from engine.training.export import export, model_card, rehearse

SHAPE = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
FACTS = {
    "job": "sums",
    "task": "math",
    "folder": "4-train-0a1b2c3d",
    "teachers": [
        {"teacher": "big", "teacher_model": "org/big", "teacher_revision": "f00d"},
        {"teacher": "other"},
    ],
    "data": {
        "Curation": (5000, 4200, {"wrong_answer": 700, "truncated": 100}),
        "Packing": (4200, 4200, {}),
    },
    "info": TrainInfo(
        steps=1250,
        tokens=420_000,
        tokens_per_second=None,
        global_batch=16,
        final_loss=0.12345,
        validation_loss=None,
        zero_stage=2,
        workers=1,
    ),
}


def a_model(kind: type = LlamaConfig, **config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(kind(**SHAPE | config))


def test_what_training_set_leaves_no_trace_in_the_config(tokenizer: Any, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE), attn_implementation="eager").to(
        torch.bfloat16
    )
    model.config.use_cache = False
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    export(model, model.state_dict(), tokenizer, tmp_path / "student")
    config = json.loads((tmp_path / "student/config.json").read_text())
    assert (config["architectures"], config["dtype"], config["use_cache"]) == (
        ["LlamaForCausalLM"],
        "bfloat16",
        True,
    )
    assert not {name for name in config if "attn" in name or "quant" in name}
    assert model.config.use_cache is False  # the model in training is left as it was


@pytest.mark.parametrize(
    "kept", ["both names", "one name"]
)  # under ZeRO-3 a tied head has no weight of its own
def test_a_tied_head_is_stored_once_and_loads(kept: str, tokenizer: Any, tmp_path: Path) -> None:
    model = a_model(Qwen3Config, tie_word_embeddings=True)
    weights = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if kept == "both names" or name != "lm_head.weight"
    }
    export(model, weights, tokenizer, tmp_path / "student")
    assert "lm_head.weight" not in load_file(tmp_path / "student/model.safetensors")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert torch.equal(again.lm_head.weight, model.model.embed_tokens.weight)


def test_a_large_student_is_sharded_and_loads(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "MAX_SHARD", "10KB")
    model = a_model()
    export(model, model.state_dict(), tokenizer, tmp_path / "student")
    index = json.loads((tmp_path / "student/model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(model.state_dict())
    shards = list((tmp_path / "student").glob("model-*.safetensors"))
    assert len(shards) == len(set(index["weight_map"].values())) > 1
    assert max(shard.stat().st_size for shard in shards) < 12_000
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "student").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("change", ["missing", "adapter", "shape"])
def test_weights_of_another_form_are_never_written(
    change: str, tokenizer: Any, tmp_path: Path
) -> None:
    model = a_model()
    weights, name = dict(model.state_dict()), "model.layers.0.self_attn.q_proj.weight"
    if change == "missing":
        del weights[name]
    elif change == "adapter":
        weights["model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.zeros(2, 16)
    else:
        weights[name] = torch.zeros(16, 15)
    with pytest.raises(AssertionError, match=r"model\.layers\.0\.self_attn\.q_proj.*of 1"):
        export(model, weights, tokenizer, tmp_path / "student")
    assert list(tmp_path.glob("*student*")) == []


def test_an_interrupted_export_leaves_the_earlier_folder(tokenizer: Any, tmp_path: Path) -> None:
    model = a_model()
    export(model, model.state_dict(), tokenizer, tmp_path / "student")
    before = (tmp_path / "student/model.safetensors").read_bytes()
    with pytest.raises(StageError):
        export(
            a_model(Qwen2Config), a_model(Qwen2Config).state_dict(), tokenizer, tmp_path / "student"
        )
    assert (tmp_path / "student/model.safetensors").read_bytes() == before


def test_a_tokenizer_that_would_load_as_another_is_refused_before_training(
    tokenizer: Any, tmp_path: Path
) -> None:
    Qwen2Config(**SHAPE, architectures=["Qwen2ForCausalLM"]).save_pretrained(tmp_path / "qwen2")
    with pytest.raises(StageError, match="loads the tokenizer as a Qwen2Tokenizer"):
        rehearse(TrainSpec(student=str(tmp_path / "qwen2")), tokenizer, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name != "tiny"] == ["qwen2"]


def test_a_generation_config_that_cannot_be_saved_is_refused_before_training(
    student_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    (student_folder / "generation_config.json").write_text(
        json.dumps({"do_sample": False, "temperature": 0.6})
    )
    with pytest.raises(
        StageError,
        match=r"generation_config\.json contradicts itself.*`temperature` is set to `0.6`",
    ):
        rehearse(TrainSpec(student=str(student_folder)), tokenizer, tmp_path)
    (student_folder / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.6})
    )
    rehearse(TrainSpec(student=str(student_folder)), tokenizer, tmp_path)


def test_the_students_own_sampling_is_kept(tokenizer: Any, tmp_path: Path) -> None:
    model = a_model()
    model.generation_config.update(do_sample=True, temperature=0.6, eos_token_id=[1, 7])
    export(model, model.state_dict(), tokenizer, tmp_path / "student")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "student").generation_config
    assert (found.do_sample, found.temperature, found.eos_token_id) == (True, 0.6, [1, 7])
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "student").chat_template == tokenizer.chat_template
    )


@pytest.mark.parametrize(("own", "exported"), [(None, 1), (5, [5, 1]), ([5, 7], [5, 7, 1]), (1, 1)])
def test_the_tokenizers_end_ends_answers_too(
    own: Any, exported: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """A base model's own end, trained with the tokenizer of its chat sibling, would never come."""
    model = a_model()
    model.generation_config.eos_token_id = own
    export(model, model.state_dict(), tokenizer, tmp_path / "student")
    assert (
        AutoModelForCausalLM.from_pretrained(tmp_path / "student").generation_config.eos_token_id
        == exported
    )
    assert model.generation_config.eos_token_id == own  # the model in training is left as it was


def test_the_card_is_one_that_the_hub_reads_and_names_what_was_done(tmp_path: Path) -> None:
    settings = {
        "loss": {"kind": "skew_reverse_kl", "skew": 0.25, "sft_weight": 0.2, "temperature": 2.0},
        "lora": {"rank": 8},
    }
    spec = TrainSpec(student="microsoft/Phi-4-mini-instruct", **settings)
    text = model_card(spec, FACTS, {"max_position_embeddings": 4096})
    (tmp_path / "README.md").write_text(text)
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.base_model, data.library_name, data.pipeline_tag) == (
        "microsoft/Phi-4-mini-instruct",
        "transformers",
        "text-generation",
    )
    assert "lora" in data.tags
    assert "from `org/big` at revision f00d and `other`." in text
    assert "Curation: 4,200 of 5,000 rows kept (dropped: truncated 100, wrong answer 700)." in text
    assert (
        "| loss | 0.8 x skew_reverse_kl (skew 0.25, temperature 2, tail bucket) + 0.2 x sft |"
        in text
    )
    assert "| target tokens | 420,000 |" in text
    assert "| training loss, last step | 0.1235 nats per target token |" in text
    assert "validation loss" not in text
    assert "stage folder `4-train-0a1b2c3d`" in text
    assert "    vllm serve FOLDER\n" in text


def test_a_random_or_local_student_has_no_base_model_on_the_hub(student_folder: Path) -> None:
    for spec in (
        TrainSpec(student="org/base", init="random"),
        TrainSpec(student=str(student_folder)),
    ):
        assert "base_model" not in model_card(spec, FACTS, {})


@pytest.mark.parametrize(("block_tokens", "limited"), [(4096, True), (8192, False)])
def test_the_card_of_a_long_rope_student_tells_the_length_that_it_was_trained_for(
    block_tokens: int, limited: bool
) -> None:
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 4096}
    config = {"max_position_embeddings": 131_072, "rope_parameters": rope}
    text = model_card(TrainSpec(student="x", block_tokens=block_tokens), FACTS, config)
    assert ("vllm serve FOLDER --max-model-len 4096" in text) is limited
