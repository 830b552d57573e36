import numpy as np

from engine.curation.priority import answer_priorities, first_of_each, priorities, splitmix64
from tests.doubles.ledger import ledger


def test_splitmix64_is_the_published_one():
    """The first outputs for seed 1234567 of the reference in C (Vigna), whose state grows by the
    golden ratio."""
    step = 0x9E3779B97F4A7C15
    states = np.array([1234567, (1234567 + step) % 2**64], np.uint64)
    assert splitmix64(states).tolist() == [6457827717110365317, 3203168211198807973]


def test_lots_depend_on_seed_purpose_and_every_id():
    ids = np.arange(3)
    lots = priorities(1, "best", ids, ids)
    assert len(set(lots)) == 3
    assert not set(lots) & set(priorities(2, "best", ids, ids))
    assert not set(lots) & set(priorities(1, "balance", ids, ids))
    assert not set(lots[1:]) & set(priorities(1, "best", ids, ids[::-1])[[0, 2]])


def test_an_answer_has_its_lot_whichever_teachers_stand_beside_it():
    both = ledger({"t": "b"}, {"t": "a"})
    alone = ledger({"t": "a"})
    assert answer_priorities(both, 0, "x")[1] == answer_priorities(alone, 0, "x")[0]


def test_the_first_of_each_group_stay():
    groups = np.array([1, 0, 1, 1, 0, 2])
    first_key = np.array([5, 1, 5, 4, 1, 0])
    second_key = np.array([2, 9, 1, 9, 8, 0])
    stays = first_of_each(groups, [first_key, second_key], np.array([1, 2, 0]))
    assert stays.tolist() == [False, False, True, True, True, False]
