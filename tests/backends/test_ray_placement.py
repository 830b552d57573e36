"""Layouts on raylets with eight declared GPUs each (tests/drivers/layout_scenarios.py): one
process, looked at from all sides."""

import pytest

from engine.backends.ray_cluster import FREE_WAIT_S

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[4, pytest.param(8, marks=pytest.mark.proof)])
def facts(request, layout_scenarios):
    """What was seen on so many nodes, by scenario."""
    return layout_scenarios(request.param)


def test_replicas_of_eight_gpus_take_a_node_each(facts):
    each, nodes = facts["each"], facts["nodes"]
    assert each["rows"] == {"ok": 40 * nodes}
    assert (each["most"], each["bundles"], len(each["nodes"])) == (nodes, [[1]] * nodes, nodes)


def test_tensor_parallel_8_by_pipeline_parallel_2_takes_eight_gpus_on_each_of_two_nodes(facts):
    two = facts["two_nodes"]
    assert two["rows"] == {"ok": 40}
    assert (two["most"], two["bundles"]) == (1, [[8, 8]])


def test_groups_are_gone_at_the_end(facts):
    left = {name: seen["left"] for name, seen in facts.items() if name not in ("nodes", "too_big")}
    assert left == dict.fromkeys(("each", "two_nodes", "leaver", "growth", "starting", "moves"), 0)


def test_the_group_of_an_actor_that_left_is_gone_while_the_others_work(facts):
    assert (facts["leaver"]["before"], facts["leaver"]["after"]) == (2, 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "number",
            "wants {more} GPUs (replicas={one_more} x tensor_parallel=8); the cluster has {gpus}."
            " Set replicas: {nodes} or use a larger --cluster.",
        ),
        ("split", "Set tensor_parallel: 8, pipeline_parallel: 2 or use a larger --cluster."),
        (
            "kind",
            "wants 8 H100 GPUs (replicas=1 x tensor_parallel=8); the cluster has H200. Set"
            " accelerator_type: H200",
        ),
    ],
)
def test_a_job_that_is_too_big_fails_at_once_with_the_numbers(facts, name, message):
    text, seconds = facts["too_big"][name]
    nodes = facts["nodes"]
    numbers = {"nodes": nodes, "one_more": nodes + 1, "gpus": 8 * nodes, "more": 8 * (nodes + 1)}
    assert message.format(**numbers) in text
    assert seconds < FREE_WAIT_S


def test_replicas_grow_to_what_is_free_and_a_node_that_leaves_costs_no_row(facts):
    growth = facts["growth"]
    assert growth["most"] == 3, "three of the nodes were left, and twelve replicas were allowed"
    assert growth["alive"] == 2, (
        "a node was removed while three replicas worked, and nothing else was free"
    )
    assert growth["rows"] == {"ok": 300}


def test_a_replica_whose_node_leaves_while_it_starts_ends_nothing(facts):
    starting = facts["starting"]
    assert (starting["most"], starting["alive"]) == (2, 1)
    assert starting["rows"] == {"ok": 40}, "the other answered all"


def test_a_replica_whose_node_leaves_moves_to_a_free_one(facts):
    moves = facts["moves"]
    assert (moves["most"], len(moves["nodes"]), moves["alive"]) == (1, 2, 1)
    assert moves["rows"] == {"ok": 40}
