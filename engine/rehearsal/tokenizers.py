"""Tokenizers of known families in small: learnt from a job's own rows, of the family's kind, with
its marks, and a chat template that lays conversations out as the family's does.

The templates in templates/ are ours. They keep what training and serving depend on (which marks
open and close a turn, who ends with what, what an answer opens with), and write tools for every
family.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from engine.rehearsal.chats import Chat

SIZE = 4096  # tokens at most; a few rows give fewer
_TEMPLATES = Path(__file__).parent / "templates"
_FOR_PARSERS = ("<think>", "</think>", "<tool_call>", "</tool_call>")  # vLLM's want them as tokens
_SPACE = "▁"
_BYTES = [f"<0x{code:02X}>" for code in range(256)]


def train_tokenizer(chat: Chat, texts: Iterable[str], size: int = SIZE) -> PreTrainedTokenizerFast:
    """A tokenizer of the chat's kind with at most `size` tokens (and always all bytes), learnt from
    `texts`."""
    special = _specials(chat)
    bpe = _LEARN[chat.kind](texts, special, size)
    if chat.opens and chat.begins:
        number = bpe.token_to_id(chat.begins)
        single = f"{chat.begins} $A"
        marks = [(chat.begins, number)]
        bpe.post_processor = processors.TemplateProcessing(single=single, special_tokens=marks)
    names = {"eos_token": chat.ends, "pad_token": chat.pads}
    if chat.begins:
        names["bos_token"] = chat.begins
    if chat.kind == "pieces":
        names["unk_token"] = "<unk>"
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        additional_special_tokens=list(chat.marks),
        chat_template=template_of(chat),
        clean_up_tokenization_spaces=False,
        **names,
    )


def template_of(chat: Chat) -> str:
    """Its chat template, with what all of them say of tools."""
    whole = ""
    for name in ("tools", chat.template):
        path = _TEMPLATES / f"{name}.jinja"
        text = path.read_text(encoding="utf-8")
        whole += text.removesuffix("\n")
    return whole


def _specials(chat: Chat) -> list[str]:
    """Each once."""
    marks = [chat.ends, chat.pads, *chat.marks]
    if chat.kind == "pieces":
        marks.append("<unk>")
    if chat.begins:
        marks.append(chat.begins)
    return list(dict.fromkeys(marks))


def _learn_bytes(texts: Iterable[str], special: list[str], size: int) -> Tokenizer:
    """Byte-level, as of GPT-2 and all since Llama 3."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = _trainer(size, special=special, initial_alphabet=alphabet)
    bpe.train_from_iterator(texts, trainer)
    bpe.add_tokens(list(_FOR_PARSERS))
    return bpe


def _learn_pieces(texts: Iterable[str], special: list[str], size: int) -> Tokenizer:
    """Pieces of words after a mark for the space; what has no piece is spelt in bytes."""
    spaces = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="first")
    learnt = Tokenizer(models.BPE(unk_token="<unk>"))
    learnt.pre_tokenizer = spaces
    learnt.train_from_iterator(texts, _trainer(size - len(_BYTES), special=special))
    pieces = learnt.get_vocab()
    first = len(pieces)
    for number, name in enumerate(_BYTES):
        pieces[name] = first + number
    merges = _merges_of(learnt)
    whole = models.BPE(pieces, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    bpe = Tokenizer(whole)
    bpe.pre_tokenizer = spaces
    bpe.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    bpe.add_special_tokens(special)
    bpe.add_tokens(list(_FOR_PARSERS))
    return bpe


def _merges_of(bpe: Tokenizer) -> list[tuple[str, str]]:
    stated = json.loads(bpe.to_str())["model"]["merges"]
    return [(left, right) for left, right in stated]


def _trainer(
    size: int, special: list[str], initial_alphabet: Sequence[str] = ()
) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=list(initial_alphabet),
        show_progress=False,
    )


_LEARN = {"bytes": _learn_bytes, "pieces": _learn_pieces}
