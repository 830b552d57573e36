"""How many replicas a model gets for what they have open; the context is Serve's."""

from types import SimpleNamespace

import pytest

from engine.serving.autoscale import desired_replicas


def wanted(opened, *, here=None, target=None, waiting=0, fewest=0, most=4, per_replica=10):
    """Replicas wanted where each has so many requests open (None: none has told yet)."""
    told = None if opened is None else {"open": dict(enumerate(opened))}
    running = len(opened or []) if here is None else here
    context = SimpleNamespace(
        config=SimpleNamespace(target_ongoing_requests=per_replica),
        aggregated_metrics=told,
        current_num_replicas=running,
        target_num_replicas=running if target is None else target,
        total_num_requests=waiting,
        capacity_adjusted_min_replicas=fewest,
        capacity_adjusted_max_replicas=most,
    )
    count, state = desired_replicas(context)
    assert state == {}
    return count


@pytest.mark.parametrize(
    ("opened", "count"),
    [
        ([0.0], 0),
        ([1.0], 1),
        ([10.0], 1),
        ([10.2], 2),
        ([16.0, 3.0], 2),
        ([16.0, 5.0], 3),
        ([100.0, 100.0], 4),
    ],
)
def test_it_is_what_all_have_open_over_what_one_should_have(opened, count):
    assert wanted(opened) == count


def test_there_are_never_fewer_or_more_than_allowed():
    assert wanted([0.0, 0.0], fewest=2) == 2
    assert wanted([999.0], most=3) == 3


def test_from_none_to_one_as_soon_as_somebody_waits():
    assert wanted([], here=0) == 0
    assert wanted([], here=0, waiting=0.2) == 1
    assert wanted(None, here=0, waiting=3) == 1


def test_replicas_that_start_are_waited_for_also_where_nobody_asks():
    assert wanted([], here=0, target=3) == 3
    assert wanted(None, here=0, target=3, fewest=1) == 3


def test_a_replica_that_has_not_told_yet_is_waited_for():
    assert wanted(None, here=1, target=2) == 2
    assert wanted([], here=1, target=1, waiting=0) == 1
