"""The benchmark's model and prompts, made here: hidden 128, 2 layers, vocabulary 512, random
weights, answers that never end.

So small a model leaves the engine's Python as the cost, which is what a GPU's thousands of tokens
per second meet.
"""

import random
from pathlib import Path
from typing import Any

PROMPT_TOKENS = 24
VOCABULARY, HIDDEN = 512, 128
END = "<|end|>"


def make_model(folder: Path, seed: int = 0) -> list[str]:
    """Write a random Llama and its tokenizer to `folder`; returns words that are one token each."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    words = _made_up_words(seed)
    tokenizer = _tokenizer(words)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    _never_ends(model, tokenizer.eos_token_id)
    model.save_pretrained(folder)
    return [word for word in words if len(tokenizer(" " + word)["input_ids"]) == 1]


def _never_ends(model: Any, eos: int) -> None:
    """Keep dimension 0 of the hidden state positive and let it alone decide the end's logit: hugely
    negative."""
    import torch

    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0.1
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        model.lm_head.weight[:, 0] = 0
        model.lm_head.weight[eos] = 0
        model.lm_head.weight[eos, 0] = -1e4


def make_prompts(words: list[str], rows: int, seed: int = 0) -> list[str]:
    """`rows` different prompts of PROMPT_TOKENS tokens."""
    draw = random.Random(seed)
    prompts: set[str] = set()
    while len(prompts) < rows:
        prompts.add("Q" + "".join(" " + word for word in draw.choices(words, k=PROMPT_TOKENS - 1)))
    return sorted(prompts)


def _made_up_words(seed: int) -> list[str]:
    draw = random.Random(seed)
    return sorted(
        {
            "".join(draw.choice("bdfglmnprst") + draw.choice("aeiou") for _ in range(2))
            for _ in range(200)
        }
    )


def _tokenizer(words: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(
        [" ".join(["Q", *words[start:], *words[:start]]) for start in range(len(words))], trainer
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
