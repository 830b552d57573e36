"""What both sides train: a student, a teacher with four times its parameters, and examples as token
ids.

WORK/student, WORK/teacher   Hugging Face folders, fp32, random weights   WORK/examples.json
[[prompt ids, answer ids], ...]
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY, LAYERS, HIDDEN, TEACHER_HIDDEN = 512, 6, 256, 512
SEQUENCE, MEDIAN, SIGMA = 512, 120, 0.8
STEP_TOKENS = 8 * SEQUENCE
TOP_K = 50
# The training that both sides do, in the words of our job file and of transformers.
LEARNING_RATE, BETA2, CLIP, SEED = 1e-4, 0.999, 1.0, 0


def make(work: Path, examples: int) -> None:
    """Models, tokenizer and examples under `work`, the same for the same arguments."""
    for number, (name, hidden) in enumerate((("student", HIDDEN), ("teacher", TEACHER_HIDDEN))):
        _save_model(work / name, hidden, SEED + number)
    (work / "examples.json").write_text(json.dumps(draw_examples(examples)))


def draw_examples(count: int) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer of each: lengths together log-normal (median 120, sigma 0.8) and at most
    512; a quarter is prompt."""
    rng = np.random.default_rng(SEED)
    lengths = np.clip(np.rint(rng.lognormal(np.log(MEDIAN), SIGMA, count)), 8, SEQUENCE).astype(int)
    ids = [rng.integers(2, VOCABULARY, length).tolist() for length in lengths]
    return [(row[: len(row) // 4], row[len(row) // 4 :]) for row in ids]


def examples_per_step(examples: list[Any]) -> int:
    """As many examples as have STEP_TOKENS tokens on average: the unpacked batch with as many
    tokens as a packed one."""
    return round(
        STEP_TOKENS * len(examples) / sum(len(prompt) + len(answer) for prompt, answer in examples)
    )


def _save_model(folder: Path, hidden: int, seed: int) -> None:
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=hidden,
            intermediate_size=4 * hidden,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=2 * SEQUENCE,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
    ).save_pretrained(folder)
    words = {"<pad>": 0, "<eos>": 1} | {f"t{number}": number for number in range(2, VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")),
        pad_token="<pad>",
        eos_token="<eos>",
    )
    tokenizer.save_pretrained(folder)
