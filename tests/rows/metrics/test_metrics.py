"""The tables of metrics."""

from typing import get_args

import numpy as np
import pytest

from engine.errors import SpecError
from engine.job.spec.evaluate import MetricName
from engine.rows.metrics import (
    METRICS,
    TASK_METRICS,
    resolve_metrics,
    row_scores,
    score_of,
    statistics_of,
    usable_references,
)
from engine.rows.metrics.metric import Calls

LABELLED = ["entailment", "neutral", "contradiction"]


def test_a_job_may_name_every_metric_and_no_other():
    assert set(get_args(MetricName)) == set(METRICS)
    assert {name for names in TASK_METRICS.values() for name in names} == set(METRICS)


def test_metrics_of_another_task_are_refused():
    assert resolve_metrics("qa", "auto") == ["exact_match", "f1"]
    assert resolve_metrics("qa", ["f1"]) == ["f1"]
    with pytest.raises(
        SpecError, match=r"evaluate.metrics=\['bleu'\]; choose from exact_match for task math"
    ):
        resolve_metrics("math", ["bleu"])


def test_a_reference_that_the_task_cannot_read_is_none():
    assert usable_references("math", ["#### 3", " "]) == ["#### 3"]
    assert usable_references("nli", ["a proof"]) == []
    assert usable_references("summarization", ["a proof"]) == ["a proof"]


@pytest.mark.parametrize("task", TASK_METRICS)
def test_scores_are_of_sums_and_of_single_answers_alike(task):
    """The score of one answer is that of a set of one; that of many is a function of the sum."""
    texts = {"math": ["1", "2"], "nli": LABELLED[:2]}.get(task, ["a b 1 c d", "e f g h 2"])
    metas = [{"slots": ["a"]}, {"slots": ["z", "e"]}]
    for name in TASK_METRICS[task]:
        wanted = None if name == "needless_calls" else '[{"name": "f", "arguments": {}}]'
        calls = [Calls(None, wanted), Calls('[{"name": "f", "arguments": {}}]', wanted)]
        found = statistics_of(
            name, task, texts, texts[::-1], sources=texts, metas=metas, calls=calls
        )
        singly = [score_of(name, found[at : at + 1]) for at in range(2)]
        assert row_scores(name, found).tolist() == singly
        tripled = np.concatenate([found] * 3)
        assert score_of(name, tripled) == pytest.approx(score_of(name, found))


def test_one_reference_may_be_given_without_a_list():
    plain = statistics_of("rougeL", "qa", ["今天下午"], ["今天下午"])
    assert plain.tolist() == statistics_of("rougeL", "qa", ["今天下午"], [["今天下午"]]).tolist()
    assert score_of("rougeL", plain) == 1
