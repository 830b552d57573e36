"""Overlap of texts: equal to the libraries in English, fair to every script."""

import itertools

import numpy as np
import pytest
import sacrebleu

from benchmarks.evaluation.texts import ENGLISH, SCRIPTS, squad_f1, squad_words
from engine.rows.metrics import row_scores, score_of, signature_of, statistics_of

TEXT_METRICS = ("rouge1", "rouge2", "rougeL", "bleu", "chrf", "f1")
HYPOTHESES = ["the cat sat on mat", "a dog barks", "", "hello there general kenobi, again!"]
REFERENCES = [
    "the cat sat on the mat",
    "the dog barks loudly",
    "nothing",
    "hello (there) general kenobi",
]
SECOND = ["a cat was on the mat", "dogs bark", "nothing at all", "good day"]
OTHER_SCRIPTS = [texts[1] for name, texts in SCRIPTS.items() if not name.startswith("latin")]


def score(metric, text, *references):
    return score_of(metric, statistics_of(metric, "qa", [text], [list(references)]))


def rouge_scorer(kinds):
    """Of rouge-score; it imports absl, whose handler closes the streams of tests under way."""
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(kinds)


@pytest.mark.parametrize("metric", TEXT_METRICS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_same_text_scores_1_in_every_script(metric, script):
    for text in SCRIPTS[script]:
        assert score(metric, text, text) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("metric", TEXT_METRICS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_another_text_of_the_script_scores_less_and_half_of_it_more(metric, script):
    short, long = SCRIPTS[script]
    other = SCRIPTS["cyrillic" if script != "cyrillic" else "greek"][1]
    half = long[: len(long) * 2 // 3]
    assert score(metric, short, long) < 0.5
    assert score(metric, other, long) < 0.15  # nothing but marks and spaces is shared
    assert 0.2 < score(metric, half, long) < 1


@pytest.mark.parametrize("metric", TEXT_METRICS)
@pytest.mark.parametrize("text", ["ok", "A", "The", "...", "👍", "7", "c"])
def test_the_shortest_texts_score_1_against_themselves_and_nothing_against_others(metric, text):
    assert score(metric, text, text) == pytest.approx(1)
    assert score(metric, text, "zebra xylophon") < 0.06  # a character in common
    assert score(metric, "", text) == 0


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL"])
def test_english_rouge_is_that_of_rouge_score(kind):
    theirs = rouge_scorer([kind])
    for text, reference in itertools.product(ENGLISH, repeat=2):
        if text != reference:
            expected = theirs.score(reference, text)[kind].fmeasure
            assert score(kind, text, reference) == pytest.approx(expected, abs=1e-9)


def test_rouge_takes_the_best_reference():
    theirs = rouge_scorer(["rougeL"])
    found = statistics_of("rougeL", "qa", HYPOTHESES, [*zip(REFERENCES, SECOND, strict=True)])
    for row, text, one, two in zip(found, HYPOTHESES, REFERENCES, SECOND, strict=True):
        best = theirs.score_multi([one, two], text)["rougeL"].fmeasure
        assert row.tolist() == pytest.approx([best, 1])


def test_rouge_l_is_the_mean_f_of_the_longest_common_subsequence():
    found = statistics_of("rougeL", "qa", ["the cat ran", ""], ["the black cat sat", "x"])
    assert row_scores("rougeL", found) == pytest.approx(
        [2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4), 0]
    )


@pytest.mark.parametrize("references", [[REFERENCES], [REFERENCES, SECOND]])
def test_corpus_bleu_and_chrf_are_sacrebleus(references):
    each = [list(several) for several in zip(*references, strict=True)]
    bleu = statistics_of("bleu", "conversation", HYPOTHESES, each)
    expected = sacrebleu.corpus_bleu(HYPOTHESES, references).score / 100
    assert score_of("bleu", bleu) == pytest.approx(expected, rel=1e-12)
    chrf = statistics_of("chrf", "conversation", HYPOTHESES, each)
    expected = sacrebleu.CHRF(word_order=2).corpus_score(HYPOTHESES, references).score / 100
    assert score_of("chrf", chrf) == pytest.approx(expected, rel=1e-12)


def test_chrf_is_sacrebleus_in_every_script_and_bleu_in_those_with_spaces():
    said = [text[: len(text) * 2 // 3] for text in OTHER_SCRIPTS]
    chrf = statistics_of("chrf", "conversation", said, OTHER_SCRIPTS)
    theirs = sacrebleu.CHRF(word_order=2)
    assert score_of("chrf", chrf) == pytest.approx(
        theirs.corpus_score(said, [OTHER_SCRIPTS]).score / 100, rel=1e-12
    )
    for row, text, reference in zip(chrf, said, OTHER_SCRIPTS, strict=True):
        expected = theirs.sentence_score(text, [reference]).score / 100
        assert row_scores("chrf", row) == pytest.approx(expected, rel=1e-12)
    spaced = [SCRIPTS[name][1] for name in ("cyrillic", "greek", "arabic", "tamil", "hangul")]
    said = [text.replace(" ", " x ", 1) for text in spaced]
    bleu = statistics_of("bleu", "conversation", said, spaced)
    expected = sacrebleu.corpus_bleu(said, [spaced]).score / 100
    assert score_of("bleu", bleu) == pytest.approx(expected, rel=1e-12)


def test_chinese_bleu_is_that_of_sacrebleus_chinese_tokenizer():
    texts = ["今天下午我们去图书馆看书。", "他昨天买了一本 Python 新书，花了 35.5 元！"]
    said = ["今天下午我们去看书。", "他买了一本 Python 书，花了 35 元！"]
    found = statistics_of("bleu", "conversation", said, texts)
    expected = sacrebleu.corpus_bleu(said, [texts], tokenize="zh").score / 100
    assert score_of("bleu", found) == pytest.approx(expected, rel=1e-12)


def test_bleu_of_answers_too_short_for_four_words_counts_the_orders_that_they_have():
    assert score("bleu", "yes please", "yes please") == 1
    assert score("bleu", "gone", "here") == 0
    found = statistics_of("bleu", "conversation", ["yes", "no thanks"], ["yes", "no thank you"])
    theirs = sacrebleu.BLEU(effective_order=True)
    expected = theirs.corpus_score(["yes", "no thanks"], [["yes", "no thank you"]]).score / 100
    assert score_of("bleu", found) == pytest.approx(expected, rel=1e-12)


def test_the_signature_says_how_a_figure_was_made():
    bleu = signature_of("bleu", [["a"], ["b"]])
    assert bleu == str(_scored(sacrebleu.BLEU(effective_order=True)).get_signature())
    assert "tok:13a-letters-apart" in signature_of("bleu", [["你好"]])
    chrf = signature_of("chrf", [["a", "b"]])
    assert chrf.startswith("nrefs:2|case:mixed|eff:yes|nc:6|nw:2|space:no|version:")
    assert "nrefs:var" in signature_of("chrf", [["a"], ["b", "c"]])
    assert "nrefs:var" in signature_of("rouge2", [["a"], ["b", "c"]])
    assert signature_of("exact_match", [["a"]]) is None


def _scored(scorer):
    scorer.corpus_score(["a"], [["a"]])
    return scorer


SQUAD = [
    "the Denver Broncos",
    "Denver Broncos (AFC)",
    "February 7, 2016",
    "an A-frame",
    "well-known",
    "1,000 men",
    "U.S.",
    "The Beatles' “White Album”",
]


def test_f1_is_squads():
    for said, one, two in itertools.product(SQUAD, repeat=3):
        expected = max(squad_f1(said, one), squad_f1(said, two))
        assert score("f1", said, one, two) == pytest.approx(expected, abs=1e-12)


def test_exact_match_in_questions_is_squads():
    for said, wanted in itertools.product(SQUAD, repeat=2):
        found = score("exact_match", said, wanted)
        assert found == float(squad_words(said) == squad_words(wanted)), (said, wanted)


def test_f1_is_the_overlap_of_words():
    precision, recall = 2 / 2, 2 / 3  # articles do not count
    found = statistics_of("f1", "qa", ["the cat sat", "dog", ""], ["a cat sat down", "cat", "cat"])
    assert row_scores("f1", found) == pytest.approx(
        [2 * precision * recall / (precision + recall), 0, 0]
    )


def test_f1_counts_characters_where_no_spaces_part_words():
    assert score("f1", "北京市", "北京") == pytest.approx(2 * 2 / 5)
    assert score("f1", "กรุงเทพ", "กรุงเทพมหานคร") > 0.6


def test_no_metric_is_slow_on_an_answer_that_loops():
    """2,000 words each: what counts must not grow with their product, but for the subsequence."""
    text = "round and " * 1000
    for metric in ("rouge1", "rouge2", "bleu", "chrf", "f1"):
        assert 0 < score(metric, text, "round and round it goes") < 0.5
    assert np.isfinite(score("rougeL", text, "round and round it goes"))
