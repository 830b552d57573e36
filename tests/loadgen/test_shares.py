"""A plan is dealt out whole: no request twice, none lost, whatever the number of processes."""

import pickle

import numpy as np
import pytest

from engine.errors import SpecError
from engine.loadgen.distributions import Distribution
from engine.loadgen.plans import Closed, Open, Plan, Replay, Sessions
from engine.loadgen.shares import deal
from engine.loadgen.target import Shape, Target
from engine.loadgen.traces import Trace

TARGET = Target("http://127.0.0.1:1/v1", "m")


def prompts(count):
    return [[{"role": "user", "content": f"question {number}"}] for number in range(count)]


def dealt(load, processes=1, shape=None, many=20, **plan):
    wanted = Plan(load, plan.pop("seconds", 10.0), **plan)
    return deal(TARGET, shape or Shape(), prompts(many), wanted, processes)


def requests_of(shares):
    """(time, prompt, limit, words) of all shares' requests, as they come."""
    rows = []
    for share in shares:
        work = share.work
        count = len(work.times_s)
        limits = [None] * count if work.limits is None else work.limits.tolist()
        words = [None] * count if work.words is None else work.words.tolist()
        rows += zip(work.times_s.tolist(), work.prompts.tolist(), limits, words, strict=True)
    return sorted(rows)


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_a_schedule_is_the_same_for_any_number_of_processes(processes):
    shape = Shape(
        output_tokens=Distribution("lognormal", 100, 0.5),
        input_words=Distribution("uniform", 9, 0.4),
    )
    alone = requests_of(dealt(Open(20.0), 1, shape, seed=5, warmup_s=3.0))
    assert alone == requests_of(dealt(Open(20.0), processes, shape, seed=5, warmup_s=3.0))
    assert len({limit for _, _, limit, _ in alone}) > 20


def test_each_process_has_every_nth_request():
    sizes = [len(share.work.times_s) for share in dealt(Open(10.0, "constant"), 3)]
    assert sizes == [34, 33, 33]
    first, *_ = dealt(Open(10.0, "constant"), 3)
    assert np.diff(first.work.times_s) == pytest.approx(0.3)


def test_prompts_of_the_warm_up_are_others():
    (share,) = dealt(Open(20.0, "constant"), warmup_s=5.0, seconds=5.0)
    early = set(share.work.prompts[share.work.times_s < 0].tolist())
    late = set(share.work.prompts[share.work.times_s >= 0].tolist())
    assert (len(early), len(late), early & late) == (10, 10, set())
    (slots,) = dealt(Closed(4), warmup_s=5.0, seconds=5.0)
    assert not set(slots.work.warm) & set(slots.work.timed)
    assert sorted(slots.work.warm + slots.work.timed) == list(range(20))


def test_the_order_of_prompts_is_the_seeds():
    orders = [tuple(dealt(Closed(1), seed=seed)[0].work.timed) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_slots_are_dealt_out_with_prompts_of_their_own():
    shares = dealt(Closed(10), 4, warmup_s=5.0, seconds=5.0)
    assert [share.work.count for share in shares] == [3, 3, 2, 2]
    used = [prompt for share in shares for prompt in share.work.timed + share.work.warm]
    assert sorted(used) == list(range(20))
    assert [share.work.count for share in dealt(Closed(2), 4)] == [1, 1]
    few = dealt(Closed(8), 4, many=2)
    assert all(share.work.timed for share in few)


def test_users_are_dealt_out():
    shares = dealt(Sessions(5), 2)
    assert [share.work.numbers for share in shares] == [[0, 2, 4], [1, 3]]
    assert {share.work.of for share in shares} == {5}
    assert len({share.seed for share in shares}) == 1  # what a user draws is its own


def test_a_trace_is_cut_to_the_window():
    trace = Trace(np.array([0.0, 1.0, 2.5, 4.0, 30.0]), np.array([13, 26, 0, 130, 1]))
    (share,) = dealt(Replay(trace), seconds=3.0, warmup_s=2.0)
    assert share.work.times_s.tolist() == [-2.0, -1.0, 0.5, 2.0]
    assert share.work.words.tolist() == [10, 20, 1, 100]
    assert share.work.limits is None
    (fast,) = dealt(Replay(trace, speed=10.0), seconds=3.0)
    assert fast.work.times_s == pytest.approx([0.0, 0.1, 0.25, 0.4])
    assert Plan(Replay(trace), 1.0).rate == pytest.approx(5 / 30)


def test_a_trace_with_texts_brings_its_prompts():
    said = prompts(3)
    trace = Trace(np.array([0.0, 1.0, 2.0]), None, np.array([5, 0, 7]), said)
    shares = dealt(Replay(trace), 2)
    assert [share.prompts for share in shares] == [said, said]
    assert requests_of(shares) == [(0.0, 0, 5, None), (1.0, 1, 1, None), (2.0, 2, 7, None)]


def test_a_share_travels():
    for load in (Closed(2), Open(5.0), Sessions(2)):
        (share,) = dealt(load)
        again = pickle.loads(pickle.dumps(share))
        assert again.target == TARGET
        assert again.prompts == share.prompts


@pytest.mark.parametrize(
    ("load", "plan", "words"),
    [
        (Closed(0), {}, "concurrency 0: must be greater than 0"),
        (Open(-1.0), {}, "rate -1"),
        (Open(1.0), {"seconds": 0}, "a level of 0 s"),
        (Open(1.0), {"warmup_s": -1.0}, "after -1 s of warm-up"),
        (Replay(Trace(np.array([0.0, 1.0])), speed=0.0), {}, "speed 0"),
        (Open(1.0, "never"), {}, "arrivals 'never'"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(load, plan, words):
    with pytest.raises(SpecError, match=words):
        dealt(load, **plan)
    with pytest.raises(SpecError, match="needs prompts"):
        dealt(Closed(1), many=0)
