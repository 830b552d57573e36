"""Every row that goes is verified against a row that stays."""

import itertools
import random

import numpy as np
import pyarrow as pa
import pytest

from engine.curation.minhash import NO_KEY, band_keys
from engine.curation.near_duplicates import (
    ALL_PAIRS_UP_TO,
    OTHERS,
    Twins,
    candidate_pairs,
    clusters,
    jaccards,
    twins,
    united,
)
from engine.curation.shingles import Hashes, shingles_of

NO_PAIRS = np.zeros((0, 2), np.int64)


def sets_of(*sets: set[int]) -> Hashes:
    sizes = [len(values) for values in sets]
    values = list(itertools.chain.from_iterable(map(sorted, sets)))
    return Hashes(np.concatenate([[0], np.cumsum(sizes)]).astype(int), np.array(values, np.uint64))


def keys(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def pairs(*values: tuple[int, int]) -> np.ndarray:
    return np.array(values, np.int64).reshape(-1, 2)


def listed(found: Twins) -> list[tuple[int, int, float]]:
    return list(zip(*(column.tolist() for column in found), strict=True))


def find(texts: list[str | None], rank: np.ndarray, at_least: float = 0.8) -> Twins:
    """All steps one after the other."""
    shingles = shingles_of(pa.array(texts, pa.string()))
    columns = band_keys(shingles).T
    candidates = united([candidate_pairs(column, rank) for column in columns])
    return twins(candidates, jaccards(candidates, shingles), rank, at_least)


def drawn_texts(count: int, seed: int) -> list[str]:
    """Texts of 60 words and copies of them in which none to four words are others."""
    draw = random.Random(seed)
    vocabulary = [f"w{number}" for number in range(3000)]
    texts = []
    while len(texts) < count:
        said = draw.choices(vocabulary, k=60)
        for changed in draw.choices(range(5), k=draw.randrange(1, 5)):
            copy = list(said)
            for place in draw.sample(range(60), changed):
                copy[place] = draw.choice(vocabulary)
            texts.append(" ".join(copy))
    draw.shuffle(texts)
    return texts[:count]


def exact_pairs(texts: list[str]) -> dict[tuple[int, int], float]:
    """All pairs that share a run of five words, with their Jaccard, in plain Python."""
    sets = []
    for text in texts:
        said = text.split()
        sets.append({tuple(said[place : place + 5]) for place in range(len(said) - 4)})
    found = {}
    for (one, first), (other, second) in itertools.combinations(enumerate(sets), 2):
        if first & second:
            found[one, other] = len(first & second) / len(first | second)
    return found


def test_rows_with_the_same_key_are_pairs():
    found = candidate_pairs(keys(7, 5, 7, 9, 5, 7), np.arange(6))
    assert found.tolist() == [[0, 2], [0, 5], [1, 4], [2, 5]]


def test_rows_without_a_key_have_no_pair():
    none = int(NO_KEY)
    assert candidate_pairs(keys(none, 3, none, 3, none), np.arange(5)).tolist() == [[1, 3]]
    assert candidate_pairs(keys(none, none), np.arange(2)).tolist() == []
    assert candidate_pairs(keys(), np.arange(0)).shape == (0, 2)


def test_a_few_rows_of_one_key_make_every_pair():
    count = ALL_PAIRS_UP_TO
    found = candidate_pairs(np.full(count, 4, np.uint64), np.arange(count))
    assert len(found) == count * (count - 1) / 2


def test_a_crowd_of_one_key_makes_pairs_by_its_number_not_by_its_square():
    count = 20_000
    rank = np.random.default_rng(0).permutation(count)
    found = candidate_pairs(np.full(count, 4, np.uint64), rank)
    assert len(found) <= 2 * OTHERS * count
    best = int(np.argmin(rank))
    with_best = found[(found == best).any(axis=1)]
    assert len(with_best) == count - 1
    next_to = np.abs(rank[found[:, 0]] - rank[found[:, 1]]) == 1
    assert next_to.sum() == count - 1


def test_pairs_of_all_bands_are_each_once():
    found = united([pairs((3, 1), (1, 2)), NO_PAIRS, pairs((1, 3), (2**31 - 9, 2**31 - 2))])
    assert found.tolist() == [[1, 2], [1, 3], [2**31 - 9, 2**31 - 2]]
    assert united([]).shape == (0, 2)


def test_jaccard_by_hand():
    shingles = sets_of({1, 2, 3, 4}, {3, 4, 5}, set(), {1, 2, 3, 4}, {9})
    found = jaccards(pairs((0, 1), (0, 2), (0, 3), (0, 4), (2, 2), (4, 0)), shingles)
    assert found.tolist() == [2 / 5, 0, 1, 0, 0, 0]
    assert jaccards(NO_PAIRS, shingles).tolist() == []


def test_jaccard_is_that_of_sets():
    draw = random.Random(0)
    sets = [set(draw.sample(range(900), draw.choice([0, 1, 30, 600]))) for _ in range(100)]
    some = np.array([draw.choices(range(100), k=2) for _ in range(2000)])
    found = jaccards(some, sets_of(*sets))
    for (one, other), value in zip(some.tolist(), found, strict=True):
        either = len(sets[one] | sets[other])
        assert value == (len(sets[one] & sets[other]) / either if either else 0)


def test_of_a_chain_the_ends_stay():
    chain = pairs((0, 1), (1, 2))
    assert listed(twins(chain, np.array([0.9, 0.8]), np.arange(3), 0.8)) == [(1, 0, 0.9)]
    middle_first = np.array([1, 0, 2])
    expected = [(0, 1, 0.9), (2, 1, 0.8)]
    assert listed(twins(chain, np.array([0.9, 0.8]), middle_first, 0.8)) == expected


def test_below_the_threshold_nobody_goes():
    assert listed(twins(pairs((0, 1)), np.array([0.79]), np.arange(2), 0.8)) == []
    assert listed(twins(NO_PAIRS, np.zeros(0), np.arange(0), 0.8)) == []


def test_the_row_that_stays_and_is_most_alike_is_named():
    found = twins(pairs((0, 2), (1, 2), (2, 3)), np.array([0.8, 0.9, 1.0]), np.arange(4), 0.8)
    assert listed(found) == [(2, 1, 0.9)]
    tie = twins(pairs((0, 2), (1, 2)), np.array([0.9, 0.9]), np.array([5, 4, 6]), 0.8)
    assert listed(tie) == [(2, 1, 0.9)]


def test_of_equal_ranks_the_lower_row_stays():
    found = twins(pairs((0, 1), (2, 3)), np.array([1.0, 1.0]), np.zeros(4, int), 0.8)
    assert listed(found) == [(1, 0, 1.0), (3, 2, 1.0)]


@pytest.mark.parametrize("seed", range(20))
def test_who_goes_is_as_if_rows_came_one_by_one(seed):
    draw = np.random.default_rng(seed)
    some = united([draw.integers(60, size=(80, 2))])
    some = some[some[:, 0] != some[:, 1]]
    similar = draw.random(len(some))
    rank = draw.permutation(60)
    stays = set()
    for row in np.argsort(rank).tolist():
        beside = some[(some == row).any(axis=1) & (similar >= 0.4)]
        if not stays & set(beside.ravel().tolist()):
            stays.add(row)
    found = twins(some, similar, rank, 0.4)
    assert set(range(60)) - set(found.rows.tolist()) == stays
    assert set(found.twin_of.tolist()) <= stays
    assert (rank[found.twin_of] < rank[found.rows]).all()
    assert (found.jaccard >= 0.4).all()


def test_a_long_chain_ends():
    count = 2001
    chain = np.stack([np.arange(count - 1), np.arange(1, count)], axis=1)
    found = twins(chain, np.ones(count - 1), np.arange(count), 0.8)
    assert found.rows.tolist() == list(range(1, count, 2))


def test_clusters_are_named_by_their_lowest_row():
    assert clusters(pairs((5, 3), (3, 1), (4, 6)), 8).tolist() == [0, 1, 2, 1, 4, 1, 4, 7]
    assert clusters(NO_PAIRS, 3).tolist() == [0, 1, 2]


def test_all_near_twins_are_found_and_nothing_else():
    texts = drawn_texts(400, seed=1)
    exact = exact_pairs(texts)
    alike = [pair for pair, jaccard in exact.items() if jaccard >= 0.8]
    assert len(alike) > 50
    found = find(texts, np.arange(len(texts)))
    for row, twin, jaccard in listed(found):
        assert exact[twin, row] == pytest.approx(jaccard, abs=1e-12)
        assert jaccard >= 0.8
    expected = twins(pairs(*alike), np.ones(len(alike)), np.arange(len(texts)), 0.8)
    assert len(found.rows) >= 0.99 * len(expected.rows)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_does_not_matter(seed):
    texts = [*drawn_texts(200, seed=2), *["one text, a hundred times"] * 100, "", None, "a"]
    rank = np.random.default_rng(9).permutation(len(texts))
    expected = find(texts, rank)
    order = np.random.default_rng(seed).permutation(len(texts))
    found = find([texts[row] for row in order], rank[order])
    moved = zip(order[found.rows], order[found.twin_of], found.jaccard, strict=True)
    assert sorted(moved) == list(zip(*expected, strict=True))


def test_of_thousands_of_copies_the_best_stays():
    texts = ["so many copies of one and the same text"] * 3000
    rank = np.random.default_rng(0).permutation(len(texts))
    found = find(texts, rank)
    assert len(found.rows) == 2999
    assert set(found.twin_of.tolist()) == {int(np.argmin(rank))}


def test_texts_of_any_script_have_twins():
    chinese = "今天天气很好我们一起去公园散步吧"
    hindi = "कल सुबह हम सब मिलकर बाज़ार जाएँगे और बहुत सारी सब्ज़ियाँ ख़रीदेंगे"
    texts = [chinese, hindi, f"{chinese}！", hindi.replace("बाज़ार", "बाज़ार,"), "天气", "कल"]
    assert listed(find(texts, np.arange(6))) == [(2, 0, 1.0), (3, 1, 1.0)]
