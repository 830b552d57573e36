"""The packed signal: exact ids, bounded error of values, fixed size, and what it refuses."""

import itertools

import numpy as np
import pytest

from engine.rows.codec import SPAN_MAX, pack, pack_rows, token_bytes, unpack

V = 129_280


def draw(sigma, k=50, tokens=64, vocab_size=V, seed=0):
    """Top-k of softmax(N(0, sigma)) under random ids, in random order: ids, logprobs (float64),
    tail."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, sigma, (tokens, vocab_size))
    ids = np.argpartition(-logits, k - 1, axis=1)[:, :k]
    logprobs = np.take_along_axis(logits, ids, 1) - np.log(
        np.exp(logits).sum(axis=1, keepdims=True)
    )
    return ids, logprobs, np.clip(1 - np.exp(logprobs).sum(axis=1), 0, 1)


def by_id(ids, values):
    return np.take_along_axis(values, np.argsort(ids, axis=1), 1)


def added_kl(logprobs, tail, packed_logprobs, packed_tail):
    """KL over the k + 1 buckets (T,), values in the same order."""
    inside = (np.exp(logprobs) * (logprobs - packed_logprobs)).sum(axis=1)
    return inside + np.where(
        tail > 0,
        tail * (np.log(np.maximum(tail, 1e-300)) - np.log(np.maximum(packed_tail, 1e-300))),
        0,
    )


@pytest.mark.parametrize(("bits", "size", "bound"), [(8, 160, 1e-4), (5, 120, 1e-3)])
@pytest.mark.parametrize("sigma", [1.5, 3, 5, 8])
def test_the_size_and_the_added_kl_stay_within_their_bounds(bits, size, bound, sigma):
    ids, logprobs, tail = draw(sigma)
    data = pack(ids, logprobs, tail, V, bits)
    assert len(data) == 64 * token_bytes(50, V, bits) <= 64 * size
    back_ids, back, back_tail = unpack(data, 50, V, bits)
    assert added_kl(by_id(ids, logprobs), tail, by_id(back_ids, back), back_tail).mean() <= bound


@pytest.mark.parametrize("bits", [4, 5, 6, 7, 8])
@pytest.mark.parametrize(
    ("k", "vocab_size"),
    [(1, 1), (1, V), (2, 3), (16, 16), (16, 448), (50, 151_936), (128, V), (1024, 2048)],
)
def test_ids_come_back_exactly_with_descending_normalised_values(bits, k, vocab_size):
    ids, logprobs, tail = draw(3, k, 5, vocab_size)
    back_ids, back, back_tail = unpack(
        pack(ids, logprobs, tail, vocab_size, bits), k, vocab_size, bits
    )
    assert (np.sort(back_ids) == np.sort(ids)).all()
    assert (np.diff(back) <= 0).all()
    assert np.exp(back.astype(np.float64)).sum(axis=1) + back_tail == pytest.approx(
        np.ones(5), abs=1e-6
    )
    assert back_tail == pytest.approx(tail, abs=2e-4)


@pytest.mark.parametrize("bits", [5, 8])
def test_a_value_is_off_by_less_than_the_widest_step(bits):
    ids, logprobs, tail = draw(5)
    back_ids, back, _ = unpack(pack(ids, logprobs, tail, V, bits), 50, V, bits)
    span = np.ptp(logprobs, axis=1, keepdims=True)
    assert (abs(by_id(back_ids, back) - by_id(ids, logprobs)) < 2 * span / (2**bits - 1)).all()


def test_the_largest_id_of_the_vocabulary_fits_with_all_its_neighbours():
    ids = np.arange(V - 50, V)[None]
    back, _, _ = unpack(pack(ids, np.full((1, 50), -5.0), np.array([0.5]), V, 8), 50, V, 8)
    assert back.tolist() == ids.tolist()


@pytest.mark.parametrize("tail", [0.0, 1e-12, 1e-6, 0.5, 1 - 1e-4])
def test_a_tail_keeps_its_relative_size_however_small(tail):
    logprobs = np.log([[0.75 * (1 - tail), 0.25 * (1 - tail)]])
    _, back, back_tail = unpack(pack(np.array([[3, 1]]), logprobs, np.array([tail]), 9, 8), 2, 9, 8)
    assert back_tail[0] == pytest.approx(tail, rel=1e-3)
    assert back[0] == pytest.approx(logprobs[0], rel=1e-3)


def test_what_has_no_probability_is_kept_at_the_largest_distance():
    logprobs = np.log([[0.5, 0.5, 1e-30]])
    logprobs[0, 2] = -np.inf
    ids, back, _ = unpack(pack(np.array([[7, 8, 9]]), logprobs, np.zeros(1), 99, 8), 3, 99, 8)
    assert ids[0, 2] == 9
    assert back[0] == pytest.approx([np.log(0.5), np.log(0.5), np.log(0.5) - SPAN_MAX], abs=0.02)


@pytest.mark.parametrize(
    ("ids", "logprobs", "tail", "problem"),
    [
        ([[4, 4]], [[-1.0, -1.0]], [0.1], "same id twice"),
        ([[-1, 4]], [[-1.0, -1.0]], [0.1], "ids -1 to 4 with a vocabulary of 99"),
        ([[4, 99]], [[-1.0, -1.0]], [0.1], "ids 4 to 99 with a vocabulary of 99"),
        ([[4, 5]], [[-1.0, np.nan]], [0.1], "NaN"),
        ([[4, 5]], [[-np.inf, -np.inf]], [1.0], "no finite"),
        ([[4, 5]], [[-1.0, -1.0]], [np.nan], "NaN"),
    ],
)
def test_what_cannot_be_packed_is_refused(ids, logprobs, tail, problem):
    with pytest.raises(ValueError, match=problem):
        pack(np.array(ids), np.array(logprobs), np.array(tail), 99, 8)


def test_a_vocabulary_smaller_than_k_is_refused():
    with pytest.raises(ValueError, match="top_k 5 with a vocabulary of 4"):
        token_bytes(5, 4, 8)


def test_rows_of_a_part_are_packed_like_each_alone():
    ids, logprobs, tail = draw(3, tokens=2100, vocab_size=500)
    ends = [0, 3, 3, 2000, 2100]  # one row is empty, one is longer than a chunk
    rows = [
        (ids[a:b].ravel(), logprobs[a:b].ravel(), tail[a:b]) for a, b in itertools.pairwise(ends)
    ]
    packed = pack_rows(rows, 50, 500, 8)
    assert packed == [
        pack(ids[a:b], logprobs[a:b], tail[a:b], 500, 8) for a, b in itertools.pairwise(ends)
    ]
    assert packed[1] == b""
    assert pack_rows([], 50, V, 8) == []


@pytest.mark.parametrize("short", [0, 1, 2])
def test_a_row_cut_short_is_refused(short):
    ids, logprobs, tail = draw(3, 4, tokens=3)
    row = [ids.ravel(), logprobs.ravel(), tail]
    row[short] = row[short][:-1]
    with pytest.raises(ValueError, match="signal cut short"):
        pack_rows([([], [], []), tuple(row)], 4, V, 8)


def test_damaged_bytes_are_refused():
    ids, logprobs, tail = draw(3, tokens=3)
    data = pack(ids, logprobs, tail, V, 8)
    with pytest.raises(ValueError, match="signal cut short: 410 bytes, but a token has 137"):
        unpack(data[:-1], 50, V, 8)
    with pytest.raises(ValueError, match="without 50 ids each"):
        unpack(bytes(len(data)), 50, V, 8)
