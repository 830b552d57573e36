from engine.rows.answers.statement import (
    said,
    tags,
    without_next_question,
    without_thoughts,
)


def test_thoughts_in_tags_are_not_said():
    assert without_thoughts("<think>5?</think>It is 6") == "It is 6"
    assert without_thoughts("It is 6 </think>") == "It is 6 </think>"


def test_a_question_that_follows_an_answer_ends_the_text():
    assert without_next_question("The answer is 5.\n\nQ: And 6?\nA: 7") == "The answer is 5."
    unanswered = "Let us think.\n\nQuestion: how many?\n\nIt is 5."
    assert without_next_question(unanswered) == unanswered


def test_tags_hold_answers_closed_or_not():
    assert tags("<answer> 5 </answer> <final_answer>6") == [(0, "5"), (21, "6")]
    assert tags("[ANSWER]7[/ANSWER] <b>8</b>") == [(0, "7")]


def test_what_is_called_final_comes_first_and_later_ones_before_earlier_ones():
    text = "The answer is 1. The final answer is 2. The answer is 3."
    assert [one.direct for one in said(text)] == ["2", "3", "1"]


def test_a_statement_knows_what_led_to_it():
    (headed,) = said("### Answer\n\n**5 eggs** a day.")
    assert headed.direct == "5 eggs** a day"
    assert headed.is_headed
    assert headed.is_alone
    (told,) = said("The answer to all of it is that she has 5.")
    assert not told.is_told
    assert told.predicate == "that she has 5"
    (before,) = said("So 18 is the answer.")
    assert before.before == "So 18 is the "


def test_an_answer_that_somebody_has_or_gives_is_no_statement():
    assert list(said("Multiply the answer by 5 to answer the first answer.")) == []
