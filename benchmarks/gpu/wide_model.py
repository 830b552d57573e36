"""A tiny teacher with Llama-3's vocabulary size, students of it and prompts for it.

    python -m benchmarks.gpu.wide_model FOLDER    writes FOLDER/{teacher,student-cpu,student-gpu}
    and FOLDER/{train,validation}.jsonl

Untrained, but not uniform: its output is sharp enough that the top k of a token holds nearly all of
its probability.
"""

import json
import random
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 128_256
TEMPLATE = "{% for message in messages %}{{ message.content + ' <eos> ' }}{% endfor %}"
# Layers, hidden size, inner size, heads, heads of keys and values. The last one has 0.23B
# parameters and Llama's heads of 64: large enough that its memory is that of weights and optimizer.
SHAPES = {
    "teacher": (2, 64, 128, 2, 1),
    "student-cpu": (2, 32, 64, 2, 1),
    "student-gpu": (8, 1024, 2816, 16, 4),
}
FIELDS = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
)
PROMPTS, WORDS = {"train": 170, "validation": 16}, 10
SHARPNESS = 12.0  # standard deviation of the teacher's logits
# it says every 501st token only, so that a student learns something of it within twenty steps
SPOKEN = 501


def main(folder: Path) -> None:
    """Students are a config and no weights: jobs start them untrained (`init: random`)."""
    torch.manual_seed(0)
    words = {"<pad>": 0, "<eos>": 1} | {f"w{number}": number for number in range(2, VOCABULARY)}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", chat_template=TEMPLATE
    )
    for name, shape in SHAPES.items():
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            **dict(zip(FIELDS, shape, strict=True)),
            max_position_embeddings=1024,
            tie_word_embeddings=name
            != "teacher",  # tied and untrained, it would repeat its last token for ever
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
        config.save_pretrained(folder / name)
        if name == "teacher":
            model = LlamaForCausalLM(config)
            with torch.no_grad():  # behind the last norm a state has length sqrt(hidden)
                head_VH = model.get_output_embeddings().weight
                head_VH[::SPOKEN].normal_(0, SHARPNESS * config.hidden_size**-0.5)
            model.bfloat16().save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
    draw = random.Random(0)
    for split, count in PROMPTS.items():
        rows = [
            {"prompt": " ".join(f"w{draw.randrange(2, VOCABULARY)}" for _ in range(WORDS))}
            for _ in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
