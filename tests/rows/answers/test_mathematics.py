from fractions import Fraction

import pytest

from engine.rows.answers.mathematics import answer_of, list_of, reference_of


def number(text):
    value = answer_of(text)
    return value.numbers[0] if value is not None and value.numbers else None


@pytest.mark.parametrize(
    "text",
    [
        # stated, then explained
        "The answer is 18 (9 eggs at $2 each).",
        "**Answer: 18**\n\nCheck: 16 - 3 - 4 = 9, and 9 x 2 = 18, which fits question 4.",
        "The final answer is 18. I hope this helps in grade 5!",
        "The answer is 18, because 9 eggs cost $2 each.",
        "18\n\nExplanation: 16 - 3 - 4 = 9 and 9 x 2 = 18; in 7 days it is 126.",
        "33 or 18? The correct answer is 18.",
        "18 is the correct answer.",
        # under a heading
        "### Answer\n\nJanet makes **18 dollars** a day.",
        "Final Answer:\nShe has 9 eggs left (16 - 7). Therefore she makes 18 dollars.",
        "Answer: Janet makes 18 dollars a day.\n\nLet me know if you need step 2!",
        # a marker, then a question that nobody asked
        "9 * 2 = 18\n#### 18\n\nQuestion: Tom has 3 cats.\nAnswer: 3\n#### 3",
        "The answer is 18.\n\nQ: How many legs do 6 spiders have?\nA: 48",
        "Let us find the answer.\n\nQuestion: 9 eggs at $2?\n\nIt is 9 * 2 = 18.",
        # tags and thoughts
        "<think>20? No.</think>It is 18",
        "<answer>18</answer> (see step 3)",
        "<answer>\nThe answer is $18$.\n</answer>",
        '{"reasoning": "9*2=18", "answer": 18}',
        # the end of the text
        "She sells 9 eggs at $2: 9 * 2 = 18.\n\n(Word count: 42)",
        "So she makes **$18** each day, selling 9 eggs.",
        "18 of the 40 tickets are left: 40 - 22 = 18 [1].",
        "She makes 18 dollars because 9 x 2 = 18.",
        "18 out of 40",
        "The area is 18 cm^2.",
        "\\[ x = 18 \\]",
        # other languages
        "答案是18元。",
        "所以一共是十八。",
        "उत्तर १८ रुपये है।",
        "விடை 18ஆகும்.",
        "La respuesta final es: 18 dólares al día.",
        "Die Antwort lautet: Sie verdient 18 Dollar.",
        "Ответ: 18 долларов, так как 9 · 2 = 18.",
        "Elle gagne 18 dollars, car 9 × 2 = 18.",
        "الجواب ١٨ دولارا.",
        "Svar: 18 kr",
        "Resultado → 18",
        '{"answer": "18", "explanation": "20-2"}',
        "மீதமுள்ள பணம் ரூ.18.",
        "x₁ = 18",
    ],
)
def test_the_answer_is_found_wherever_the_text_states_it(text):
    assert number(text) == 18


@pytest.mark.parametrize(
    "text",
    [
        "I could not solve it. Step 3",
        "I'm not able to determine the answer from the 3 facts given.",
        "divide 5/0",
        "no number, H2O",
        "####",
        "",
    ],
)
def test_a_text_without_an_answer_has_none(text):
    assert answer_of(text) is None


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("The train arrives at 5:30.", "5:30"),
        ("It was on 2024-05-06", "2024-05-06"),
        ("Use version 1.2.3", "1.2.3"),
        ("The ratio is 3:4.", "3:4"),
    ],
)
def test_a_time_a_date_or_a_ratio_is_no_number(text, written):
    value = answer_of(text)
    assert not value.numbers
    assert value.text == written


def test_formulas_and_brackets_are_answers_too():
    assert answer_of("Thus, the area is $25\\pi$ square units.").text == "25\\pi"
    assert answer_of("The vertex is at (2, -5).").brackets == "()"
    assert len(answer_of("The roots are $-3$ and $5$.").parts) == 2
    assert len(answer_of(r"$x=\boxed{3}$, $y=\boxed{4}$").parts) == 2
    assert answer_of("The answer is x^2+1.").text == "x^2+1"
    assert list_of("The two numbers are 7 and 13.").parts[0].numbers == (7,)


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        ("x^2+1", "x^2+1"),
        (r"2\sqrt{3}", r"2\sqrt{3}"),
        ("7 - 2i", "7-2i"),
        ("a - b", "a-b"),
        ("Tuesday", "tuesday"),
        (r"\text{even}", "even"),
        ("B", "b"),
    ],
)
def test_a_bare_reference_is_read_whole(reference, text):
    assert reference_of(reference).text == text


def test_a_reference_may_be_a_solution_or_nothing_to_compare():
    assert reference_of("She sold 48/2 = <<48/2=24>>24.\n#### 72").numbers == (72,)
    assert reference_of("So the total is 48 + 24, which makes 72 clips.").numbers == (72,)
    assert reference_of("60^\\circ").numbers == (60,)
    assert reference_of("-\\frac{1}{2}").numbers == (Fraction(-1, 2),)
    for nothing in ("a proof", "none", "The proof goes by induction over all of them."):
        assert reference_of(nothing) is None


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("The line is y = 9 - 2x.", "9-2x"),
        ("$(x-3)^2$ is the answer.", "(x-3)^2"),
        ("$x^2$ is right, and not $-7$.", "x^2"),
        ("So it is 2^3 × 3^2", "2^3×3^2"),
        ("y - 1 = 3(x - 1), i.e. y = 3x - 2", "3x-2"),
    ],
)
def test_an_expression_is_found_in_its_sentence(text, written):
    assert answer_of(text).text == written


def test_two_numbers_that_are_left_open_are_several():
    assert [part.numbers[0] for part in answer_of("Either 27 or 28.").parts] == [27, 28]


def test_who_gives_up_in_the_last_sentence_gives_no_answer():
    assert answer_of("The book has 50 chapters. I can't work out the number of pages.") is None
