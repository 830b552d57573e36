"""What is read of a metrics page, and how the counts of several processes become one."""

import asyncio

import pytest

from engine.loadgen import server_page
from engine.loadgen.server_page import Reader, read_page
from engine.serving.connections import Connections
from engine.serving.metrics import FrontMetrics
from engine.serving.pool import Pool
from tests.loadgen.metrics_pages import VllmMetrics
from tests.upstream.source_text import text as source_of


def read(*texts, model="tiny"):
    """The last of these pages, as it is read after the others."""
    reader = Reader()
    values = [reader.read(read_page(text, model)) for text in texts]
    return values[-1], reader


def test_a_page_of_vllm_is_read_by_its_own_names():
    engine = VllmMetrics()
    before = engine.page()
    engine.answer(queue_s=0.25, prefill_s=0.5, decode_s=1.0, handling_s=0.125)
    engine.output_tokens.inc(64)
    engine.running.set(7)
    engine.kv_usage.set(0.5)
    values, _ = read(before, engine.page())
    assert values["engine_queue_s"] == 0.25
    assert values["engine_queue_n"] == 1
    assert values["engine_first_token_s"] == 0.875
    assert values["engine_request_s"] == 1.875
    assert values["output_tokens"] == 64
    assert (values["running"], values["waiting"], values["kv_usage"]) == (7, 0, 0.5)


def test_every_name_of_vllm_stands_in_the_installed_vllm():
    source = source_of("vllm/v1/metrics/loggers.py", "PrometheusStatLogger")
    names = [*server_page.HISTOGRAMS.values(), *server_page.COUNTERS.values()]
    names += [name for name, _ in server_page.GAUGES.values()]
    of_vllm = [name.removesuffix("_total") for name in names if name.startswith("vllm:")]
    assert len(of_vllm) >= 13
    assert [name for name in of_vllm if f"'{name}'" not in source] == []


def test_every_name_of_the_front_stands_on_its_page():
    pool = Pool("tiny", max_queued=4)
    metrics = FrontMetrics([pool], Connections(8))
    empty = asyncio.run(metrics.page([("a", metrics.text())], [])).decode()
    pool.open = 3
    metrics.ended("tiny", "answered", 200, e2e_s=2.0, ttft_s=0.5)
    metrics.ended("tiny", "refused", 503, e2e_s=1.0, ttft_s=None)
    metrics.retries.labels("tiny").inc()
    metrics.faults.labels("tiny").inc()
    values, _ = read(empty, asyncio.run(metrics.page([("a", metrics.text())], [])).decode())
    front = [name for name, there in _all_names().items() if there.startswith("distill_")]
    assert sorted(values) == sorted(front)
    assert (values["front_request_s"], values["front_request_n"]) == (3.0, 2)
    assert (values["front_first_byte_s"], values["front_first_byte_n"]) == (0.5, 1)
    assert (values["front_retries"], values["front_requests"]) == (1, 2)
    assert (values["front_open"], values["front_queued"], values["replicas"]) == (3, 0, 0)


def _all_names():
    return {here: there for there, here in server_page.sample_names().items()}


def test_counts_of_replicas_are_added_and_the_fullest_cache_is_shown():
    def page(first, second, first_kv, second_kv):
        return (
            f'vllm:generation_tokens_total{{model_name="tiny",replica="a"}} {first}\n'
            f'vllm:generation_tokens_total{{model_name="tiny",replica="b"}} {second}\n'
            f'vllm:kv_cache_usage_perc{{model_name="tiny",replica="a"}} {first_kv}\n'
            f'vllm:kv_cache_usage_perc{{model_name="tiny",replica="b"}} {second_kv}\n'
        )

    values, _ = read(page(10, 1000, 0.1, 0.7), page(30, 1005, 0.2, 0.6))
    assert values == {"output_tokens": 25, "kv_usage": 0.6}


def test_a_replica_that_comes_later_brings_no_past_and_one_that_leaves_takes_nothing_away():
    one = 'vllm:generation_tokens_total{model_name="tiny",replica="a"} '
    two = 'vllm:generation_tokens_total{model_name="tiny",replica="b"} '
    values, reader = read(f"{one}100\n", f"{one}110\n{two}5000\n", f"{two}5004\n")
    assert values["output_tokens"] == 14
    assert reader.falls == 0


def test_a_process_that_starts_anew_counts_on():
    page = 'vllm:generation_tokens_total{{model_name="tiny",engine="0"}} {}\n'
    values, reader = read(page.format(100), page.format(150), page.format(20), page.format(30))
    assert values["output_tokens"] == 80
    assert reader.falls == 1


def test_a_count_that_comes_to_be_began_at_nothing():
    values, _ = read("# nothing yet\n", 'distill_retries_total{model="tiny"} 2.0\n')
    assert values["front_retries"] == 2


def test_a_count_of_a_front_that_was_there_began_at_nothing_and_one_that_comes_brings_a_past():
    is_there = 'distill_open{model="tiny",front="a"} 1.0\n'
    retries = 'distill_retries_total{{model="tiny",front="{}"}} {}\n'
    first = is_there + retries.format("a", 2)
    then = is_there + retries.format("a", 3) + retries.format("b", 100)
    values, _ = read(is_there, first, then, then.replace("100", "104"))
    assert values["front_retries"] == 7


def test_only_the_loaded_model_is_read():
    page = VllmMetrics("tiny").page() + VllmMetrics("other").page()
    found = read_page(page, "tiny")
    assert found.models == {"tiny", "other"}
    assert len(found.values["running"]) == 1


def test_a_model_that_is_served_under_a_second_name_is_still_found():
    found = read_page(VllmMetrics("base").page(), "my-adapter")
    assert "running" in found.values


def test_of_several_other_models_none_is_taken_for_the_loaded_one():
    found = read_page(VllmMetrics("a").page() + VllmMetrics("b").page(), "tiny")
    assert found.values == {}
    assert found.models == {"a", "b"}


def test_a_damaged_known_line_is_an_error():
    with pytest.raises(ValueError, match="could not convert"):
        read_page('vllm:num_requests_running{model_name="tiny"} many\n', "tiny")


def test_several_fronts_tell_of_the_same_replicas_and_of_their_own_requests():
    texts = []
    for name in "ab":
        metrics = FrontMetrics([pool := Pool("tiny", max_queued=4)], Connections(8))
        pool.open = 3
        pool.replicas = {"r1": None, "r2": None}
        texts.append((name, metrics.text()))
    values, _ = read(asyncio.run(FrontMetrics.page(texts, [])).decode())
    assert (values["replicas"], values["front_open"]) == (2, 6)
