import pytest

from engine.errors import SpecError, StageError
from engine.machines.running_cluster import LAST_WORDS
from engine.submission.follow import EndOfAttempts, require_success


def test_the_code_that_was_told_is_heard_in_whatever_pieces_it_comes():
    shown = []
    ending = EndOfAttempts(shown.append)
    line = f"an error\n{LAST_WORDS} 2\n"
    for place in range(0, len(line), 7):
        ending(line[place : place + 7])
    assert ending.exit_code == 2
    assert "".join(shown) == line


def test_the_code_is_heard_whatever_is_said_after_it_in_the_same_piece():
    ending = EndOfAttempts(lambda text: None)
    ending(f"{LAST_WORDS} 2\n" + "Ray says more.\n" * 100)
    assert ending.exit_code == 2


def test_without_such_words_the_platform_has_the_last_word():
    ending = EndOfAttempts(lambda text: None)
    ending("exit code 2 of something else\n")
    assert ending.exit_code == 0


def test_a_wrong_job_is_told_from_one_that_may_resume():
    require_success("x", 0)
    with pytest.raises(SpecError):
        require_success("x", 2)
    with pytest.raises(StageError, match="the same command resumes it"):
        require_success("x", 137)
