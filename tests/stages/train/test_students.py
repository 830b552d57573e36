"""A tiny random model of each student that jobs/ names trains, exports, and answers alike in transformers and vLLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch_engine import TorchEngine, run_in_process
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.progress import Context
from engine.spec import TrainSpec
from engine.stages import train

SHAPE = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256}
CONTEXT = 64  # positions up to which the long-rope models use their short factors


def long_rope(rotary: int) -> dict[str, Any]:
    """Phi's two sets of factors, for heads with `rotary` rotated dimensions."""
    return {
        "original_max_position_embeddings": CONTEXT,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10_000.0, "partial_rotary_factor": rotary / 32,
            "short_factor": [1.0 + 0.05 * i for i in range(rotary // 2)], "long_factor": [1.5 + 0.5 * i for i in range(rotary // 2)],
        },
    }


LLAMA_ROPE = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": CONTEXT}
STUDENTS = {
    "phi-3-mini-4k": ("Phi3", {"sliding_window": 24}),
    "phi-3-mini-128k": ("Phi3", long_rope(32) | {"sliding_window": 250}),  # Phi-3.5-mini likewise
    "phi-4-mini": ("Phi3", long_rope(24) | {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama-3.1-8b": ("Llama", {"num_key_value_heads": 2, "rope_parameters": LLAMA_ROPE}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True}),
}


@pytest.fixture
def trained(
    tmp_path: Path, tokenizer: Any, write_curated: Callable[..., Path], spec: TrainSpec, ctx: Context
) -> Callable[[str], tuple[Path, TorchEngine]]:
    """Train the tiny student of that name from a folder with weights; its exported folder, and the engine that trained it."""

    def train_it(name: str) -> tuple[Path, TorchEngine]:
        architecture, config = STUDENTS[name]
        special = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
        torch.manual_seed(0)
        built = getattr(transformers, f"{architecture}Config")(**SHAPE | special | config)
        getattr(transformers, f"{architecture}ForCausalLM")(built).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        engines: list[TorchEngine] = []

        def build(*args: Any, **kwargs: Any) -> TorchEngine:
            engines.append(TorchEngine(*args, **kwargs))
            return engines[-1]

        out = tmp_path / f"{name}-trained"
        out.mkdir()
        settings = {"student": str(tmp_path / name), "init": "pretrained", "block_tokens": 48, "gradient_checkpointing": True}
        curated = write_curated(f"{name}-curated")
        train.run(
            spec.model_copy(update=settings), {"curate": curated}, out, ctx, launch=run_in_process, build_engine=build
        )
        return out / "student", engines[0]

    return train_it


def logits_of(model: Any, length: int) -> torch.Tensor:
    ids = torch.randint(0, model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(length))
    with torch.no_grad():
        return model.eval()(ids).logits


@pytest.mark.parametrize("name", STUDENTS)
def test_the_exported_student_has_the_logits_of_the_trained_one(name: str, trained: Callable[..., Any], tmp_path: Path) -> None:
    folder, engine = trained(name)
    untrained = AutoModelForCausalLM.from_pretrained(tmp_path / name)
    exported, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    before = {length: logits_of(untrained, length) for length in (20, CONTEXT + 20)}
    trained_here = untrained
    trained_here.load_state_dict({key.removeprefix("model."): tensor for key, tensor in engine.export().items()}, strict=False)
    for length, start in before.items():
        found = logits_of(exported, length)
        torch.testing.assert_close(found, logits_of(trained_here, length), rtol=0, atol=0)
        assert (found - start).abs().max() > 0.1  # training moved it
    source, written = (json.loads((path / "config.json").read_text()) for path in (tmp_path / name, folder))
    assert written == source
    assert AutoTokenizer.from_pretrained(folder).chat_template


@pytest.mark.proof
def test_the_exported_students_answer_alike_in_vllm(trained: Callable[..., Any], tmp_path: Path) -> None:
    """Greedy answers in float32, short of the long-rope models' switch of factors and beyond it."""
    folders = {name: trained(name)[0] for name in STUDENTS}
    numbers = torch.Generator().manual_seed(0)
    asked, expected = [], []
    for folder in folders.values():
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        for limit, lengths in ((CONTEXT, (3, 20, 40)), (256, (CONTEXT + 1, 100, 200))):
            prompts = [torch.randint(0, 48, (length,), generator=numbers).tolist() for length in lengths]
            asked.append({"model": str(folder), "max_model_len": limit, "prompts": prompts})
            answers = [
                model.generate(torch.tensor([p]), max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0) for p in prompts
            ]
            expected.append([answer[0, len(p):].tolist() for p, answer in zip(prompts, answers, strict=True)])
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    script = Path(__file__).parents[2] / "greedy_in_vllm.py"
    command = [sys.executable, str(script), str(tmp_path / "asked.json"), str(tmp_path / "given.json")]
    said = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(script.parents[1])}, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr[-4000:]
    given = json.loads((tmp_path / "given.json").read_text())
    for request, theirs, ours in zip(asked, given, expected, strict=True):
        assert theirs == ours, (request["model"], request["max_model_len"])
