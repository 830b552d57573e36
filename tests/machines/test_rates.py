"""The terms of a replica's rate, with figures worked out by hand."""

import math
from dataclasses import replace

import pytest

from engine.machines.accelerators import ACCELERATORS
from engine.machines.architectures import facts
from engine.machines.links import link_seconds
from engine.machines.rates import rate
from engine.machines.replica import Efficiencies, Load, Numbers, Replica, Split

LLAMA_8B = facts("meta-llama/Llama-3.1-8B-Instruct")
LLAMA_70B = facts("meta-llama/Llama-3.3-70B-Instruct")
V3 = facts("deepseek-ai/DeepSeek-V3")
QWEN_30B = facts("Qwen/Qwen3-30B-A3B")
H100 = ACCELERATORS["H100"]
H200 = ACCELERATORS["H200"]
LONG = Load(1000, 1000)
ALONE = Split()


def a_replica(model=LLAMA_8B, accelerator=H100, split=ALONE, **numbers):
    known = {"weight_bytes": 2.0, "rest_bytes": 2.0, "kv_bytes": 2.0} | numbers
    return Replica(model, accelerator, split, Numbers(**known))


def test_sequences_by_memory_are_the_free_bytes_over_the_cache_of_half_answered_rows():
    replica = a_replica()
    free = 80 * 0.92 - 4 - 8.03 * 2
    assert replica.free_gb == pytest.approx(free)
    of_one = 2 * 8 * 128 * 2 * 32 * 1500  # K and V, heads, width, bytes, layers, positions
    assert replica.by_memory(LONG) == pytest.approx(free * 1e9 / of_one)


def test_a_latent_cache_is_whole_on_each_device_and_copies_of_attention_share_it_out():
    tensors = a_replica(V3, H200, Split(tensor=8), weight_bytes=1.0, rest_bytes=1.0)
    assert tensors.cache_bytes == 576 * 2
    copies = replace(tensors, split=Split(data=8))
    assert copies.weights_gb == pytest.approx(17.1 + 653.9 / 8)
    # 15 GB more of weights a device, and eight times the caches
    assert copies.by_memory(LONG) > 4 * tensors.by_memory(LONG)
    assert rate(copies, LONG).tokens_per_s > 1.3 * rate(tensors, LONG).tokens_per_s


def test_no_device_holds_less_than_one_kv_head():
    assert a_replica(split=Split(tensor=8)).cache_bytes == 2 * 1 * 128 * 2
    assert a_replica(QWEN_30B, split=Split(tensor=8)).cache_bytes == 2 * 1 * 128 * 2


def test_weights_that_do_not_fit_give_no_rate():
    found = rate(a_replica(V3, weight_bytes=1.0, rest_bytes=1.0, split=Split(tensor=8)), LONG)
    assert (found.tokens_per_s, found.sequences) == (0.0, 0)
    assert found.limit == "the weights do not fit"


@pytest.mark.parametrize(
    ("load", "numbers", "limit", "sequences"),
    [
        (Load(100, 100, rows=50), {}, "rows", 50),
        (Load(100, 100), {"max_num_seqs": 128}, "max_num_seqs", 128),
        (Load(8000, 8000), {}, "memory", 34),
    ],
)
def test_what_limits_the_batch_is_told(load, numbers, limit, sequences):
    found = rate(a_replica(**numbers), load)
    assert (found.limit, found.sequences) == (limit, sequences)
    assert sum(found.terms.values()) == pytest.approx(1)


def test_one_sequence_is_bound_by_reading_the_weights():
    idle = replace(Efficiencies(), layer_us=0.0, sequence_us=0.0)
    replica = replace(a_replica(), efficiencies=idle)
    found = rate(replica, Load(1, 1000, rows=1))
    read = (8.03 - LLAMA_8B.head_b) * 2 / (3350 * 0.90)  # all but the embedding
    assert found.bound == "weights"
    assert found.tokens_per_s == pytest.approx(1 / read, rel=0.02)


def test_every_micro_batch_of_a_pipeline_reads_the_weights_again():
    few = Load(1, 1000, rows=8)
    one = a_replica(LLAMA_70B, H200, weight_bytes=1.0, rest_bytes=1.0)
    two = replace(one, split=Split(pipeline=2))
    assert rate(two, few).tokens_per_s < 1.1 * rate(one, few).tokens_per_s
    assert two.weights_gb == pytest.approx(one.weights_gb / 2)


def test_the_stage_with_most_layers_and_the_head_set_the_pace_of_a_pipeline():
    assert a_replica(V3, split=Split(pipeline=2)).widest_stage == pytest.approx(31 / 61)
    many = Load(128, 128)
    by_eight = rate(a_replica(LLAMA_70B, split=Split(pipeline=8), weight_bytes=0.5625), many)
    by_four = rate(a_replica(LLAMA_70B, split=Split(pipeline=4), weight_bytes=0.5625), many)
    assert by_eight.tokens_per_s < 2 * by_four.tokens_per_s


def test_two_all_reduces_a_layer_cross_the_links():
    seconds = link_seconds(a_replica(split=Split(tensor=2)), 100.0)["all-reduce"]
    sent = 2 * 32 * 100 * 4096 * 2 * 2 * (1 / 2)
    assert seconds == pytest.approx(sent / (450e9 * 0.64))


def test_tensors_over_two_nodes_wait_for_the_network():
    inside = rate(a_replica(LLAMA_70B, split=Split(tensor=8)), Load(100, 1000, rows=1))
    across = rate(a_replica(LLAMA_70B, split=Split(tensor=16)), Load(100, 1000, rows=1))
    assert across.tokens_per_s < inside.tokens_per_s


def test_experts_send_each_token_to_as_many_devices_as_it_has_experts():
    replica = a_replica(QWEN_30B, split=Split(data=8))
    seconds = link_seconds(replica, 800.0)["expert traffic"]
    sent = 48 * 100 * 8 * (7 / 8) * 2048 * 3
    assert seconds == pytest.approx(sent / (450e9 * 0.64))
    assert link_seconds(a_replica(QWEN_30B), 800.0)["expert traffic"] == 0


def test_few_tokens_touch_few_experts():
    idle = replace(Efficiencies(), layer_us=0.0, routed_layer_us=0.0, sequence_us=0.0)
    replica = replace(a_replica(QWEN_30B, H200), efficiencies=idle)
    one = rate(replica, Load(1, 1000, rows=1)).tokens_per_s
    dense = replace(QWEN_30B, experts=0, experts_b=0.0)
    whole = rate(replace(replica, model=dense), Load(1, 1000, rows=1)).tokens_per_s
    assert one > 4 * whole


def test_weights_without_units_for_their_width_are_multiplied_in_16_bits():
    assert H100.tflops(0.53) == H100.tflops(2.0) == 989
    assert H100.tflops(1.0) == 1979
    assert ACCELERATORS["A100"].tflops(1.0) == 312
    assert ACCELERATORS["B200"].tflops(0.5625) == 9000


def test_a_window_bounds_the_cache_of_its_layers():
    oss = facts("openai/gpt-oss-120b")
    assert oss.cached_positions(1000) == 18 * 1000 + 18 * 128
    assert oss.cached_positions(100) == 36 * 100


def test_a_prefix_cache_saves_prompt_tokens_and_half_precision_caches_twice_the_rows():
    replica = a_replica()
    cold = rate(replica, Load(4000, 100))
    warm = rate(replica, Load(4000, 100, cached=0.5))
    assert cold.terms["prefill"] > 0.5
    assert warm.tokens_per_s > 1.3 * cold.tokens_per_s
    narrow = replace(replica, numbers=replace(replica.numbers, kv_bytes=1.0))
    assert narrow.by_memory(LONG) == pytest.approx(2 * replica.by_memory(LONG))


def test_small_chunks_read_the_weights_once_each():
    small = a_replica(LLAMA_70B, H200, Split(tensor=2), chunk_tokens=16)
    large = a_replica(LLAMA_70B, H200, Split(tensor=2), chunk_tokens=8192)
    load = Load(4000, 10)
    assert rate(small, load).tokens_per_s < 0.7 * rate(large, load).tokens_per_s


def test_speculation_gains_where_weights_are_read_and_loses_where_all_is_multiplied():
    few, many = Load(100, 1000, rows=4), Load(100, 300)
    plain = a_replica(LLAMA_70B, H200, Split(tensor=2))
    numbers = replace(plain.numbers, drafted=3.0, accepted=1.5)
    drafting = replace(plain, numbers=numbers)
    gain = rate(drafting, few).tokens_per_s / rate(plain, few).tokens_per_s
    at_once = rate(drafting, many).tokens_per_s / rate(plain, many).tokens_per_s
    assert gain > 1.8
    assert at_once < gain


def test_the_last_rows_leave_the_batch_half_full():
    replica = a_replica()
    endless = rate(replica, Load(100, 1000)).tokens_per_s
    finite = rate(replica, Load(100, 1000, rows=1000))
    assert finite.terms["tail"] > 0
    assert finite.tokens_per_s < endless
    assert rate(replica, Load(100, 1000, rows=1e9)).tokens_per_s == pytest.approx(endless, rel=1e-3)
    assert not math.isinf(endless)
