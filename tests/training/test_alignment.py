"""Starts and pairs against what the bytes of the tokens say, with tokenizers of other merges and
other spellings of a space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from engine.training.alignment import align, special_ids, token_starts

TEXTS = [
    "The naïve answer is 日本, 42 🙂🙂 ok",
    "a\n\nb  c",
    "ünïcödé",
    "🙂",
    "plain words only, and more words",
]


def byte_level(corpus: str, size: int) -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<end>", "<other>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    core.train_from_iterator([corpus] * 4, trainer)
    return core


def with_byte_fallback() -> Tokenizer:
    """As Llama 2 and Mistral: "▁" for a space, one before the first word too, and bytes for what
    has no token."""
    words = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *"aTheniswrokdplm",
        "▁a",
        "▁i",
        "▁is",
        "<end>",
    ]
    merges = [("▁", "a"), ("▁", "i"), ("▁i", "s")]
    core = Tokenizer(
        models.BPE(
            {word: at for at, word in enumerate(words)},
            merges,
            byte_fallback=True,
            unk_token="<unk>",
        )
    )
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    core.add_special_tokens(["<end>"])
    return core


COARSE, FINE = (
    byte_level("The naïve answer is 日本, 42 🙂 only words", 330),
    byte_level("naive answers 日本日本 plain", 270),
)


def starts(core: Tokenizer, ids: list[int], answer: str) -> list[int]:
    special = frozenset(
        token for token, added in core.get_added_tokens_decoder().items() if added.special
    )
    return token_starts(ids, answer, core, special).tolist()


def starts_by_bytes(core: Tokenizer, ids: list[int]) -> list[int]:
    """Characters before each token of a byte-level tokenizer, -1 where the bytes before it end
    within a character."""
    known = {letter: byte for byte, letter in zip(range(256), byte_letters(), strict=True)}
    before, found = b"", []
    for token in ids:
        try:
            found.append(len(before.decode()))
        except UnicodeDecodeError:
            found.append(-1)
        before += bytes(known[letter] for letter in core.id_to_token(token))
    return found


def byte_letters() -> list[str]:
    """GPT-2's letter of each byte: itself if it can be printed, else the next free one from 256
    on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printed else chr(next(others)) for byte in range(256)]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("core", [COARSE, FINE], ids=["coarse", "fine"])
def test_tokens_start_where_their_bytes_start(core: Tokenizer, text: str) -> None:
    ids = core.encode(text).ids
    expected = starts_by_bytes(core, ids)
    assert len(set(expected)) > 1 or len(ids) < 3
    assert starts(core, ids, text) == expected


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_pair_where_the_text_before_them_is_equal(text: str) -> None:
    theirs, ours = COARSE.encode(text).ids, FINE.encode(text).ids
    found = align(
        token_starts(theirs, text, COARSE, frozenset()), token_starts(ours, text, FINE, frozenset())
    )
    before, after = starts_by_bytes(COARSE, theirs), starts_by_bytes(FINE, ours)
    assert found.tolist() == [
        before.index(start) if start >= 0 and start in before else -1 for start in after
    ]
    assert found[0] == 0


def test_a_space_before_the_first_word_is_no_character_of_the_answer() -> None:
    core = with_byte_fallback()
    ids = core.encode("is a 日k").ids
    assert [core.id_to_token(token) for token in ids] == [
        "▁is",
        "▁a",
        "▁",
        "<0xE6>",
        "<0x97>",
        "<0xA5>",
        "k",
    ]
    assert starts(core, ids, "is a 日k") == [0, 2, 4, 5, -1, -1, 6]
    spaced = COARSE.encode(
        " is a 日k"
    ).ids  # the same answer from a template that ends its opening without the space
    assert [COARSE.id_to_token(token) for token in spaced[:3]] == ["Ġis", "Ġ", "a"]
    assert starts(COARSE, spaced, "is a 日k")[:3] == [0, 2, 3]


def test_ends_of_turn_pair_and_line_breaks_after_the_answer_do_not() -> None:
    theirs = [*COARSE.encode("42 ok").ids, COARSE.token_to_id("<end>")]
    ours = [*FINE.encode("42 ok\n").ids, FINE.token_to_id("<other>"), FINE.token_to_id("<end>")]
    teacher_starts, student_starts = starts(COARSE, theirs, "42 ok"), starts(FINE, ours, "42 ok")
    assert teacher_starts[-1] == 5
    assert student_starts[-3:] == [-1, 5, -1]
    assert align(np.array(teacher_starts), np.array(student_starts))[-3:].tolist() == [
        -1,
        len(theirs) - 1,
        -1,
    ]


def test_reasoning_before_the_answer_has_no_place_in_it() -> None:
    ids = COARSE.encode("only words\n\n42 ok").ids
    found = starts(COARSE, ids, "42 ok")
    assert [start for start in found if start >= 0] == starts(
        COARSE, COARSE.encode("42 ok").ids, "42 ok"
    )
    assert found[:2] == [-1, -1]


def test_an_answer_that_the_tokens_do_not_spell_has_no_starts() -> None:
    ids = COARSE.encode("42 ok").ids
    assert set(starts(COARSE, ids, "43 ok")) == {-1}
    assert set(starts(COARSE, ids, "much longer than the tokens are")) == {-1}
    assert starts(COARSE, [], "42") == []


def test_bytes_that_are_no_character_do_not_stop_the_rest() -> None:
    core = with_byte_fallback()
    broken = [core.token_to_id(name) for name in ("a", "<0x41>", "<0xFF>", "▁a", "▁is")]
    assert len(starts(core, broken, "a")) == 5


def test_special_ids_are_those_of_the_added_tokens_that_are_special(tokenizer: Any) -> None:
    assert special_ids(tokenizer) == {tokenizer.pad_token_id, tokenizer.eos_token_id}
