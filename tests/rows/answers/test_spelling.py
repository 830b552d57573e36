import pytest

from engine.rows.answers.latex import boxes, untexed
from engine.rows.answers.lexicon import Lexicon
from engine.rows.answers.spelling import sentences, spelt


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("１，２３４．５％", "1,234.5%"),
        ("१८ ௧௮ ١٨", "18 18 18"),
        ("−3 – 4", "-3 - 4"),
        ("m² and 10⁻³", "m^2 and 10^{-3}"),
        ("½", " 1/2"),
        ("1\u202f000", "1 000"),
        ("zero\u200bwidth", "zerowidth"),
        ("plain", "plain"),
    ],
)
def test_signs_of_any_script_become_ascii(text, plain):
    assert spelt(text) == plain


def test_a_sentence_ends_at_its_mark_and_not_inside_a_number_or_abbreviation():
    said = ["It costs Rs. 5.50.", " Yes!", " 好。", "No"]
    assert sentences("".join(said)) == said
    assert sentences("One\n\nTwo") == ["One", "Two"]


@pytest.mark.parametrize(
    ("tex", "plain"),
    [
        (r"12\,000", "12,000"),
        (r"-\frac{1}{2}", " -1/2"),
        (r"{3 \over 4}", " 3/4"),
        (r"5\%", "5%"),
        (r"60^\circ", "60°"),
        (r"\frac{\pi}{2}", r"\frac{\pi}{2}"),
    ],
)
def test_what_only_sets_type_goes(tex, plain):
    assert untexed(tex) == plain


def test_boxes_hold_what_is_between_their_braces():
    found = boxes(r"\boxed{\frac{1}{2}} then \boxed{} or \fbox{3} and \boxed 4 \boxed{5")
    assert [box.content for box in found] == [r"\frac{1}{2}", "3", "4"]


def test_words_are_whole_where_there_are_spaces_and_anywhere_else_where_not():
    lexicon = Lexicon(["answer"], ["答案"], ["câu trả lời"])
    assert lexicon.first("the answer is").start == 4
    assert lexicon.first("answered") is None
    assert lexicon.first("最终答案是").start == 2
    assert lexicon.last("câu trả lời: answer").word == "answer"
