"""Words are what is written, in any script."""

import re

import pytest

from benchmarks.evaluation.texts import ENGLISH, SCRIPTS
from engine.rows.words import plain_digits, separated, words


@pytest.mark.parametrize("text", ENGLISH)
def test_plain_english_has_the_words_of_letters_and_digits(text):
    assert list(words(text)) == re.findall("[a-z0-9]+", text.lower())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("El niño comió", ["el", "niño", "comió"]),
        ("Straße", ["strasse"]),
        ("कल सुबह।", ["कल", "सुबह"]),
        ("你好，世界 2024", ["你", "好", "世", "界", "2024"]),
        ("スーパーで", ["ス", "ー", "パ", "ー", "で"]),
        ("กำลังดี", ["ก\u0e4d", "า", "ลั", "ง", "ดี"]),
        ("한국어 책", ["한국어", "책"]),
        ("GPT模型v2", ["gpt", "模", "型", "v2"]),
        ("a_b", ["a", "b"]),
    ],
)
def test_letters_are_words_where_no_spaces_part_them(text, found):
    assert list(words(text)) == found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("café", "cafe\u0301"),
        ("ＡＢＣ１２", "abc12"),
        ("ﾗｰﾒﾝ", "ラーメン"),
        ("می\u200cخواهم", "میخواهم"),
        ("co\u00adoperate", "cooperate"),
        ("४२ किताबें", "42 किताबें"),
        ("٢٠٢٤", "2024"),
    ],
)
def test_two_spellings_of_the_same_are_the_same_words(one, other):
    assert words(one) == words(other)


def test_a_text_without_a_word_has_its_characters():
    assert words("?! 👍🏽") == ("?", "!", "👍🏽")
    assert words(" \n") == ()


@pytest.mark.parametrize("text", [text for texts in SCRIPTS.values() for text in texts])
def test_no_letter_is_lost(text):
    letters = [character for character in text.casefold() if character.isalpha()]
    kept = [character for character in "".join(words(text)) if character.isalpha()]
    assert kept == letters


def test_only_scripts_without_spaces_are_set_apart():
    assert separated("a well-known “fact”, नमस्ते। 한국어") == "a well-known “fact”, नमस्ते। 한국어"
    assert separated("好，ok").split() == ["好", "，", "ok"]


def test_digits_of_any_script_are_plain_ones():
    assert plain_digits("१२ ٣٤ ５６ ๗๘ 90 ²½") == "12 34 56 78 90 ²½"
