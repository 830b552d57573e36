"""A text that loops says most of its words more than once."""

import pytest

from engine.curation.repetition import repetition


@pytest.mark.parametrize(
    ("text", "share"),
    [
        (None, 0.0),
        ("", 0.0),
        ("one two three four five", 0.0),
        ("the quick brown fox jumps over the lazy dog", 0.0),
        # Runs 1 to 5 and 6 to 10 are one; those between are each once.
        ("a b c d e a b c d e", 1.0),
        ("a b c d e, A B C D E!", 1.0),
        ("a b c d e x a b c d e", 10 / 11),
        ("a b c d e x y z u v a b c d e w q r s t", 10 / 20),
        # Six words make two runs, which overlap: each word counts once.
        ("a b c d e f x a b c d e f", 12 / 13),
        ("a b c d x a b c d", 0.0),
        ("no no no no no no", 1.0),
        ("好的好的好的好的", 1.0),
        ("我去北京，他去上海。", 0.0),
        ("कल कल कल कल कल कल", 1.0),
        ("!!!!!!!!!!", 1.0),
    ],
)
def test_the_share_of_words_inside_a_repeated_run(text, share):
    assert repetition(text) == pytest.approx(share)


def test_a_loop_of_many_words_takes_no_square_time():
    assert repetition("and so on and on " * 20_000) == 1.0
