import pytest

from engine.rows.answers.equality import same_value
from engine.rows.answers.values import value_of


@pytest.mark.parametrize(
    "piece",
    [
        "18",
        "$18$",
        "18 apples",
        r"18\text{ cm}^2",
        "18 km/h",
        r"18^\circ",
        "18 m^3",
        r"\mathbf{18}",
        r"\boxed{\boxed{18}}",
        r"\approx 18",
        "+18",
        "(18)",
        "{18}",
        r"\text{total} = 18",
        r"3\times6=18",
        "18 = 9 × 2",
        "x = 18",
        r"18\,\mathrm{km/h}",
        r"\$18",
        "eighteen",
        r"\text{The answer is } 18",
        "Day 18",
        "18km",
    ],
)
def test_a_number_with_what_belongs_to_it_is_that_number(piece):
    assert value_of(piece).numbers[0] == 18


@pytest.mark.parametrize(
    "piece",
    ["2x", "x^{2}+1", r"2\sqrt{3}", "18!", "2ab", "18 pi", r"25\pi", "x \\le 5", "7 - 2i", "5:30"],
)
def test_an_expression_is_no_number(piece):
    value = value_of(piece)
    assert not value.numbers
    assert not value.parts


def test_brackets_commas_and_words_make_several_values():
    assert [part.text for part in value_of(r"\left( 5, \frac{\pi}{3} \right)").parts] == [
        "5",
        r"\frac{\pi}{3}",
    ]
    assert value_of("[0, 4)").brackets == "[)"
    assert value_of(r"\{1,2\}").brackets == "{}"
    assert value_of("x=3, y=4").parts
    assert value_of("3 or 4").is_choice
    assert not value_of("14,000").parts
    assert not value_of("(14,000)").parts


@pytest.mark.parametrize(
    ("said", "wanted", "same"),
    [
        (r"\frac{1}{2}", "0.5", True),
        ("50%", "1/2", True),
        ("50%", "50", True),
        ("50%", "0.5%", False),
        ("1.5 km", "1500 m", True),
        ("18 km", "18 m", False),
        ("18 km", "18", True),
        ("1/3", "0.333333", True),
        ("1/3", "0.33", False),
        ("(1,2)", "(1, 2)", True),
        ("(1,2)", "(2,1)", False),
        ("[1,2)", "(1,2)", False),
        (r"\{1,2\}", "2, 1", True),
        (r"\{1,2\}", "1, 3", False),
        ("3, 4", "3", False),
        (r"\dfrac{\pi}{3}", r"\frac{\pi}{3}", True),
        ("x^{2}", "x^2", True),
        ("Even", r"\text{even}", True),
        ("even", "odd", False),
        ("5 dozen", "60", True),
        ("5 dozen", "5", True),
        ("x+1", "1+x", True),
        ("x+1", "1-x", False),
        (r"\sqrt{324}", "18", True),
        (r"\left(\frac{1}{2}, \sqrt{8}\right)", r"(0.5, 2\sqrt{2})", True),
        (r"\sin x+1", r"1+\sin x", None),
        ("x = 4 or x = -4", r"\pm 4", True),
        (r"1+\sqrt{6}, 1-\sqrt{6}", r"1\pm\sqrt{6}", True),
        (r"5\sqrt{2} \approx 7.07", r"5\sqrt{2}", True),
        (r"5\sqrt{2} \approx 7.07", "7.07", True),
        (r"5\sqrt{2} \approx 7.07", "7.1", False),
        ("x=2, y=3", "(2,3)", True),
        ("x=3, y=2", "(2,3)", None),  # which is which only the question says
        (r"\begin{aligned} A &= 3^2\pi \\ &= 9\pi \end{aligned}", r"9\pi", True),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", True),
        ("(1,2)", r"\{1,2\}", None),
    ],
)
def test_rules_say_same_different_or_nothing(said, wanted, same):
    assert same_value(value_of(said), value_of(wanted)) is same
