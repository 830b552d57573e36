import pytest

from engine.curation.balance import balance, counts_of, limits_of, values_of
from tests.doubles.ledger import is_independent_of_order, ledger


def labelled(**counts):
    rows = []
    for label, count in counts.items():
        for _ in range(count):
            rows.append({"p": len(rows), "label": None if label == "none" else label})
    return ledger(*rows)


def test_no_value_has_more_than_the_cap():
    found = balance(labelled(e=8, n=3, c=5), by="label", most=4, seed=1)
    assert found.before == {"e": 8, "c": 5, "n": 3}
    assert found.after == {"c": 4, "e": 4, "n": 3}
    assert found.reasons.to_pylist()[:8].count("over_cap") == 4
    assert found.reasons.to_pylist()[8:11] == [None] * 3
    assert found.reasons.to_pylist()[11:].count("over_cap") == 1
    assert (found.unknown, found.is_met, found.without_value) == ([], True, 0)


def test_a_cap_may_be_for_some_values_only():
    found = balance(labelled(e=8, n=3, c=5), by="label", most={"e": 2}, seed=1)
    assert found.after == {"c": 5, "n": 3, "e": 2}


def test_a_cap_on_a_value_that_nobody_has_is_told_with_those_that_there_are():
    caps = {"entailment": 2, "e": 2}
    found = balance(labelled(e=8, n=3), by="label", most=caps, share={"x": 0.5}, seed=1)
    assert found.unknown == ["entailment", "x"]
    assert list(found.before) == ["e", "n"]


@pytest.mark.parametrize("by", ["meta.topic", "meta.nobody"])
def test_a_field_that_no_row_has_drops_nothing(by):
    table = ledger({"meta.topic": None}, {"meta.topic": None})
    found = balance(table, by=by, most=1, share=0.1, seed=1)
    assert found.before == {}
    assert found.without_value == 2
    assert found.reasons.null_count == 2
    assert found.is_met


def test_rows_without_the_value_stay():
    found = balance(labelled(e=4, none=3), by="label", most=1, seed=1)
    assert found.without_value == 3
    assert found.reasons.to_pylist()[4:] == [None] * 3
    assert found.after == {"e": 1}


@pytest.mark.parametrize(
    ("counts", "share", "kept"),
    [
        ({"e": 80, "n": 15, "c": 5}, 0.5, {"e": 20, "n": 15, "c": 5}),
        ({"e": 80, "n": 15, "c": 5}, 0.4, {"e": 10, "n": 10, "c": 5}),
        ({"e": 10, "n": 10}, 0.5, {"e": 10, "n": 10}),
        ({"e": 10, "n": 9}, 0.5, {"e": 9, "n": 9}),
        ({"e": 100, "n": 100, "c": 1}, 0.34, {"e": 1, "n": 1, "c": 1}),
        ({"e": 100, "n": 100, "c": 1}, 0.4, {"e": 2, "n": 2, "c": 1}),
        ({"e": 3, "n": 3}, 1.0, {"e": 3, "n": 3}),
        ({"e": 90, "n": 10}, {"e": 0.75}, {"e": 30, "n": 10}),
        ({"e": 90, "n": 10, "c": 10}, {"e": 0.5, "n": 0.25}, {"e": 20, "n": 10, "c": 10}),
        ({"e": 0}, 0.5, {"e": 0}),
    ],
)
def test_shares_count_of_what_is_left(counts, share, kept):
    shares = share if isinstance(share, dict) else dict.fromkeys(counts, share)
    assert limits_of(counts, 0, shares) == kept


def largest(counts, share):
    """Every number of rows of two values, tried."""
    first, second = counts
    best = 0
    for one in range(first + 1):
        for other in range(second + 1):
            if max(one, other) <= share * (one + other) + 1e-9:
                best = max(best, one + other)
    return best


@pytest.mark.parametrize("share", [0.5, 0.55, 0.6, 0.9])
@pytest.mark.parametrize("counts", [(12, 5), (3, 3), (20, 1), (0, 7)])
def test_no_larger_set_of_rows_meets_the_shares(counts, share):
    found = limits_of({"a": counts[0], "b": counts[1]}, 0, {"a": share, "b": share})
    assert sum(found.values()) == largest(counts, share)


@pytest.mark.parametrize(("counts", "share"), [({"e": 9, "n": 9, "c": 9}, 0.3), ({"e": 9}, 0.99)])
def test_shares_that_no_rows_meet_drop_none_and_are_told(counts, share):
    found = balance(labelled(**counts), by="label", share=share, seed=1)
    assert not found.is_met
    assert found.reasons.null_count == sum(counts.values())
    assert found.after == found.before == counts


def test_rows_without_a_value_count_in_the_total():
    found = balance(labelled(e=9, none=9), by="label", share=0.25, seed=1)
    assert found.after == {"e": 3}  # of 12
    assert found.is_met


def test_both_caps_together():
    found = balance(labelled(e=80, n=15, c=5), by="label", most=12, share=0.4, seed=1)
    assert found.after == {"e": 10, "n": 10, "c": 5}


def test_who_stays_depends_on_the_seed_and_not_on_the_order():
    table = labelled(e=40, n=10)

    def rule(table):
        return balance(table, by="label", share=0.6, seed=3).reasons

    assert is_independent_of_order(rule, table)
    other = balance(table, by="label", share=0.6, seed=4).reasons
    assert other.null_count == rule(table).null_count
    assert other != rule(table)


def test_what_is_out_already_does_not_count():
    table = ledger({"source": "a", "reason": "loop"}, {"source": "a"}, {"source": "b"})
    found = balance(table, by="source", most=1, seed=1)
    assert found.reasons.null_count == 3
    assert found.before == {"a": 1, "b": 1}


def test_lengths_fall_into_bands_between_powers_of_two():
    lengths = [0, 1, 2, 3, 4, 63, 64, 127, 128, None]
    table = ledger(*({"completion_tokens": tokens} for tokens in lengths))
    bands = ["0", "1", "2-3", "2-3", "4-7", "32-63", "64-127", "64-127", "128-255", None]
    assert values_of(table, "length").to_pylist() == bands


def test_difficulty_is_the_pass_rate_in_tenths():
    rows = []
    for prompt, (right, of) in enumerate([(0, 3), (3, 10), (1, 3), (7, 10), (4, 4)]):
        rows += [{"p": prompt, "correct": at < right} for at in range(of)]
    table = ledger(*rows, {"p": 9})
    assert counts_of(table, "difficulty") == {"0.3": 13, "0.7": 10, "1.0": 4, "0.0": 3}
    assert values_of(table, "difficulty").to_pylist()[-1] is None


def test_any_field_of_meta_and_a_table_without_rows():
    table = ledger({"meta.topic": "hotel"}, {"meta.topic": "bus"}, {"meta.topic": "hotel"})
    assert counts_of(table, "meta.topic") == {"hotel": 2, "bus": 1}
    empty = balance(table.slice(0, 0), by="length", share=0.5, seed=1)
    assert (empty.before, empty.after, len(empty.reasons)) == ({}, {}, 0)
