"""Length, numbers and values of an answer."""

import pytest

from engine.rows.metrics import row_scores, score_of, statistics_of


def new_numbers(answer, source):
    (found,) = statistics_of("new_numbers", "summarization", [answer], ["x"], sources=[source])
    return found.tolist()


@pytest.mark.parametrize(
    ("answer", "source", "new", "all_of_them"),
    [
        ("It grew by 12% in 2021.", "In 2021 growth was 12 percent.", 0, 2),
        ("It grew by 13% in 2021.", "In 2021 growth was 12 percent.", 1, 2),
        ("1,200 people", "1200 people", 0, 1),
        ("1.200 personas", "1,200 people", 0, 1),
        ("3 apples, 200 pears", "200 apples", 1, 2),
        ("12,00,000 rupees", "1200000 rupees", 0, 1),
        ("10 000 km", "10,000 km", 0, 1),
        ("10\u202f000 km", "10'000 km", 0, 1),
        ("it took 10 300 times", "10 tries of 300", 0, 1),
        ("3,50 €", "3.5 €", 0, 1),
        ("3.50", "350", 1, 1),
        ("वर्ष २०२१ में", "in 2021", 0, 1),
        ("第１２回", "the 12th", 0, 1),
        ("on 2024-05-06", "6 May 2024", 1, 3),
        ("version 1.2.3", "versions 1, 2 and 3", 0, 1),
        ("007", "agent 7", 0, 1),
        ("no number", "1 2 3", 0, 0),
        ("5", "", 1, 1),
    ],
)
def test_numbers_that_the_source_does_not_have(answer, source, new, all_of_them):
    assert new_numbers(answer, source) == [new, all_of_them]


def test_new_numbers_are_a_share_of_all_numbers_of_all_answers():
    found = statistics_of(
        "new_numbers", "summarization", ["1 2 3", "none", "9"], ["x"] * 3, sources=["1 2", "", "9"]
    )
    assert score_of("new_numbers", found) == 1 / 4
    assert row_scores("new_numbers", found)[1] != row_scores("new_numbers", found)[1]  # nan
    assert score_of("new_numbers", found[1:2]) is None


def test_length_is_measured_against_the_nearest_reference():
    found = statistics_of(
        "length_ratio", "summarization", ["a b c d", "你好"], [["a b", "a b c d e"], "你好 世界"]
    )
    assert found.tolist() == [[4, 5], [2, 4]]
    assert score_of("length_ratio", found) == 6 / 9


@pytest.mark.parametrize(
    ("answer", "meta", "named", "wanted"),
    [
        ("A table at La Strada in San José.", {"slots": {"city": "San José"}}, 1, 1),
        ("a table in SAN JOSE", {"slots": {"city": ["San José", "San Jose"], "at": "7 pm"}}, 1, 2),
        ("It costs $25.00.", {"slot_values": {"price": ["$25.00"], "seats": 4}}, 1, 2),
        ("We have 14 seats", {"slots": ["4", "seats"]}, 1, 2),
        ("北京到上海的火车", {"slots": {"from": "北京", "to": "上海"}}, 2, 2),
        ("San Diego and José", {"slots": ["San José"]}, 0, 1),
        ("anything", {"slots": None}, 0, 0),
        ("anything", {"slots": {"city": [], "x": ""}}, 0, 0),
        ("anything", {"dialogue": 3}, 0, 0),
    ],
)
def test_slot_values_are_named_as_words_in_order(answer, meta, named, wanted):
    (found,) = statistics_of("slots", "conversation", [answer], ["x"], metas=[meta])
    assert found.tolist() == [named, wanted]
