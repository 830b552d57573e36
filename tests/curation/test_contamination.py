"""A text is contaminated by what it says that hardly any item but one says."""

import pickle
import random

import numpy as np
import pyarrow as pa
import pytest

from engine.curation.contamination import Index, is_contaminated
from engine.errors import InputError

# Ten words, so six runs of five.
ITEM = "a train leaves Geneva at nine with sixty sleepy skiers"


def numbered(start, count):
    return " ".join(f"w{number}" for number in range(start, start + count))


def look_up(items, *texts, groups=None):
    return Index.of({"test": items}, groups).look_up(pa.array(texts, pa.string()))


@pytest.mark.parametrize(
    ("text", "coverage"),
    [
        (ITEM, 1.0),
        ("A TRAIN leaves, Geneva; at nine: with (sixty) sleepy skiers?!", 1.0),
        (f"Answer this question.\n\n{ITEM}\n\nThink step by step.", 1.0),
        ("a train leaves Geneva at nine with", 3 / 6),
        ("a train leaves Geneva at nine, a train leaves Geneva at nine", 2 / 6),
        ("a train leaves Geneva at ten with sixty sleepy skiers", 1 / 6),
        ("a train leaves Geneva or Bern", 0.0),
        ("skiers sleepy sixty with nine at Geneva leaves train a", 0.0),
        ("", 0.0),
        (None, 0.0),
        ("?!", 0.0),
    ],
)
def test_coverage_is_the_share_of_an_items_runs_of_five_words(text, coverage):
    found = look_up([ITEM, "something else that nobody ever asks anybody"], text)
    assert found.coverage_N.tolist() == [np.float32(coverage)]
    assert found.item_N.tolist() == [-1 if coverage == 0 else 0]
    assert is_contaminated(found).tolist() == [coverage >= 0.3]


def test_the_threshold_is_the_callers():
    found = look_up([ITEM], "a train leaves Geneva at nine with")
    assert is_contaminated(found, at_least=0.5).tolist() == [True]
    assert is_contaminated(found, at_least=0.51).tolist() == [False]


def test_the_item_that_a_text_has_most_of_is_named():
    index = Index.of({"a.jsonl": [numbered(0, 10)], "b.jsonl": ["x y", numbered(5, 10)]})
    found = index.look_up(pa.array([numbered(0, 12), numbered(4, 9)]))
    assert [index.place(item) for item in found.item_N] == [("a.jsonl", 0), ("b.jsonl", 1)]


def test_what_many_items_say_is_no_sign_of_one():
    greeting = "thank you for calling our wonderful office"  # three runs
    items = [f"{greeting} {numbered(100 * number, 6)}" for number in range(11)]
    assert look_up(items, greeting).item_N.tolist() == [-1]
    assert look_up(items[:10], greeting).item_N.tolist() == [0]
    # Each of the eleven has nine runs, six of them rare.
    found = look_up(items, f"office {numbered(300, 6)}")
    assert found.item_N.tolist() == [3]
    assert found.coverage_N.tolist() == [np.float32(3 / 6)]


def test_an_item_that_is_named_often_is_one_item():
    assert look_up([ITEM] * 30, f"so: {ITEM}").coverage_N.tolist() == [1.0]


def test_items_of_one_group_do_not_make_each_others_words_common():
    turns = [numbered(0, 6 + 2 * turn) for turn in range(15)]  # each holds those before it
    opening = f"well, {numbered(0, 6)}"
    assert look_up(turns, opening).item_N.tolist() == [-1]
    found = look_up(turns, opening, groups={"test": ["dialogue"] * 15})
    assert found.item_N.tolist() == [0]
    assert found.coverage_N.tolist() == [1.0]


def test_an_item_of_few_words_is_found_alone_only():
    found = look_up(["Who was Napoleon?"], "who was napoleon", "Tell me: who was Napoleon?", "who")
    assert found.item_N.tolist() == [0, -1, -1]


def test_an_item_of_common_words_is_found_alone_only():
    common = numbered(0, 8)
    items = [common] + [f"{common} {numbered(100 * number, 6)}" for number in range(1, 12)]
    found = look_up(items, common, f"{common} {numbered(5000, 9)}")
    assert found.item_N.tolist() == [0, -1]


def test_thirteen_rare_words_in_a_row_need_less_coverage():
    item = numbered(0, 100)  # 96 runs of five
    in_a_row = numbered(0, 24)  # 20 of them
    in_places = " and ".join(numbered(start, 10) for start in (0, 30, 60, 90))  # 24 of them
    too_few = numbered(0, 16)  # 12 of them
    found = look_up([item], in_a_row, in_places, too_few)
    assert found.coverage_N.tolist() == [np.float32(x / 96) for x in (20, 24, 12)]
    assert found.has_run_N.tolist() == [True, False, False]
    assert is_contaminated(found).tolist() == [True, False, False]


def test_a_run_that_four_items_have_is_not_rare():
    shared = numbered(0, 26)
    items = [f"{shared} {numbered(1000 * number, 74)}" for number in range(1, 5)]
    assert look_up(items[:3], shared).has_run_N.tolist() == [True]
    assert look_up(items, shared).has_run_N.tolist() == [False]


def test_scripts_without_spaces_have_words_too():
    item = "北京到上海的火车几点出发"
    found = look_up([item], f"请回答：{item}？", "上海的火车几点")
    assert found.coverage_N.tolist() == [1.0, np.float32(3 / 8)]


def test_every_item_knows_the_text_that_has_most_of_it():
    index = Index.of({"test": [numbered(0, 10), numbered(20, 10), numbered(40, 10)]})
    texts = [numbered(0, 7), None, numbered(0, 9), numbered(20, 5), numbered(0, 40)]
    covered = index.covered(pa.array(texts))
    # The fourth text has a sixth of the second item, which is too little to tell.
    assert covered.coverage_I.tolist() == [1.0, 1.0, 0.0]
    assert covered.text_I.tolist() == [4, 4, -1]
    covered = index.covered(pa.array(texts[:4]))
    assert covered.coverage_I.tolist() == [np.float32(5 / 6), 0.0, 0.0]
    assert covered.text_I.tolist() == [2, -1, -1]
    assert index.covered(pa.array(texts[:4]), at_least=0.1).text_I.tolist() == [2, 3, -1]


def test_a_set_without_a_word_is_an_error_that_names_it():
    with pytest.raises(InputError, match=r"b\.jsonl: none of its 2 texts has a word"):
        Index.of({"a.jsonl": [ITEM], "b.jsonl": ["?!", None]})
    with pytest.raises(InputError, match=r"c\.jsonl: none of its 0 texts"):
        Index.of({"c.jsonl": []})


def test_nothing_is_found_in_an_index_of_nothing():
    found = Index.of({}).look_up(pa.array([ITEM]))
    assert found.item_N.tolist() == [-1]


def test_chunks_batches_and_a_pickle_change_nothing():
    draw = random.Random(3)
    items = [words_of_a_few(draw, 30) for _ in range(40)]
    texts = [words_of_a_few(draw, 60) for _ in range(1203)]
    index = Index.of({"test": items})
    whole = index.look_up(pa.array(texts))
    chunks = pa.chunked_array([pa.array(texts[:7]), pa.array(texts[7:], pa.string())])
    again = pickle.loads(pickle.dumps(index)).look_up(chunks)
    assert [np.array_equal(a, b) for a, b in zip(whole, again, strict=True)] == [True] * 3
    alone = [index.look_up(pa.array([text])) for text in texts[495:505]]
    assert [found.item_N[0] for found in alone] == whole.item_N[495:505].tolist()


def test_it_agrees_with_counting_by_hand():
    draw = random.Random(4)
    items = [words_of_a_few(draw, draw.randrange(5, 25)) for _ in range(30)]
    texts = [words_of_a_few(draw, draw.randrange(3, 60)) for _ in range(100)]
    found = look_up(items, *texts)
    by_hand = [best_by_hand(items, text) for text in texts]
    assert sum(share > 0 for share in by_hand) > 50
    assert found.coverage_N.tolist() == [np.float32(share) for share in by_hand]


def words_of_a_few(draw, count):
    return " ".join(draw.choices("abcd", k=count))


def best_by_hand(items, text):
    of_items = [runs_by_hand(item) for item in items]
    shares = [1.0 for item in items if item == text]
    for runs in of_items:
        rare = {run for run in runs if sum(run in other for other in of_items) <= 10}
        if rare:
            shares.append(len(rare & runs_by_hand(text)) / len(rare))
    return max(shares, default=0.0)


def runs_by_hand(text):
    words = text.split()
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}
