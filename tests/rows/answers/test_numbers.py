from fractions import Fraction

import pytest

from engine.rows.answers.latex import untexed
from engine.rows.answers.number_words import number_of_words
from engine.rows.answers.numbers import as_english, numbers_in
from engine.rows.answers.spelling import spelt


def values(text):
    return [number.values[0] for number in numbers_in(untexed(as_english(spelt(text))))]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234,567", 1234567),
        ("1,14,200 rupees", 114200),
        ("70 000", 70000),
        ("70'000", 70000),
        ("1.234.567", 1234567),
        ("1.299,50", Fraction(2599, 2)),
        ("1 299,00", 1299),
        (r"12\,000", 12000),
        ("9{,}500", 9500),
        (r"448,\!000", 448000),
        ("१,१४,२००", 114200),
        ("١٢٫٥", Fraction(25, 2)),
        ("௧௮", 18),
        ("１８", 18),
        ("18万", 180000),
        ("2.5 million", 2500000),
        ("3 lakh", 300000),
        ("1.8e1", 18),
        ("1.8 × 10¹", 18),
        ("18 1/2", Fraction(37, 2)),
        ("1½", Fraction(3, 2)),
        ("1,080 1/2", Fraction(2161, 2)),
        ("2 and a half", Fraction(5, 2)),
        (r"1\frac{1}{2}", Fraction(3, 2)),
        (r"-\dfrac{3}{4}", Fraction(-3, 4)),
        (r"-\tfrac{-36}{2}", 18),
        (r"\frac12", Fraction(1, 2)),
        ("−3", -3),
        ("–3", -3),
        ("$-5", -5),
        ("-$5", -5),
        ("x = - 5", -5),
        ("Rs. 500", 500),
        ("ரூ.500", 500),
        ("a tip of .50", Fraction(1, 2)),
        ("USD18", 18),
        ("US$18", 18),
        ("37.5 %", Fraction(75, 2)),
    ],
)
def test_a_number_has_one_value_however_it_is_written(text, value):
    assert values(text) == [value]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10-5", [10, 5]),
        ("--18", [18]),
        ("- 18", [18]),
        ("between 0-18", [0, 18]),
        ("1,2 and 3,4", [1, 2, 3, 4]),
        ("H2O and GPT4", []),
        ("5/0", []),
        ("48/2 = 24", [24, 24]),
    ],
)
def test_signs_lists_and_names_are_told_apart(text, found):
    assert values(text) == found


def test_a_comma_is_a_decimal_mark_where_the_language_has_it():
    assert values("Die Lösung ist 3,5.") == [Fraction(7, 2)]
    assert values("Следовательно, x = 3,5.") == [Fraction(7, 2)]
    assert values("The values are 3,5.") == [3, 5]


def test_a_dot_before_three_digits_has_two_readings_where_it_may_group():
    (number,) = numbers_in(as_english("La respuesta es 70.000."))
    assert number.values == (70000, 70)
    (number,) = numbers_in(as_english("The answer is 70.000."))
    assert number.values == (70,)


def test_percentages_and_dozens_say_what_they_are():
    (percent,) = numbers_in("50 percent")
    assert percent.is_percent
    (dozen,) = numbers_in("5 dozen eggs")
    assert dozen.values == (5, 60)


def test_a_number_of_too_many_digits_is_none():
    assert numbers_in("7" * 10_001) == []
    assert values("9" * 6000) == [10**6000 - 1]


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("eighteen", 18),
        ("seventy-two dollars", 72),
        ("one hundred and five", 105),
        ("three million two hundred thousand", 3200000),
        ("minus five", -5),
        ("three quarters", Fraction(3, 4)),
        ("seven sixteenths of them", Fraction(7, 16)),
        ("two and a half cups", Fraction(5, 2)),
        ("the third", None),
        ("三百五", 305),
        ("一万二千", 12000),
        ("hello", None),
    ],
)
def test_number_words_are_numbers(words, value):
    assert number_of_words(words) == value
