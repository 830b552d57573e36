"""A student of a few thousand parameters with a word tokenizer, and curated examples in its ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

from engine.job.spec import TrainSpec
from engine.rows.ids import tokenizer_fingerprint
from engine.rows.records import EXAMPLE, Example
from engine.rows.tables import to_table, write_parquet
from engine.run.context import Context
from engine.run.facts import CurateInfo
from engine.run.manifests import Counts, publish

torch.set_num_threads(1)  # models this small only lose time to more threads

WORDS = ["<pad>", "<eos>", "<user>", "<assistant>", "plus", "is", *(str(n) for n in range(42))]
PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ '<' + m.role + '> ' + m.content + ' <eos>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)
MARKED_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<assistant> ' }}"
    "{% generation %}{{ m.content + ' <eos>' }}{% endgeneration %}{% else %}{{ '<user> ' +"
    " m.content + ' <eos> ' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def word_tokenizer(words: list[str], template: str = PLAIN_TEMPLATE) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer(WORDS)


@pytest.fixture
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    return word_tokenizer


@pytest.fixture
def marked_template() -> str:
    return MARKED_TEMPLATE


@pytest.fixture(params=[Qwen2Config, LlamaConfig], ids=["qwen2", "llama"])
def tiny_config(request: pytest.FixtureRequest) -> Any:
    return request.param(
        vocab_size=len(WORDS), tie_word_embeddings=request.param is Qwen2Config, **SHAPE
    )


@pytest.fixture
def student_folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """config.json and tokenizer only: a student for `init: random`."""
    folder = tmp_path / "tiny"
    config = LlamaConfig(
        vocab_size=len(WORDS), tie_word_embeddings=True, architectures=["LlamaForCausalLM"], **SHAPE
    )
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def spec(student_folder: Path) -> TrainSpec:
    return TrainSpec(
        student=str(student_folder),
        init="random",
        precision="fp32",
        block_tokens=32,
        batch_size=2,
        epochs=2,
        learning_rate=1e-2,
        checkpoint_steps=5,
        validate_steps=5,
    )


@pytest.fixture
def ctx() -> Context:
    return Context(job="test", task="math", seed=7)


def example(
    a: int, b: int, tokenizer: PreTrainedTokenizerFast, *, split: str = "train", top_k: int = 0
) -> Example:
    messages = [
        {"role": "user", "content": f"{a} plus {b}"},
        {"role": "assistant", "content": f"{a} plus {b} is {a + b}"},
    ]
    prompt = tokenizer.apply_chat_template(
        messages[:-1], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    answer = tokenizer(f"{a} plus {b} is {a + b} <eos>")["input_ids"]
    ids = (
        np.stack([(np.array(answer) + i) % len(WORDS) for i in range(top_k)], 1).ravel()
        if top_k
        else []
    )
    logprobs = (
        np.tile(np.log(np.full(max(1, top_k), 0.9 / max(1, top_k))), len(answer)) if top_k else []
    )
    return Example(
        a * 100 + b,
        "t",
        0,
        split,
        messages,
        prompt_token_ids=prompt,
        token_ids=answer,
        topk_ids=ids,
        topk_logprobs=logprobs,
        tail=np.full(len(answer), 0.1) if top_k else [],
    )


@pytest.fixture
def write_curated(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Callable[..., Path]:
    """Factory of a finished curate folder: 60 sums to train on and 4 to validate."""

    def write(
        name: str = "curated",
        *,
        train: list[Example] | None = None,
        validation: list[Example] | None = None,
        top_k: int = 0,
        fingerprint: str | None = "",
    ) -> Path:
        folder = tmp_path / name
        (folder / "data").mkdir(parents=True)
        if fingerprint == "":
            fingerprint = tokenizer_fingerprint(tokenizer.get_vocab())
        metadata = {
            "teacher": "t",
            "teacher_model": "org/teacher",
            "top_k": top_k,
            "tokenizer_fingerprint": fingerprint,
        }
        metadata["vocab_size"] = len(WORDS)
        sums = [(a, b) for a in range(20) for b in range(20) if (3 * a + b) % 6 == 0][:64]
        rows = (
            [example(a, b, tokenizer, top_k=top_k) for a, b in sums[:60]]
            if train is None
            else train
        )
        held_out = (
            [example(a, b, tokenizer, split="validation", top_k=top_k) for a, b in sums[60:]]
            if validation is None
            else validation
        )
        write_parquet(to_table(rows, EXAMPLE, metadata), folder / "data/train-00000.parquet")
        write_parquet(
            to_table(held_out, EXAMPLE, metadata), folder / "data/validation-00000.parquet"
        )
        files = {
            "data/train-00000.parquet": len(rows),
            "data/validation-00000.parquet": len(held_out),
        }
        counts = Counts(
            rows_in=len(rows) + 2,
            rows_out=len(rows),
            dropped={"wrong_answer": 2},
            files=files,
            info=CurateInfo(funnel=[]),
        )
        publish(folder, "curate", {}, counts, 0.1)
        return folder

    return write
