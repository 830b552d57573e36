"""Texts as numbers say which words they have, in any script, and nothing else."""

import itertools
import random

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.evaluation.texts import ENGLISH, SCRIPTS
from engine.curation.shingles import Hashes, runs_of, shingles_of, words_of
from engine.rows.words import words

IN_SCRIPTS = [*ENGLISH, *(text for texts in SCRIPTS.values() for text in texts)]


def of_each(hashes: Hashes) -> list[list[int]]:
    starts = hashes.starts.tolist()
    values = hashes.values.tolist()
    return [values[start:end] for start, end in itertools.pairwise(starts)]


def words_in(*texts: str | None) -> list[list[int]]:
    return of_each(words_of(pa.array(texts, pa.string())))


def shingles_in(*texts: str | None) -> list[list[int]]:
    return of_each(shingles_of(pa.array(texts, pa.string())))


def drawn_texts(count: int, seed: int = 0) -> list[str]:
    """Words of few kinds, so that texts share runs, with lines, marks and letters of all sorts."""
    draw = random.Random(seed)
    kinds = ["a", "b", "Word", "naïve", "STRASSE", "straße", "你好", "नमस्ते", "कल", "x" * 70, "💡"]
    between = [" ", "  ", "\n", ", ", "—", " (", "\u3000"]
    texts = []
    for _ in range(count):
        chosen = draw.choices(kinds, k=draw.randrange(12))
        marks = draw.choices(between, k=len(chosen))
        texts.append("".join(map(str.__add__, chosen, marks)))
    return texts


def plain_words(text: str) -> list[str]:
    """What `words` finds, but nothing where it falls back to characters."""
    return [word for word in words(text) if any(map(str.isalnum, word))]


def test_a_word_has_one_hash_and_no_other_word_has_it():
    seen = {}
    for text, hashes in zip(IN_SCRIPTS, words_in(*IN_SCRIPTS), strict=True):
        found = plain_words(text)
        assert len(found) == len(hashes), text
        for word, value in zip(found, hashes, strict=True):
            assert seen.setdefault(word, value) == value, word
    assert len(set(seen.values())) == len(seen) > 100


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello, World!", "hello world"),
        ("CAFÉ", "cafe\u0301"),
        ("ＡＢＣ", "abc"),
        ("Straße", "STRASSE"),
        ("co\u00adoperate", "cooperate"),
        ("你好世界", "你 好，世 界"),
        ("a_b", "a b"),
        ("क\u200dत", "कत"),
        ("great 👍️ idea", "great idea"),
    ],
)
def test_the_same_words_have_the_same_hashes(one, other):
    first, second = words_in(one, other)
    assert first == second != []


@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 63, 64, 65, 200, 5000])
def test_a_word_is_known_to_its_last_letter(length):
    word = "a" * length
    hashes = [found for (found,) in words_in(word, word + "a", word[:-1] + "b", word)]
    assert len(set(hashes)) == 3
    assert hashes[0] == hashes[3]


def test_texts_do_not_run_into_each_other():
    assert words_in("ab", "cd", "", None, "e\u0301", "\u0301f") == [
        *(words_in(text)[0] for text in ("ab", "cd", "", None, "é", "f")),
    ]
    assert words_in("ab", "cd")[0] != words_in("abcd")[0]


def test_a_mark_without_a_letter_is_no_word():
    assert words_in("\u0301", " \u0301\u0301 ", "!\ufe0f", "") == [[], [], [], []]


def test_a_text_of_marks_alone_takes_no_longer():
    (found,) = words_in("e" + "\u0301" * 200_000 + " f")
    assert len(found) == 2


def test_runs_are_those_of_each_text_in_order():
    words_N = words_of(pa.array(["a b c d", "", "c d", "b c d e", "x"]))
    pairs = of_each(runs_of(words_N, 2))
    assert [len(found) for found in pairs] == [3, 0, 1, 3, 0]
    assert pairs[0][1:] == pairs[3][:2]  # b c, c d
    assert pairs[2] == pairs[0][2:]  # c d
    assert [len(found) for found in of_each(runs_of(words_N, 4))] == [1, 0, 0, 1, 0]
    assert [len(found) for found in of_each(runs_of(words_N, 99))] == [0, 0, 0, 0, 0]


def test_a_run_is_its_words_in_their_order():
    words_N = words_of(pa.array(["a b", "b a", "a a", "b b"]))
    found = [value for (value,) in of_each(runs_of(words_N, 2))]
    assert len(set(found)) == 4


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("?! …", 0),
        (None, 0),
        ("one", 1),
        ("one two three four", 1),
        ("one two three four five", 1),
        ("one two three four five six", 2),
        ("la la la la la la la la", 1),
        ("你好你好你好", 2),
    ],
)
def test_shingles_are_runs_of_five_words_or_all_of_a_short_text(text, count):
    (found,) = shingles_in(text)
    assert len(found) == count


def test_short_texts_of_other_words_are_other_shingles():
    found = [value for (value,) in shingles_in("a", "b", "a b", "b a", "a a", "a b c", "a b c d")]
    assert len(set(found)) == len(found)


def test_shingles_are_sets_of_runs():
    texts = drawn_texts(300)
    sets = []
    for text in texts:
        said = plain_words(text)
        runs = [tuple(said[place : place + 5]) for place in range(max(1, len(said) - 4))]
        sets.append(set(runs) if said else set())
    found = shingles_in(*texts)
    by_hash = {}
    for runs, hashes in zip(sets, found, strict=True):
        assert hashes == sorted(set(hashes))
        assert len(hashes) == len(runs)
        for value in hashes:
            assert value < 2**48
            by_hash.setdefault(value, []).append(runs)
    for runs_with in by_hash.values():  # texts that share a hash share a run
        assert set.intersection(*runs_with)


def column(texts: list[str | None], form: str) -> pa.Array | pa.ChunkedArray:
    whole = pa.array(texts, pa.string())
    match form:
        case "sliced":
            return pa.array(["before", None, *texts, "after"]).slice(2, len(texts))
        case "chunked":
            pieces = [whole.slice(0, 1), whole.slice(1, 0), whole.slice(1, 50), whole.slice(51)]
            return pa.chunked_array(pieces)
        case "no chunks":
            return pa.chunked_array([], pa.string()) if not texts else pa.chunked_array([whole])
        case _:
            return whole.cast(pa.type_for_alias(form))


@pytest.mark.parametrize("form", ["sliced", "chunked", "no chunks", "large_string", "string_view"])
@pytest.mark.parametrize("texts", [[], [None, *drawn_texts(99), None]], ids=["no texts", "texts"])
def test_the_form_of_a_column_does_not_matter(form, texts):
    expected = shingles_of(pa.array(texts, pa.string()))
    found = shingles_of(column(texts, form))
    assert np.array_equal(found.starts, expected.starts)
    assert np.array_equal(found.values, expected.values)


def test_dictionaries_and_columns_of_nulls_are_read():
    texts = ["one two", None, "one two"]
    encoded = pa.array(texts).dictionary_encode()
    assert of_each(shingles_of(encoded)) == shingles_in(*texts)
    assert of_each(shingles_of(pa.nulls(2))) == [[], []]


def test_a_texts_shingles_do_not_depend_on_its_neighbours():
    texts = [*drawn_texts(5000), "long " * 100_000, *drawn_texts(20, seed=1)]
    together = shingles_in(*texts)
    for place in (0, 17, 4095, 4096, 4999, 5000, 5001, 5020):
        assert together[place] == shingles_in(texts[place])[0]
