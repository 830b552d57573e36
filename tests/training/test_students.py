"""A tiny random model of each student that jobs/ names trains, exports, and answers alike in
transformers and vLLM.

So do students of each way to learn that is more than text: from a stored distribution with adapters
or of another tokenizer, and from a live teacher's layers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubles.torch_engine import GENERATE, TorchEngine, run_in_process
from drivers.forked_workers import run_forked
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from engine.job.spec import GenerateSpec, TrainSpec
from engine.machines.tiny_models import tiny_config
from engine.rows.records import Example
from engine.run.context import Context
from engine.run.manifests import finished
from engine.stages import train
from engine.training.metrics import load_metrics
from engine.training.student import Student

SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    # larger than usual, so that attention is far from uniform and positions matter
    "initializer_range": 0.15,
}
CONTEXT = 64  # positions up to which the long-rope models use their short factors


def long_rope(rotary: int) -> dict[str, Any]:
    """Phi's two sets of factors, for heads with `rotary` rotated dimensions."""
    return {
        "original_max_position_embeddings": CONTEXT,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": rotary / 32,
            "short_factor": [1.0 + 0.05 * i for i in range(rotary // 2)],
            "long_factor": [1.5 + 0.5 * i for i in range(rotary // 2)],
        },
    }


LLAMA_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": CONTEXT,
}
STUDENTS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "phi-3-mini-4k": ("Phi3", {"sliding_window": 24}),
    "phi-3-mini-128k": ("Phi3", long_rope(32) | {"sliding_window": 250}),  # Phi-3.5-mini likewise
    "phi-4-mini": ("Phi3", long_rope(24) | {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama-3.1-8b": ("Llama", {"num_key_value_heads": 2, "rope_parameters": LLAMA_ROPE}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True}),
}


# Architectures that no job names yet; those above are in benchmarks/models as these are.
OTHERS = ("DeepSeek-V3", "Qwen3 MoE", "Gemma 3", "Mistral-7B-v0.1", "gpt-oss", "OLMo-2", "OLMo-3")
STUDENTS |= {name: (None, tiny_config(name, shrink=16)) for name in OTHERS}

METHODS: dict[str, dict[str, Any]] = {
    "sft": {},
    "reverse_kl with LoRA": {"loss": "reverse_kl", "lora": {"rank": 4, "alpha": 8.0}},
    "an adapter that is kept": {"lora": {"rank": 4, "keep_adapter": True}},
    "layers of a live teacher": {
        "loss": "sft",
        "hidden": {"layers": [[0, 0], [2, 3]]},
        "attention_transfer": {"layers": [[1, 1], [2, 3]]},
    },
    "uld from another tokenizer": {"loss": {"kind": "uld", "sft_weight": 0.5}},
}
TRIED = [
    *((name, "sft") for name in STUDENTS if name not in OTHERS),
    ("llama-3.1-8b", "reverse_kl with LoRA"),
    ("phi-4-mini", "reverse_kl with LoRA"),
    ("qwen3", "layers of a live teacher"),
    ("llama-3.1-8b", "uld from another tokenizer"),
]
OF_OTHERS = [pytest.param(name, "sft", marks=pytest.mark.proof) for name in OTHERS]
Trained = tuple[Path, Path, Student]


def spelled(folder: Path) -> tuple[list[Example], list[Example]]:
    """Sums to train on and to validate, answered by a teacher whose tokens are single characters;
    its tokenizer lies in `folder`."""
    signs = ["<pad>", "<eos>", *" 0123456789ilpsu"]
    core = Tokenizer(
        models.WordLevel({sign: at for at, sign in enumerate(signs)}, unk_token="<pad>")
    )
    core.pre_tokenizer, core.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    characters = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>"
    )
    characters.save_pretrained(folder)
    examples = []
    for number, (a, b) in enumerate(
        (a, b) for a in range(20) for b in range(20) if (3 * a + b) % 6 == 0
    ):
        text = f"{a} plus {b} is {a + b}"
        ids = [*characters(text)["input_ids"], characters.eos_token_id]
        examples.append(
            Example(
                number,
                "t",
                0,
                "train",
                [
                    {"role": "user", "content": f"{a} plus {b}"},
                    {"role": "assistant", "content": text},
                ],
                prompt_token_ids=[2],
                token_ids=ids,
                topk_ids=[i for at in ids for i in (at, 0)],
                topk_logprobs=np.log([0.8, 0.15] * len(ids)).tolist(),
                tail=[0.05] * len(ids),
            )
        )
    return examples[:60], [
        dataclasses.replace(example, split="validation") for example in examples[60:64]
    ]


@pytest.fixture
def trained(
    tmp_path: Path,
    tokenizer: Any,
    write_curated: Callable[..., Path],
    spec: TrainSpec,
    ctx: Context,
) -> Callable[[str, str], Trained]:
    """Train that tiny student by that method: the folder it started from, the exported folder, and
    the module that was trained."""

    def save(folder: Path, architecture: str | None, **config: Any) -> Path:
        special = {
            "vocab_size": len(tokenizer),
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": 0,
        }
        torch.manual_seed(0)
        kind = CONFIG_MAPPING[config.pop("model_type", str(architecture).lower())]
        AutoModelForCausalLM.from_config(kind(**SHAPE | special | config)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    def train_it(name: str, method: str, deepspeed: bool = False) -> Trained:
        here = tmp_path / f"{name} by {method}{' in DeepSpeed' if deepspeed else ''}"
        source, out, settings = (
            save(here / "student", STUDENTS[name][0], **STUDENTS[name][1]),
            here / "out",
            METHODS[method],
        )
        out.mkdir()
        if "hidden" in settings:
            settings = settings | {
                "teacher": {
                    "model": str(
                        save(here / "teacher", "Llama", num_hidden_layers=3, hidden_size=64)
                    )
                }
            }
        changes = {
            "student": str(source),
            "init": "pretrained",
            "block_tokens": 48,
            "gradient_checkpointing": True,
        }
        students: list[Student] = []

        def build(spec: TrainSpec, student: Student, *, device: str) -> TorchEngine:
            students.append(student)
            return TorchEngine(spec, student, device=device)

        name, generate = str(here.relative_to(tmp_path) / "curated"), GENERATE
        if "uld" in str(settings.get("loss")):
            rows, held_out = spelled(here / "teacher")
            curated = write_curated(
                name, train=rows, validation=held_out, top_k=2, fingerprint="characters"
            )
            generate = GenerateSpec(teachers=[{"name": "t", "model": str(here / "teacher")}])
        else:
            curated = write_curated(name, top_k=8 if "lora" in settings else 0)
        train.run(
            TrainSpec(
                **spec.model_dump(exclude_unset=True)
                | changes
                | settings
                | ({"workers": 2, "batch_size": 1} if deepspeed else {})
            ),
            {"curate": finished(curated)},
            out,
            ctx,
            generate,
            **(
                {"launch": run_forked}
                if deepspeed
                else {"launch": run_in_process, "build_engine": build}
            ),
        )
        return source, out / "student", students[0] if students else None

    return train_it


def logits_of(model: Any, length: int = 20) -> torch.Tensor:
    ids = torch.randint(0, 48, (1, length), generator=torch.Generator().manual_seed(length))
    with torch.no_grad():
        return model.eval()(ids).logits


@pytest.mark.parametrize(("name", "method"), [*TRIED, *OF_OTHERS])
def test_the_exported_student_has_the_logits_of_the_trained_one(
    name: str, method: str, trained: Callable[..., Trained]
) -> None:
    source, folder, student = trained(name, method)
    exported, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    rounding = 5e-5 if "LoRA" in method else 1e-5  # merged, W x + B A x is rounded as (W + B A) x
    torch.testing.assert_close(
        logits_of(exported), logits_of(student.model), rtol=1e-5, atol=rounding
    )
    assert (
        logits_of(exported) - logits_of(AutoModelForCausalLM.from_pretrained(source))
    ).abs().max() > 0.05  # training moved it
    assert json.loads((folder / "config.json").read_text()) == json.loads(
        (source / "config.json").read_text()
    )
    assert AutoTokenizer.from_pretrained(folder).chat_template


def test_a_kept_adapter_on_its_base_is_the_student(trained: Callable[..., Trained]) -> None:
    from peft import PeftModel

    source, folder, _ = trained("llama-3.1-8b", "an adapter that is kept")
    adapter = folder.with_name("adapter")
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 4
    on_base = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(source), adapter)
    student = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits_of(on_base), logits_of(student), rtol=1e-5, atol=5e-5)
    assert not list(folder.parent.glob(".adapter*"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), [pair for pair in TRIED if pair[1] != "sft"])
def test_two_workers_in_deepspeed_export_what_plain_torch_does(
    name: str, method: str, trained: Callable[..., Trained]
) -> None:
    (_, plain, _), (_, sharded, _) = trained(name, method), trained(name, method, deepspeed=True)
    torch.testing.assert_close(
        *(logits_of(AutoModelForCausalLM.from_pretrained(folder)) for folder in (sharded, plain)),
        rtol=1e-2,
        atol=1e-2,
    )
    losses = [
        [line["loss"] for line in load_metrics(folder.parent / "metrics.jsonl") if "loss" in line]
        for folder in (sharded, plain)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.proof
def test_the_exported_students_answer_alike_in_vllm(
    trained: Callable[..., Any], tmp_path: Path
) -> None:
    """Greedy answers in float32, short of the long-rope models' switch of factors and beyond it."""
    numbers = torch.Generator().manual_seed(0)
    asked, expected = [], []
    for name, method in TRIED:
        folder = trained(name, method)[1]
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        for limit, lengths in ((CONTEXT, (3, 20, 40)), (256, (CONTEXT + 1, 100, 200))):
            prompts = [
                torch.randint(1, 48, (length,), generator=numbers).tolist() for length in lengths
            ]  # generate() masks 0, the padding
            asked.append({"model": str(folder), "max_model_len": limit, "prompts": prompts})
            answers = [
                model.generate(
                    torch.tensor([p]),
                    max_new_tokens=16,
                    do_sample=False,
                    eos_token_id=None,
                    pad_token_id=0,
                )
                for p in prompts
            ]
            expected.append(
                [answer[0, len(p) :].tolist() for p, answer in zip(prompts, answers, strict=True)]
            )
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    script = Path(__file__).parents[1] / "drivers/greedy_in_vllm.py"
    command = [
        sys.executable,
        str(script),
        str(tmp_path / "asked.json"),
        str(tmp_path / "given.json"),
    ]
    said = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(script.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr[-4000:]
    given = json.loads((tmp_path / "given.json").read_text())
    for request, theirs, ours in zip(asked, given, expected, strict=True):
        assert theirs == ours, (request["model"], request["max_model_len"])
