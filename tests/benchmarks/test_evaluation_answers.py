"""The benchmark of answers, small and by rules alone."""

from benchmarks.evaluation import answers
from benchmarks.evaluation.golds import load_golds
from benchmarks.evaluation.hostile import HOSTILE
from benchmarks.evaluation.phrasings import MATHS
from engine.rows.final_answer import Verdict, judge

NUMBERS = ["18", "448000", "5", "1250"]


def test_every_gold_answer_equals_itself():
    ratios, raw = answers.golds_themselves(load_golds(None), None)
    assert raw["golds_wrong"] == {}
    assert ratios["gold_answers_wrong"]["ok"]


def test_gold_answers_of_a_folder_come_beside_the_made_up_ones(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "a.jsonl").write_text('{"answer": "so 9.\\n#### 9"}\n')
    made_up = load_golds(None)
    assert load_golds(tmp_path).math == [*made_up.math, ("so 9.\n#### 9", "9")]
    assert "9" in load_golds(tmp_path).numbers()


def test_the_phrasings_of_a_number_are_that_number_and_no_other():
    ratios, raw = answers.phrasings(NUMBERS, None, against=False)
    assert raw["phrasings"] == sum(map(len, MATHS.values())) == 106
    assert raw["failing"] == {}
    assert ratios["phrasings_all_right"]["value"] == 106
    assert ratios["wrong_phrasings_called_right"]["ok"]


def test_what_we_wrote_in_the_manner_of_models_is_judged_rightly():
    ratios, _ = answers.lists(None)
    assert {name for name, ratio in ratios.items() if not ratio["ok"]} == set()


def test_rules_come_to_an_end_with_whatever_is_said():
    for text, gold in HOSTILE.values():
        assert judge("math", text, [gold]) != Verdict.RIGHT
        judge("nli", text, ["neutral"])
        judge("qa", text, ["neutral"])
