"""The levels of a load test."""

from engine.job.spec import LoadtestSpec
from engine.stages.loadtest.arrivals import Load, levels_of


def test_levels_come_closed_loop_first():
    levels = levels_of(LoadtestSpec(concurrency=[1, 4], rates=[2.5]))
    assert [str(level) for level in levels] == ["concurrency=1", "concurrency=4", "rate=2.5"]
    assert Load(rate=2.5).fields() == {"rate": 2.5}
