import numpy as np
import pyarrow as pa
import pytest

from engine.curation.splits import groups_of, is_validation, leaves_validation


def same_partition(groups, expected):
    pairs = {(one, other) for one, other in zip(groups.tolist(), expected, strict=True)}
    return len(pairs) == len(set(groups.tolist())) == len(set(expected))


def test_equal_values_are_a_group_and_nulls_are_alone():
    values = pa.chunked_array([["d1", None, "d2"], ["d1", None]])
    assert same_partition(groups_of(values), [0, 1, 2, 0, 3])
    assert same_partition(groups_of(pa.array([7, 7, None, 8])), [0, 0, 1, 2])
    assert len(groups_of(pa.array([], pa.string()))) == 0


def test_twins_join_their_groups():
    values = pa.array(["d1", "d1", "d2", None, "d3", None])
    twins = np.array([[1, 2], [3, 2]])
    assert same_partition(groups_of(values, twins), [0, 0, 0, 0, 1, 2])
    assert same_partition(groups_of(values, np.zeros((0, 2), np.int64)), [0, 0, 1, 2, 3, 4])


def dialogues(count=200, seed=0):
    """Prompts of dialogues of one to nine turns."""
    sizes = np.random.default_rng(seed).integers(1, 10, count)
    groups = np.repeat(np.arange(count), sizes)
    ids = np.random.default_rng(seed + 1).permutation(2**40 + np.arange(len(groups)))
    return ids, groups


def test_groups_stay_whole_and_the_fraction_is_met():
    ids, groups = dialogues()
    for seed in range(20):
        validation = is_validation(ids, groups, 0.05, seed)
        assert set(groups[validation]).isdisjoint(groups[~validation])
        assert abs(validation.sum() - 0.05 * len(ids)) <= 1


def test_neither_order_nor_names_of_groups_move_a_prompt():
    ids, groups = dialogues()
    validation = set(ids[is_validation(ids, groups, 0.1, 3)])
    order = np.random.default_rng(9).permutation(len(ids))
    names = np.random.default_rng(10).permutation(1000)
    again = is_validation(ids[order], names[groups[order]], 0.1, 3)
    assert set(ids[order][again]) == validation
    assert set(ids[is_validation(ids, groups, 0.1, 4)]) != validation


def test_a_few_new_dialogues_move_few_old_ones():
    ids, groups = dialogues(400)
    old = groups < 390
    before = is_validation(ids[old], groups[old], 0.1, 3)
    after = is_validation(ids, groups, 0.1, 3)[old]
    assert (before != after).mean() < 0.03


@pytest.mark.parametrize(
    ("sizes", "fraction", "rows"),
    [
        ([1] * 20, 0.05, 1),
        ([1] * 20, 0.25, 5),
        ([1] * 20, 0.0, 0),
        ([3, 3, 3, 3], 0.25, 3),
        ([5, 5, 5, 5], 0.2, 5),  # 4 are wanted: 5 are nearer than none
        ([10, 10], 0.25, 0),  # 5 are wanted: 10 are no nearer than none
        ([50, 50], 0.05, 0),
        ([1] * 20, 0.23, 5),
        ([97, 3], 0.02, 3),
        ([4], 0.4, 0),
    ],
)
def test_the_split_is_as_near_to_the_fraction_as_groups_allow(sizes, fraction, rows):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    for seed in range(5):
        assert is_validation(np.arange(len(groups)), groups, fraction, seed).sum() == rows


def test_without_prompts_there_is_no_validation():
    none = np.zeros(0, np.int64)
    assert is_validation(none, none, 0.1, 0).tolist() == []


def test_validation_rows_with_a_twin_in_training_leave():
    validation = np.array([True, True, False, True, False, True])
    twins = np.array([[0, 2], [4, 1], [3, 5], [2, 4]])
    leaves = leaves_validation(validation, twins)
    assert leaves.tolist() == [True, True, False, False, False, False]
    assert not leaves_validation(validation, np.zeros((0, 2), np.int64)).any()
