"""A load from actors of a cluster is one load."""

import time

import pytest
from doubles.raw_server import raw_server

from engine.backends.ray_load import spread_over_cluster
from engine.errors import StageError
from engine.loadgen.level import run_level
from engine.loadgen.plans import Open, Plan
from engine.loadgen.shares import deal
from engine.loadgen.target import Shape, Target

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]
PROMPTS = [[{"role": "user", "content": f"question {number}"}] for number in range(9)]


def test_shares_in_actors_send_what_one_process_would():
    plan = Plan(Open(40.0), 1.0, warmup_s=0.2, seed=3)
    with raw_server() as server:
        target = Target(server.url, "m")
        alone = run_level(target, Shape(), PROMPTS, plan)
        before_s = time.time()
        spread = run_level(target, Shape(), PROMPTS, plan, processes=3, spread=spread_over_cluster)
    assert [sample.intended_ms for sample in spread.samples] == pytest.approx(
        [sample.intended_ms for sample in alone.samples]
    )
    assert {sample.status for sample in spread.samples} == {"ok"}
    assert [watch.process for watch in spread.watches] == [0, 1, 2]
    assert len(server.requests) == 2 * len(alone.samples)
    assert before_s < spread.started_s < time.time()


def test_an_actor_that_fails_is_an_error():
    (share,) = deal(Target("http://127.0.0.1:1/v1", "m"), Shape(), PROMPTS, Plan(Open(1.0), 0.1))
    object.__setattr__(share, "work", "no work at all")
    with pytest.raises(StageError, match="an actor that makes load was lost"):
        spread_over_cluster([share])
