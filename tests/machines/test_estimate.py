"""What a job takes: hours, dollars and bytes, what bounds them, and what would be better."""

import pytest

from engine.errors import SpecError
from engine.job.spec import JobSpec
from engine.machines.accelerators import accelerator_named
from engine.machines.estimate import estimate
from engine.machines.estimate_lines import estimate_lines
from engine.machines.ground import Ground
from engine.machines.measured import Answered, Measured, Trained
from engine.machines.replica import Load, Split
from engine.machines.work import Seen, work_of

SEEN = Seen(rows=50_000, validation=1000, prompt_tokens=300, answer_tokens=1000)
V3 = {"name": "v3", "model": "deepseek-ai/DeepSeek-V3", "accelerator_type": "H200"}
GPT = {"name": "gpt", "kind": "openai", "model": "gpt-4", "api_key_env": "KEY"}


def a_job(teacher=None, **changes):
    blocks = {
        "name": "j",
        "task": "math",
        "prompts": {"train": "a.jsonl"},
        "generate": {"teachers": [teacher or V3 | {"tensor_parallel": 8}]},
        "train": {"student": "microsoft/Phi-4-mini-instruct", "workers": 8},
        "loadtest": {"models": []},
    }
    return JobSpec(**blocks | changes)


def planned(job, ground=None, seen=SEEN):
    return estimate(job, work_of(job, seen), ground or Ground())


def generated(teacher, ground=None, seen=SEEN):
    return planned(a_job(teacher), ground, seen).stages[0]


def test_dollars_are_hours_times_gpus_times_the_price_and_the_interval_is_one_and_a_half():
    found = generated(V3 | {"tensor_parallel": 8, "replicas": 2}, Ground(prices={"H200": 3.0}))
    assert (found.devices, found.accelerator) == (16, "H200")
    assert found.usd == pytest.approx(found.hours * 16 * 3.0)
    assert found.interval == pytest.approx((found.hours / 1.5, found.hours * 1.5))


def test_half_the_replicas_take_twice_the_time_but_for_the_start():
    start = (240 + 671) / 3600
    two = generated(V3 | {"tensor_parallel": 8, "replicas": 2}).hours - start
    four = generated(V3 | {"tensor_parallel": 8, "replicas": 4}).hours - start
    assert two == pytest.approx(2 * four, rel=0.1)


def test_a_latent_cache_wants_copies_of_attention_in_place_of_split_tensors():
    better = generated(V3 | {"tensor_parallel": 8}).better
    assert "data_parallel: 8, expert_parallel: true" in better[0]
    assert not generated(V3 | {"data_parallel": 8, "expert_parallel": True}).better


def test_few_sequences_hold_a_replica_back():
    held = generated(V3 | {"tensor_parallel": 8, "max_num_seqs": 64})
    assert "64 sequences by max_num_seqs" in held.notes[0]
    assert "without max_num_seqs: 64" in held.better[0]


def test_many_replicas_for_few_rows_cost_more_than_they_save():
    seen = Seen(rows=10_000, prompt_tokens=300, answer_tokens=250)
    (advice,) = generated(V3 | {"data_parallel": 8, "replicas": 4}, seen=seen).better
    assert advice.startswith("replicas: 1 costs $")
    assert "goes into starting" in advice


def test_what_grows_is_planned_at_its_fewest_and_told_at_its_most():
    found = generated(V3 | {"tensor_parallel": 8, "replicas": [1, 4]})
    assert found.devices == 8
    assert found.notes[1].startswith("with all 4 replicas, on 32 GPUs: ")


def test_a_teacher_that_does_not_fit_is_told_with_the_nearest_layout_that_does():
    found = generated(V3 | {"tensor_parallel": 8, "accelerator_type": "H100"})
    assert found.hours is None
    assert "does not fit: 84 GB of weights a device, and H100 has room for 68" in found.bound
    assert "pipeline_parallel" in found.better[0]
    tiny = Ground(gpu=accelerator_named("X9:memory_gb=10,bandwidth_tb_s=1,bf16_tflops=100"))
    nowhere = generated({"name": "v3", "model": V3["model"]}, tiny)
    assert nowhere.better == (
        "no layout of up to 64 of them fits; choose another accelerator or a smaller teacher",
    )


def test_a_batch_below_32_by_memory_is_a_warning():
    model = "meta-llama/Llama-3.1-405B-Instruct-FP8"
    teacher = {"name": "l", "model": model, "tensor_parallel": 8, "accelerator_type": "H100"}
    seen = Seen(rows=1000, prompt_tokens=8000, answer_tokens=4000)
    (warning,) = generated(teacher, seen=seen).warnings
    assert "fit by memory" in warning
    assert "fewer than 32" in warning


def test_an_api_is_paid_by_the_token_and_its_budgets_bound_it():
    prices = {"input": 30.0, "output": 60.0}
    found = generated(GPT | {"prices": prices, "concurrency": 100, "requests_per_minute": 60})
    assert found.usd == pytest.approx(51_000 * (300 * 30 + 1000 * 60) / 1e6)
    assert found.hours == pytest.approx(51_000 / 3600)
    assert found.bound == "requests_per_minute"
    assert "no prices" in generated(GPT).warnings[0]


def test_a_limit_of_cost_says_how_far_it_reaches():
    job = a_job(
        generate={
            "teachers": [GPT | {"prices": {"input": 30.0, "output": 60.0}}],
            "max_cost_usd": 1000,
        }
    )
    assert "ends it after about 14,2" in planned(job).stages[0].warnings[0]


def test_a_model_of_unknown_size_leaves_its_stage_open_and_the_others_told():
    plan = planned(a_job({"name": "t", "model": "org/new"}))
    assert plan.stages[0].hours is None
    assert "org/new" in plan.stages[0].bound
    assert plan.stages[1].hours
    assert plan.hours is None
    assert "?" in list(estimate_lines(plan))[-1]


def test_training_is_six_flops_a_parameter_and_token_at_a_fifth_of_the_peak():
    found = planned(a_job()).stages[1]
    tokens = 50_000 * 0.9 * 1300 * 3 / 0.93
    attention = 4 * 24 * 128 * 32 * 650
    active = 3.84e9
    seconds = tokens * 3 * (2 * active + attention) / (8 * 989e12 * 0.2)
    assert found.hours == pytest.approx((seconds + 540) / 3600, rel=0.01)
    assert found.interval == pytest.approx((found.hours / 5**0.5, found.hours * 5**0.5))


def test_recomputing_takes_a_third_more_and_adapters_a_third_less():
    def steps(**train):
        job = a_job(train={"student": "microsoft/Phi-4-mini-instruct", "workers": 8} | train)
        return planned(job).stages[1].hours - 540 / 3600

    plain = steps()
    assert steps(gradient_checkpointing=True) == pytest.approx(plain * 4 / 3)
    assert steps(lora={}) == pytest.approx(plain * 2 / 3)


def test_a_worker_that_would_run_out_of_memory_is_told_what_to_try():
    train = {"student": "meta-llama/Llama-3.1-8B-Instruct", "workers": 1, "zero_stage": 2}
    job = a_job(V3 | {"tensor_parallel": 8, "accelerator_type": "H100"}, train=train)
    (warning,) = planned(job).stages[1].warnings
    assert "gradient_checkpointing: true" in warning
    assert "zero_stage: 3" in warning


def test_the_whole_is_the_sum_and_a_held_cluster_idles():
    plan = planned(a_job(V3 | {"tensor_parallel": 8, "replicas": 4}))
    typical, low, high = plan.hours
    assert typical == pytest.approx(sum(stage.hours for stage in plan.stages))
    assert low < typical < high
    assert plan.usd == pytest.approx(sum(stage.usd for stage in plan.stages))
    assert plan.held_usd == pytest.approx(typical * 32 * 4.0)
    assert plan.held_usd > plan.usd


def test_teachers_that_share_the_prompts_take_turns():
    both = {"teachers": [V3 | {"tensor_parallel": 8, "weight": 3.0}, GPT], "route": "split"}
    plan = planned(a_job(generate=both))
    ours, theirs = plan.stages[:2]
    assert theirs.hours == pytest.approx(generated(GPT).hours / 4)
    assert ours.hours < generated(V3 | {"tensor_parallel": 8}).hours
    assert plan.hours[0] == pytest.approx(sum(one.hours for one in plan.stages))
    assert plan.devices == 8


def test_an_unknown_price_is_named_with_the_way_out():
    figures = "X9:memory_gb=141,bandwidth_tb_s=4,bf16_tflops=900,fp8_tflops=1800"
    job = a_job({"name": "v3", "model": V3["model"], "tensor_parallel": 8})
    plan = planned(job, Ground(gpu=accelerator_named(figures)))
    assert plan.usd is None
    assert "--price X9=" in "\n".join(estimate_lines(plan))


def test_an_accelerator_that_nobody_names_is_assumed_and_said_to_be():
    plan = planned(a_job(GPT))
    assert "H100 is assumed" in "\n".join(estimate_lines(plan))
    known = [Ground(gpu=accelerator_named("H20")), Ground(kinds={"B200": 8})]
    for ground in known:
        assert "is assumed" not in "\n".join(estimate_lines(planned(a_job(GPT), ground)))


def test_an_accelerator_that_nobody_knows_is_an_error():
    with pytest.raises(SpecError, match="H2OO has no figures"):
        generated(V3 | {"accelerator_type": "H2OO"})


def test_a_run_of_the_same_layout_and_like_lengths_corrects_the_rate():
    load = Load(300, 500, 500)
    tensors = Split(8)
    predicted = generated(V3 | {"tensor_parallel": 8}).hours

    def seen(tokens_per_s=3000.0, accelerator="H200", split=tensors, model=V3["model"]):
        one = Answered(model, accelerator, split, load, tokens_per_s, 500.0)
        return Ground(measured=Measured("pilot", (one,)))

    corrected = generated(V3 | {"tensor_parallel": 8}, seen())
    assert corrected.is_measured
    assert corrected.interval[1] == pytest.approx(1.25 * corrected.hours)
    twice = generated(V3 | {"tensor_parallel": 8}, seen(6000.0))
    start = 500 / 3600
    assert corrected.hours - start == pytest.approx(2 * (twice.hours - start))
    others = [seen(accelerator="H100"), seen(split=Split(1, 1, 8)), seen(model="org/other")]
    for ground in others:
        assert generated(V3 | {"tensor_parallel": 8}, ground).hours == predicted
    far = Seen(rows=50_000, validation=1000, prompt_tokens=300, answer_tokens=2100)
    assert not generated(V3 | {"tensor_parallel": 8}, seen(), far).is_measured


def test_on_cpus_only_a_run_tells_how_long_it_takes():
    job = a_job({"name": "t", "model": "/models/t"}, device="cpu")
    assert [one.hours for one in planned(job).stages] == [None, None, None]
    measured = Measured(
        "pilot",
        (Answered("/models/t", None, Split(), Load(300, 1000, 500), 100.0, 30.0),),
        Trained("microsoft/Phi-4-mini-instruct", None, 2, 50.0, 60.0),
        evaluate_s=120.0,
        evaluated_rows=1000,
    )
    found = planned(job, Ground(measured=measured))
    generate, train, evaluate = found.stages
    assert generate.hours == pytest.approx((51_000 * 1000 / 100 + 30) / 3600)
    assert train.hours == pytest.approx((50_000 * 0.9 * 1000 * 3 / 50 / 8 + 60) / 3600)
    assert evaluate.hours == pytest.approx(120 / 3600)
    assert "measured by pilot: generate, train, evaluate" in list(estimate_lines(found))[-1]


def test_what_nobody_says_is_assumed_by_task_and_said_to_be():
    work = work_of(a_job(prompts={"train": "a.jsonl", "limit": 500}), Seen())
    assert (work.rows, work.validation) == (500, 25)
    assert work.told == "500 prompts, 150 tokens each (assumed), answers of 400 (assumed)"
    said = work_of(a_job(), SEEN)
    assert said.told == "50,000 prompts, 300 tokens each, answers of 1,000"


def test_batches_of_an_api_take_up_to_a_day_each_round_at_their_price():
    prices = {"input": 30.0, "output": 60.0}
    live = generated(GPT | {"prices": prices})
    batched = generated(GPT | {"prices": prices, "batch": True})
    assert batched.usd == pytest.approx(live.usd / 2)
    assert batched.interval == (6.0, 24.0)
    assert "24 hours" in batched.bound
    cheap = generated(GPT | {"prices": prices | {"batch_discount": 0.75}, "batch": True})
    assert cheap.usd == pytest.approx(live.usd / 4)
    many = Seen(rows=250_000, validation=0, prompt_tokens=300, answer_tokens=1000)
    assert generated(GPT | {"batch": True}, seen=many).interval == (18.0, 72.0)
