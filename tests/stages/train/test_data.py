from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import codec
from engine.errors import StageError
from engine.records import EXAMPLE, Example, file_metadata, read_tables, to_rows, to_table, write_parquet
from engine.rundir import stage_files
from engine.spec import TrainSpec
from engine.stages.train.data import TokenSequence, load_sequences

SFT = TrainSpec(student="x")


def load(curated: Path, tokenizer: Any, spec: TrainSpec = SFT, vocab_size: int = 48) -> list[TokenSequence]:
    return list(load_sequences(stage_files(curated, "data/train-"), spec, tokenizer, vocab_size))


def packed_file(curated: Path, cut: bool = False) -> Path:
    """The training examples with their plain signal replaced by a packed one; `cut` takes a byte from the last example."""
    (file,) = stage_files(curated, "data/train-")
    (table,), metadata = read_tables([file]), file_metadata(file)
    rows, k, bits = to_rows(table, Example), metadata["top_k"], 8
    found = codec.pack_rows([(row.topk_ids, row.topk_logprobs, row.tail) for row in rows], k, metadata["vocab_size"], bits)
    if cut:
        found[-1] = found[-1][:-1]
    empty = {"topk_ids": [], "topk_logprobs": [], "tail": []}
    rows = [replace(row, topk_packed=signal, **empty) for row, signal in zip(rows, found, strict=True)]
    target = curated / "packed.parquet"
    write_parquet(to_table(rows, EXAMPLE, metadata | {"codec": "packed", "packed_bits": bits}), target)
    return target


def target_words(sequence: TokenSequence, tokenizer: Any) -> str:
    return tokenizer.decode(sequence.ids[sequence.is_target])


def test_the_teachers_own_ids_are_used_when_tokenizers_are_equal(write_curated: Callable[..., Path], tokenizer: Any) -> None:
    rows = load(write_curated(), tokenizer)
    assert tokenizer.decode(rows[0].ids) == "<user> 0 plus 0 <eos> <assistant> 0 plus 0 is 0 <eos>"
    assert target_words(rows[0], tokenizer) == "0 plus 0 is 0 <eos>"
    assert rows[0].signal is None


def test_a_signal_comes_with_its_targets(write_curated: Callable[..., Path], tokenizer: Any) -> None:
    row = load(write_curated(top_k=3), tokenizer, TrainSpec(student="x", loss="forward_kl"))[1]
    assert row.signal.ids.shape == row.signal.logprobs.shape == (6, 3)
    assert (row.signal.ids[:, 0] == row.ids[row.is_target]).all()


def test_a_packed_signal_is_read_like_a_plain_one(write_curated: Callable[..., Path], tokenizer: Any) -> None:
    spec, folder = TrainSpec(student="x", loss="forward_kl"), write_curated(top_k=3)
    plain, found = load(folder, tokenizer, spec), list(load_sequences([packed_file(folder)], spec, tokenizer, 48))
    assert len(found) == len(plain) == 60
    for row, same in zip(found, plain, strict=True):
        np.testing.assert_array_equal(row.ids, same.ids)
        np.testing.assert_array_equal(np.sort(row.signal.ids), np.sort(same.signal.ids))
        np.testing.assert_allclose(row.signal.logprobs, same.signal.logprobs, atol=1e-3)
        np.testing.assert_allclose(row.signal.tail, same.signal.tail, atol=2e-4)


def test_a_packed_signal_cut_short_is_refused(write_curated: Callable[..., Path], tokenizer: Any) -> None:
    file = packed_file(write_curated(top_k=3), cut=True)
    with pytest.raises(StageError, match=r"1 of 60 examples in packed\.parquet lack the top-k signal"):
        list(load_sequences([file], TrainSpec(student="x", loss="forward_kl"), tokenizer, 48))


@pytest.mark.parametrize("marked", [False, True])
def test_another_tokenizer_learns_the_answer_of_the_students_template(
    marked: bool, write_curated: Callable[..., Path], make_tokenizer: Callable[..., Any], marked_template: str
) -> None:
    words = ["<eos>", "<assistant>", "<user>", "is", "plus", "<pad>", *map(str, range(42))]
    other = make_tokenizer(words, marked_template) if marked else make_tokenizer(words)
    rows = load(write_curated(), other)
    assert len(rows) == 60
    assert other.decode(rows[0].ids) == "<user> 0 plus 0 <eos> <assistant> 0 plus 0 is 0 <eos>"
    assert target_words(rows[0], other) == "0 plus 0 is 0 <eos>"


def test_an_unknown_teacher_tokenizer_means_text(write_curated: Callable[..., Path], tokenizer: Any) -> None:
    assert target_words(load(write_curated(fingerprint=None), tokenizer)[0], tokenizer) == "0 plus 0 is 0 <eos>"


def test_an_answer_without_an_end_gets_one(write_curated: Callable[..., Path], make_tokenizer: Callable[..., Any]) -> None:
    template = "{% for m in messages %}{{ '<' + m.role + '> ' + m.content + ' ' }}{% endfor %}" + (
        "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
    )
    words = ["<eos>", "<pad>", "<user>", "<assistant>", "plus", "is", *map(str, range(42))]
    other = make_tokenizer(words, template)
    assert target_words(load(write_curated(), other)[0], other) == "0 plus 0 is 0 <eos>"


def test_a_template_that_rewrites_the_prompt_is_refused(
    write_curated: Callable[..., Path], make_tokenizer: Callable[..., Any]
) -> None:
    template = "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    other = make_tokenizer(["<eos>", "<pad>", *map(str, range(46))], template)
    with pytest.raises(StageError, match="rewrites the conversation"):
        load(write_curated(), other)


def test_a_tokenizer_without_a_template_is_refused(write_curated: Callable[..., Path], make_tokenizer: Callable[..., Any]) -> None:
    with pytest.raises(StageError, match=r"no chat template; set train\.tokenizer"):
        load(write_curated(), make_tokenizer(["<eos>", "<pad>", *map(str, range(46))], None))


def test_token_ids_beyond_the_students_vocabulary_are_refused(write_curated: Callable[..., Path], tokenizer: Any) -> None:
    with pytest.raises(StageError, match="outside the student's vocabulary of 20"):
        load(write_curated(), tokenizer, vocab_size=20)


def test_rows_of_several_files_keep_their_order(write_curated: Callable[..., Path], tokenizer: Any) -> None:
    files = stage_files(write_curated(), "data/")
    both = list(load_sequences(files, SFT, tokenizer, 48))
    assert len(both) == 64
    np.testing.assert_array_equal(both[0].ids, load(files[0].parents[1], tokenizer)[0].ids)
