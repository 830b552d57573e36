"""The quickstart's tokenizer: byte-level BPE over the word problems, one token per digit, a ChatML
template.

    python jobs/quickstart/make_tokenizer.py FOLDER        # writes tokenizer files into FOLDER

All 256 bytes are in the alphabet, so any text encodes. Newlines stand alone, so the generation
prompt is an exact token prefix of the whole conversation whatever the answer starts with.
"""

import sys
from pathlib import Path

from make_data import lesson_problems, worked_answer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 448
CONTEXT = 1024
PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}
{%- else -%}
{{- message['content'] + '<|im_end|>' -}}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer on lesson problems; the same code gives the same files."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), behavior="isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    lessons = lesson_problems(2000)
    texts = [f"user\n{lesson.prompt}\nassistant\n{worked_answer(lesson)}" for lesson in lessons]
    bpe.train_from_iterator(texts + ["system\n"] * len(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=TURN_END,
        additional_special_tokens=[TURN_START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


if __name__ == "__main__":
    build_tokenizer().save_pretrained(Path(sys.argv[1]))
