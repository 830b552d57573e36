import math

import numpy as np
import pyarrow as pa
import pytest

from engine.curation.diversity import (
    cluster_entropy,
    commonest_opening,
    distinct,
    sampled,
    vendi,
)
from tests.doubles.ledger import ledger


def test_distinct_n_is_the_share_of_different_runs():
    texts = pa.array(["a b a b", "A, b c", "", None, "d"])
    assert distinct(texts, 1) == 4 / 8
    assert distinct(texts, 2) == 3 / 5  # ab ba ab, ab bc
    assert math.isnan(distinct(pa.array(["a", ""]), 2))


def test_the_commonest_opening_counts_of_all_texts():
    texts = pa.chunked_array(
        [["Sure! Here is a list.", "I am"], ["No, it is not so", "sure, here is A plan", "Sure"]]
    )
    assert commonest_opening(texts) == ("sure here is a", 2 / 5)
    assert commonest_opening(texts, count=1) == ("sure", 3 / 5)
    assert commonest_opening(pa.array(["two words", None])) == ("", 0.0)


@pytest.mark.parametrize(
    ("clusters", "bits", "evenness"),
    [
        ([5, 6, 7, 8], 2.0, 1.0),
        ([5, 5, 7, 7], 1.0, 0.5),
        ([5, 5, 5, 5], 0.0, 0.0),
        ([5], 0.0, 1.0),
        ([], 0.0, 1.0),
    ],
)
def test_entropy_of_clusters(clusters, bits, evenness):
    assert cluster_entropy(np.array(clusters, np.int64)) == (bits, evenness)


def test_vendi_is_the_number_of_different_texts():
    different = pa.array(["one apple", "two pears", "green fish", "my hat"])
    assert vendi(different) == pytest.approx(4)
    assert vendi(pa.concat_arrays([different] * 5)) == pytest.approx(4)
    assert vendi(pa.array(["same words here"] * 9)) == pytest.approx(1)
    assert vendi(pa.array(["one apple", "", None])) == pytest.approx(1)
    assert math.isnan(vendi(pa.array(["", None])))


def test_vendi_of_two_texts_by_hand():
    """Cosine c: eigenvalues (1 ± c) / 2. The shared word has idf 1, the others ln 1.5 + 1."""
    rare = math.log(3 / 2) + 1
    cosine = 1 / (1 + rare**2)
    high, low = (1 + cosine) / 2, (1 - cosine) / 2
    expected = math.exp(-high * math.log(high) - low * math.log(low))
    assert vendi(pa.array(["red apple", "red pear"])) == pytest.approx(expected)


def test_a_sample_is_of_what_is_left_and_the_same_in_any_order():
    table = ledger(*({"p": prompt, "reason": "x" if prompt % 3 else None} for prompt in range(90)))
    chosen = sampled(table, 10, seed=1)
    assert len(set(chosen)) == 10
    assert not set(chosen % 3) - {0}
    order = np.random.default_rng(0).permutation(90)
    assert order[sampled(table.take(order), 10, seed=1)].tolist() == chosen.tolist()
    assert sampled(table, 20, seed=1)[:10].tolist() == chosen.tolist()
    assert len(sampled(table, 1000, seed=1)) == 30
