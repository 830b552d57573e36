import pytest

from engine.rows.final_answer import Rules
from engine.rows.stated_answer import is_plain, same_stated, stated


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 1,000.", "1000"),
        ("It costs $1000.00", "1000"),
        ("That makes one thousand.", "1000"),
        ("About 5 million people", "5000000"),
        (r"\boxed{\frac{4}{8}}", "0.5"),
        ("#### -1/80", "-0.0125"),
        ("2/6", "1/3"),
        ("She walks 18 km.", "18 km"),
        ("It is 50%.", "50%"),
        ("x + 1", "x + 1"),
        (r"\boxed{No  solution}", "no solution"),
        (r"\boxed{9\pi \approx 28.3}", r"9\pi ≈ 28.3"),
        ("I'd pick D", "D"),
        ("I don't know.", None),
    ],
)
def test_an_answer_of_mathematics_has_one_spelling(text, answer):
    assert stated("math", text) == answer


def test_the_letter_counts_where_the_prompt_offers_letters():
    prompt = "How long is it?\nA) 1 cm\nB) 12 cm"
    assert stated("math", "**B) 12 cm**", prompt=prompt) == "B"
    assert stated("math", "**B) 12 cm**") == "12 cm"


def test_a_label_is_the_usual_one_and_not_an_ambiguous_one():
    rules = Rules(labels={"ja": "entailment"})
    assert stated("nli", "It is neutral.") == "neutral"
    assert stated("nli", "ja", rules) == "entailment"
    assert stated("nli", "entailment or neutral") is None
    assert stated("nli", "Who can tell?") is None


def test_few_words_are_an_answer_and_a_sentence_of_its_own_is_none():
    assert stated("qa", "Answer: the Seine.") == "seine"
    assert stated("qa", "Seine") == "seine"
    assert stated("qa", "It flows through the north of France and then into the sea.") is None
    assert stated("qa", "") is None


def test_tasks_without_final_answers_state_none():
    assert stated("conversation", "The answer is 4.") is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("18", "18", True),
        ("18", "18.5", False),
        ("1/3", "0.333333", True),
        ("x+1", "1+x", True),
        ("x+1", "x+2", False),
        ("50%", "0.5", True),
        ("18 km", "18000 m", True),
        ("18 km", "18 m", False),
        (r"9\pi ≈ 28.3", "28.3", True),
        ("no solution", "one solution", False),
        (r"\sin 2x", r"2\sin x\cos x", False),  # only algebra could tell
    ],
)
def test_stated_answers_are_the_same_by_value(one, other, same):
    assert same_stated("math", one, other) is same
    assert same_stated("math", other, one) is same


def test_labels_are_the_same_by_spelling():
    assert not same_stated("qa", "1/3", "0.333333")


@pytest.mark.parametrize(("answer", "plain"), [("-1.5", True), ("18", True), ("1/3", False)])
def test_a_plain_number_needs_no_reading(answer, plain):
    assert is_plain(answer) is plain
