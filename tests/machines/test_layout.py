"""What fits a cluster, how a replica is cut into bundles, and what a user is told to change."""

import pytest

from engine.asking.respondents import respondent_of
from engine.job.spec import (
    EngineSpec,
    FakeTeacherSpec,
    OpenAITeacherSpec,
    SamplingSpec,
    VllmTeacherSpec,
)
from engine.machines.layout import Layout, Node, count_that_fits, fits, shortfall, spans


def nodes(*free, devices=8, kind=None):
    return [Node(devices, n, frozenset({kind} if kind else ())) for n in free]


def a_layout(replicas=1, tensor=1, pipeline=1, data=1, **more):
    fewest, most = (replicas, replicas) if isinstance(replicas, int) else replicas
    return Layout(tensor * pipeline * data, tensor, pipeline, data, (fewest, most), **more)


@pytest.mark.parametrize(
    ("layout", "free", "fit"),
    [
        (a_layout(8, 8), [8] * 8, True),
        (a_layout(9, 8), [8] * 8, False),
        (a_layout(1, 8), [4, 4], False),  # a tensor-parallel group stays on one node
        (a_layout(1, 8, 2), [8, 8], True),
        (a_layout(1, 8, 2), [12, 4], False),
        (a_layout(1, 4, 4), [8, 8], True),
        (a_layout(2, 8, 2), [8, 8, 8, 8], True),
        (a_layout(2, 8, 2), [8, 8, 8], False),
        (a_layout(1, 8, 2), [16], True),
        (a_layout(1, 1, 1, 16), [8, 8], False),  # data-parallel ranks too
        (a_layout([2, 99], 8), [8, 8], True),
        (a_layout(3, 3), [8, 3], True),
        (a_layout(1, 4, 2, device="cpu"), [4, 4], False),
    ],
)
def test_what_fits(layout, free, fit):
    assert fits([layout], nodes(*free)) is fit
    assert (shortfall([layout], nodes(*free)) is None) is fit


def test_several_layouts_must_fit_at_once_the_widest_first():
    assert fits([a_layout(4, 1), a_layout(1, 8)], nodes(8, 4))
    assert not fits([a_layout(5, 1), a_layout(1, 8)], nodes(8, 4))


@pytest.mark.parametrize(
    ("wanted", "free", "whole", "count"),
    [
        (4, [8, 8], True, 4),
        (4, [8, 5], True, 3),
        (4, [3, 3], True, 1),
        (4, [3, 3], False, 1),
        (4, [6, 6], True, 2),
        (4, [6, 6], False, 3),
        (1, [0], True, 1),
    ],
)
def test_as_many_replicas_as_there_are_free_devices_but_never_fewer_than_the_fewest(
    wanted, free, whole, count
):
    layout = a_layout([1, 9], 2, 2)
    assert count_that_fits(layout, wanted, nodes(*free), whole=whole) == count


def test_a_replica_is_one_bundle_where_a_node_holds_it_and_single_gpus_where_none_does():
    wide = a_layout(2, 8, 2)
    assert spans(wide, nodes(8, 8, 8, 8))
    assert not spans(wide, nodes(16, 16, devices=16))
    assert spans(wide, nodes(0, 0, 0, 0)), "busy devices do not change how a replica is cut"
    assert not spans(a_layout(1, 16), nodes(8, 8))
    assert wide.bundles(True) == [{"GPU": 1.0}] * 16
    assert a_layout(1, 8, accelerator_type="H200").bundles(False) == [
        {"GPU": 8.0, "accelerator_type:H200": 0.001}
    ]
    assert a_layout(1, 2, device="cpu").bundles(False) == [{"CPU": 2.0}]


@pytest.mark.parametrize(
    ("layouts", "cluster", "message"),
    [
        (
            [a_layout(4, 2)],
            nodes(4, devices=4),
            "wants 8 GPUs (replicas=4 x tensor_parallel=2); the cluster has 4. Set replicas: 2 or"
            " use a larger --cluster.",
        ),
        (
            [a_layout(1, 16)],
            nodes(8, 8),
            "wants 16 GPUs (replicas=1 x tensor_parallel=16); the cluster has 16 (2 nodes of 8)."
            " Set tensor_parallel: 8, pipeline_parallel: 2 or use a larger --cluster.",
        ),
        (
            [a_layout(1, data=8)],
            nodes(4, 4, devices=4),
            "wants 8 GPUs (replicas=1 x tensor_parallel=1 x data_parallel=8); the cluster has 8 (2"
            " nodes of 4). Set tensor_parallel: 4, pipeline_parallel: 2, data_parallel: 1 or use a"
            " larger --cluster.",
        ),
        (
            [a_layout(3, 16)],
            nodes(8, 8, 8, 8),
            "wants 48 GPUs (replicas=3 x tensor_parallel=16); the cluster has 32."
            " Set replicas: 2, tensor_parallel: 8, pipeline_parallel: 2 or use a larger --cluster.",
        ),
        (
            [a_layout(2, 8)],
            nodes(8, 3),
            "wants 16 GPUs (replicas=2 x tensor_parallel=8); the cluster has 16 (2 nodes of 8), 11"
            " of them free."
            " Set replicas: 1 or use a larger --cluster.",
        ),
        (
            [a_layout(1, 8, 4)],
            nodes(8, 8),
            "wants 32 GPUs (replicas=1 x tensor_parallel=8 x pipeline_parallel=4); the cluster has"
            " 16. Use a larger --cluster.",
        ),
        (
            [a_layout(1)],
            nodes(0, devices=0),
            "wants 1 GPUs (replicas=1 x tensor_parallel=1); the cluster has 0. Use a larger"
            " --cluster; with device: cpu the engines run on CPUs.",
        ),
        (
            [a_layout(1, 8, accelerator_type="H100")],
            nodes(8, kind="H200"),
            "wants 8 H100 GPUs (replicas=1 x tensor_parallel=8); the cluster has H200. Set"
            " accelerator_type: H200 or use another --cluster.",
        ),
        (
            [a_layout(2, 8, accelerator_type="H200")],
            nodes(8, kind="H200") + nodes(8, 8),
            "wants 16 H200 GPUs (replicas=2 x tensor_parallel=8); the cluster has 8. Set replicas:"
            " 1 or use a larger --cluster.",
        ),
        (
            [a_layout(8, counted="workers")],
            nodes(4, devices=4),
            "wants 8 GPUs (workers=8); the cluster has 4. Set workers: 4 or use a larger"
            " --cluster.",
        ),
        (
            [a_layout(2), a_layout(2, 4)],
            nodes(8),
            "wants 10 GPUs (replicas=2 x tensor_parallel=1 + replicas=2 x tensor_parallel=4); the"
            " cluster has 8."
            " Set replicas: 1 or use a larger --cluster.",
        ),
    ],
)
def test_a_job_that_is_too_big_reads_what_it_wants_what_there_is_and_what_would_fit(
    layouts, cluster, message
):
    assert shortfall(layouts, cluster) == message


def test_only_engines_of_ours_take_devices():
    split = {
        "tensor_parallel": 8,
        "pipeline_parallel": 2,
        "replicas": [1, 4],
        "accelerator_type": "H100",
    }
    expected = Layout(16, 8, 2, 1, (1, 4), "H100")
    assert Layout.of(EngineSpec(**split), "gpu") == expected
    ours = VllmTeacherSpec(name="t", model="m", **split)
    assert respondent_of(ours, SamplingSpec()).layout("gpu") == expected
    fake = respondent_of(FakeTeacherSpec(name="t", model="m", **split), SamplingSpec())
    assert fake.layout("gpu") == expected
    assert fake.layout("cpu").devices == 0
    api = OpenAITeacherSpec(name="t", model="m", api_key_env="KEY")
    assert respondent_of(api, SamplingSpec()).layout("gpu") == Layout(0)
