"""What was redacted is in no block that a student would be trained on."""

from benchmarks.curation.packed import packed
from benchmarks.curation.planted import planted

TEXTS = ("How many marbles are left?", "A train leaves at noon.", "Who has read the book?")


def test_a_value_of_each_kind_is_in_the_blocks_unless_it_is_redacted():
    values = planted(seed=3, each=2)
    ratios, found = packed(values, TEXTS)
    assert all(ratio["ok"] for ratio in ratios.values()), ratios
    assert found["redact"] == {}
    assert found["flag"] == dict.fromkeys({value.kind for value in values}, 2)
