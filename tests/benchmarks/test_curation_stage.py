"""The benchmark of the whole stage, on some hundred made-up answers."""

import pytest

from benchmarks.curation.answered import prompts_of, write_answers, write_prompts
from benchmarks.curation.corpus import Corpus, made_up_texts
from benchmarks.curation.whole_stage import curated


@pytest.fixture
def prompts():
    return prompts_of(Corpus(made_up_texts(20, 0)), 101)


def test_answers_in_any_order_give_the_same_examples_and_every_rule_has_work(prompts, tmp_path):
    write_prompts(prompts, tmp_path / "prompts")
    assert write_answers(prompts, 5, tmp_path / "generate") == 99 * 5 + 2
    write_answers(prompts, 5, tmp_path / "shuffled", 1)
    one = curated(tmp_path, "generate", 1)
    other = curated(tmp_path, "shuffled", 1)
    assert one["examples_sha256"] == other["examples_sha256"]
    assert one["funnel"] == other["funnel"]
    left = dict(one["funnel"])
    order = ("completions", "reference", "duplicate", "near_duplicates")
    kept = [left[name] for name in order]
    assert kept == sorted(set(kept), reverse=True), "each takes some"
    assert kept[-1] > 100
