"""Right calls and needless ones, worked out by hand."""

import numpy as np
import pytest

from engine.rows.metrics import METRICS, TASK_METRICS, score_of, statistics_of
from engine.rows.metrics.metric import Calls

ELY = '[{"name": "weather", "arguments": {"city": "Ely", "days": 1}}]'
SAME = '[{"name": "weather", "arguments": {"days": 1.0, "city": "Ely"}}]'
CAM = '[{"name": "weather", "arguments": {"city": "Cambridge"}}]'


def counted(metric, *calls):
    texts = [""] * len(calls)
    return statistics_of(metric, "conversation", texts, ["x"] * len(calls), calls=calls)


def test_a_call_is_right_where_name_and_arguments_are_and_others_do_not_count():
    rows = counted("tool_calls", Calls(SAME, ELY), Calls(CAM, ELY), Calls(None, ELY))
    assert rows.tolist() == [[1, 1], [0, 1], [0, 1]]
    assert score_of("tool_calls", rows) == pytest.approx(1 / 3)
    assert counted("tool_calls", None, Calls(ELY, None)).tolist() == [[0, 0], [0, 0]]
    assert score_of("tool_calls", counted("tool_calls", None)) is None


def test_a_call_is_needless_where_the_gold_answer_calls_nothing():
    rows = counted("needless_calls", Calls(ELY, None), Calls(None, None), Calls(ELY, ELY), None)
    assert rows.tolist() == [[1, 1], [0, 1], [0, 0], [0, 0]]
    assert np.isclose(score_of("needless_calls", rows), 0.5)
    assert METRICS["needless_calls"].better == "lower"
    assert {"tool_calls", "needless_calls"} <= set(TASK_METRICS["conversation"])
