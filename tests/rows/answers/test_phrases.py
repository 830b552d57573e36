import pytest

from engine.rows.answers.phrases import (
    equals,
    holds,
    is_short,
    normalise,
    overlap,
    phrase_of,
    rule_of,
)


def test_english_is_normalised_as_squads_script_does():
    assert normalise("The  Eiffel-Tower, in a city!") == "eiffeltower in city"
    assert normalise("a $5 an hour") == "5 hour"


def test_other_languages_lose_their_punctuation_width_and_case():
    assert normalise("¡«STRASSE»!") == normalise("Straße")
    assert normalise("１９４５年。") == "1945年"
    assert normalise("१९४५") == "1945"
    assert normalise("Sa\u0303o Paulo") == normalise("São Paulo")
    assert normalise("el himno", "es") == "himno"
    assert normalise("the", "en") == "the"
    assert normalise("l'«eau»", "fr") == "eau"


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("The answer is Paris.", "Paris"),
        ("Answer: Paris\nIt is in France.", "Paris"),
        ("**Answer:** “Paris”.", "Paris"),
        ("Paris is the answer.", "Paris"),
        ("<answer>\nParis\n</answer>", "Paris"),
        ("La respuesta es el himno.", "el himno"),
        ("答案是巴黎。", "巴黎"),
        ("Paris", "Paris"),
        ("The solution was found in 1905", "The solution was found in 1905"),
        ("  ", None),
    ],
)
def test_the_answer_is_taken_out_of_its_sentence(text, phrase):
    assert phrase_of(text) == phrase


@pytest.mark.parametrize(
    ("text", "reference", "stands"),
    [
        ("It was built in Paris by Eiffel.", "Paris", True),
        ("Parisian", "Paris", False),
        ("It is not Paris but Lyon.", "Paris", False),
        ("It is not Paris but Lyon.", "Lyon", True),
        ("Answer: Beethoven\n\nExplanation: after Mozart's death.", "Mozart", False),
        ("首都は東京です。", "東京", True),
        ("정답은 서울입니다.", "서울", True),
        ("Yes, it did.", "yes", True),
        ("No, it did not.", "yes", False),
        ("the himno", "el himno", False),
        ("1,200 people", "1200", True),
    ],
)
def test_a_short_reference_may_stand_in_the_answer(text, reference, stands):
    assert holds(text, reference) is stands


def test_exact_is_all_of_the_stated_answer():
    assert equals("The answer is the Rhine.", "Rhine")
    assert not equals("Paris, France", "Paris")


SPANISH = "¿Cuál es la capital de la región?"


@pytest.mark.parametrize(
    ("text", "reference", "question", "same"),
    [
        ("la Ciudad", "ciudad", SPANISH, True),
        ("la Ciudad", "ciudad", "What is the capital of the region?", False),
        ("la Ciudad de México", "Ciudad de México", "", True),  # both tell their language
        ("l'Amazone", "Amazone", "Quel est le plus grand fleuve et où est-il ?", True),
        ("der Rhein", "Rhein", "Welcher Fluss ist das, und wo ist er?", True),
        ("als Rhein", "Rhein", "Welcher Fluss ist das, und wo ist er?", False),
        ("the Rhine", "Rhine", SPANISH, True),  # English ones never count
        ("as good", "good", "", False),
        ("Die Hard", "Hard", "Which film was it?", False),
        ("Los Angeles", "Angeles", "", False),
    ],
)
def test_articles_are_those_of_the_language(text, reference, question, same):
    assert equals(text, reference, question) is same
    assert (overlap(text, reference, question) == 1) is same


def test_the_overlap_is_squads_f1():
    assert overlap("the cat sat", "a cat sat down") == pytest.approx(2 * 2 / 5)
    assert overlap("", "x") == 0


def test_a_rule_is_named_by_the_job():
    assert rule_of("f1>=0.8")("the cat sat", "a cat sat down")
    assert not rule_of("f1>=0.81")("the cat sat", "a cat sat down")
    assert rule_of("contains")("in Paris", "Paris")
    assert not rule_of("exact")("in Paris", "Paris")


def test_six_words_are_short_and_seven_are_not():
    assert is_short("the one two three four five six")  # an article does not count
    assert not is_short("one two three four five six seven")
    assert is_short("中华人民共和国")
