import pytest

from engine.rows.answers.circumstances import restated, without_circumstances
from engine.rows.answers.mathematics import answer_of


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("So there are 27 left after 3 were eaten.", "So there are 27 left"),
        (
            "It holds 40 l after 10 min and 60 l after 20 min.",
            "It holds 40 l after 10 min and 60 l",
        ),
        ("She'd have to wait 5 more years to be 27.", "She'd have to wait 5 more years"),
        ("Another 5 years to reach 27.", "Another 5 years"),
        ("The bag has 64 marbles, of which 28 are red.", "The bag has 64 marbles"),
        ("She saved $120, $45 more than Tom.", "She saved $120"),
        ("Maya read 50, which is 10 more than her goal of 40.", "Maya read 50"),
    ],
)
def test_when_for_what_and_compared_with_whom_is_beside_the_value(text, left):
    assert without_circumstances(text).rstrip(" ,") == left


@pytest.mark.parametrize(
    "text",
    [
        "After eating 3 of the 30, 27 remain.",
        "He gets 200 more to make 100 + 200 = 300 fish.",
        "There are 9 in each, and when multiplied by 3 we get 27.",
        "So Alix has 25 - 10 = 15 chocolates more than Nick.",
        "He sent 10 of those to another planet, so 30 went home.",
    ],
)
def test_what_the_sentence_comes_to_stays(text):
    assert without_circumstances(text) == text


def test_what_is_said_again_stands_beside_it():
    assert restated("3.5 km, i.e. 3500 m") == ("3.5 km", "3500 m")
    assert restated("3.5 km, that is, far away") == ("3.5 km, that is, far away", "")


@pytest.mark.parametrize(
    ("text", "number", "nearly"),
    [
        ("The distance is 3.5 km, i.e. 3500 m.", 3.5, 3500),
        ("P(A) = 1/4 ≈ 0.3", 0.25, 0.3),
        ("It costs 12.5 dollars, or approximately 13.", 12.5, 13),
    ],
)
def test_the_exact_value_comes_first_and_the_other_one_counts_too(text, number, nearly):
    value = answer_of(text)
    assert value.numbers[0] == number
    assert float(value.nearly.numbers[0]) == nearly


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Therefore there are 30 pupils in class 7B.", 30),
        ("He arrives after 45 min, at 10:45.", 45),
        ("Altogether 64 marbles: 28 red ones and 36 blue ones.", 64),
        ("Of 16 eggs: 3 eaten, 4 baked, 9 sold.", 9),
        ("The answer is not 50, but 44.", 44),
    ],
)
def test_names_times_and_parts_are_not_the_value(text, number):
    assert answer_of(text).numbers[0] == number
