"""Texts that are alike share a key as often as the formula says."""

import numpy as np
import pyarrow as pa
import pytest

from engine.curation.minhash import BANDS, NO_KEY, ROWS, band_keys
from engine.curation.shingles import Hashes, shingles_of


def sets_of(*sets: np.ndarray) -> Hashes:
    sizes = [len(values) for values in sets]
    return Hashes(np.concatenate([[0], np.cumsum(sizes)]), np.concatenate([*sets, []]).astype("u8"))


def drawn_pairs(count: int, shared: int, apart: int) -> Hashes:
    """Rows 2i and 2i + 1 have `shared` hashes together and `apart` each alone."""
    draw = np.random.default_rng(shared)
    sets = []
    for _ in range(count):
        values = draw.integers(2**48, size=shared + 2 * apart)
        sets += [values[: shared + apart], np.delete(values, slice(shared, shared + apart))]
    return sets_of(*sets)


@pytest.mark.parametrize(("shared", "apart"), [(80, 10), (60, 20), (50, 25), (40, 30)])
def test_a_pair_shares_a_key_as_often_as_the_formula_says(shared, apart):
    count = 500
    keys = band_keys(drawn_pairs(count, shared, apart))
    hit = (keys[::2] == keys[1::2]).any(axis=1).mean()
    jaccard = shared / (shared + 2 * apart)
    expected = 1 - (1 - jaccard**ROWS) ** BANDS
    assert abs(hit - expected) < 4 * np.sqrt(expected * (1 - expected) / count)


def test_bands_are_other_questions():
    keys = band_keys(drawn_pairs(300, 60, 20))
    same = keys[::2] == keys[1::2]
    assert np.abs(np.corrcoef(same.T.astype(float))[np.triu_indices(BANDS, 1)]).max() < 0.35
    assert len(np.unique(keys)) > 0.8 * keys.size


def test_keys_are_those_of_the_set_whatever_stands_beside_it():
    rows = [np.sort(np.random.default_rng(row).integers(2**48, size=row)) for row in range(700)]
    keys = band_keys(sets_of(*rows))
    for row in (0, 1, 2, 333, 699):
        alone = band_keys(sets_of(np.array([]), rows[row][::-1], np.array([])))
        assert np.array_equal(alone[1], keys[row])


def test_a_set_larger_than_a_batch_has_keys():
    large = np.random.default_rng(0).integers(2**48, size=100_000)
    keys = band_keys(sets_of(large[:5], large, large[5:9]))
    assert np.array_equal(keys[1], band_keys(sets_of(large))[0])


def test_a_text_without_shingles_has_no_key_and_no_other_text_has_it():
    keys = band_keys(shingles_of(pa.array(["", "a text", None, "a text", "?"])))
    assert (keys[[0, 2, 4]] == NO_KEY).all()
    assert (keys[1] != NO_KEY).all()
    assert np.array_equal(keys[1], keys[3])
    assert band_keys(sets_of()).shape == (0, BANDS)


def test_a_hash_of_zero_still_makes_a_key():
    assert (band_keys(sets_of(np.array([0]))) != NO_KEY).all()
