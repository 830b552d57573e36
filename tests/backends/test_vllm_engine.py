"""Engine arguments as pure functions, and one real engine: a tiny DeepSeek-V3 (MLA and MoE) split
over two devices."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import save_tiny

from engine import pipeline
from engine.backends import vllm_settings
from engine.backends.vllm_engine import VllmEngine, _keep_arrays, split_logprobs
from engine.backends.vllm_settings import engine_arguments, engine_environment
from engine.errors import StageError
from engine.job.spec import CaptureSpec, VllmTeacherSpec
from engine.rows import codec
from engine.rows.records import SCHEMA_VERSION, Completion, completion_schema
from engine.rows.signal import read_signal, signal_of
from engine.rows.tables import file_metadata, read_tables, to_rows, to_table, write_parquet

QUICKSTART = Path(__file__).parents[2] / "jobs/quickstart"


def pieces(ids, logprobs):
    return [
        (np.array([row]), np.array([values])) for row, values in zip(ids, logprobs, strict=True)
    ]


def test_the_sampled_token_is_dropped_before_the_mass_is_summed():
    half, quarter = np.log(0.5), np.log(0.25)
    found = pieces([[7, 7, 3], [9, 1, 2]], [[half, half, quarter], [-9.0, quarter, quarter]])
    sampled, ids, logprobs, tail = split_logprobs(found, 2, 2)
    assert sampled == pytest.approx([half, -9.0])
    assert ids.tolist() == [7, 3, 1, 2]
    assert logprobs == pytest.approx([half, quarter, quarter, quarter])
    assert tail == pytest.approx([0.25, 0.5])


def test_a_signal_cut_short_is_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 3\) for 2 tokens"):
        split_logprobs(pieces([[1, 1, 1]], [[0.0, 0.0, 0.0]]), 2, 2)


def test_log_probabilities_of_a_long_answer_stay_few_arrays_in_order():
    states = {
        name: SimpleNamespace(logprobs_processor=SimpleNamespace(logprobs=[]))
        for name in ("a", "b")
    }
    handed_on = []
    processor = SimpleNamespace(request_states=states, process_outputs=handed_on.extend)
    _keep_arrays(processor)
    step = np.arange(3).reshape(1, 3)
    for number in range(600):
        names = ("a", "b", "gone") if number % 2 else ("a",)
        processor.process_outputs(
            [
                SimpleNamespace(request_id=name, new_logprobs=(step + number, -0.5 * step, None))
                for name in names
            ]
        )
    assert len(states["a"].logprobs_processor.logprobs) < 256
    assert split_logprobs(states["a"].logprobs_processor.logprobs, 600, 2)[1].tolist() == [
        n + k for n in range(600) for k in (1, 2)
    ]
    assert split_logprobs(states["b"].logprobs_processor.logprobs, 300, 2)[1].tolist() == [
        n + k for n in range(1, 600, 2) for k in (1, 2)
    ]
    assert {output.request_id: output.new_logprobs for output in handed_on} == {
        "a": None,
        "b": None,
        "gone": handed_on[-1].new_logprobs,
    }


def test_a_cpu_engine_gets_what_keeps_it_alive():
    arguments = engine_arguments(
        VllmTeacherSpec(name="t", model="m", max_model_len=16384).to_model(), "cpu", top_k=64
    )
    assert arguments["enable_chunked_prefill"] is False
    assert (arguments["max_num_batched_tokens"], arguments["max_num_seqs"]) == (16384, 128)
    assert arguments["kv_cache_memory_bytes"] == 2**30
    assert arguments["max_logprobs"] == 64
    assert arguments["logprobs_mode"] == "raw_logprobs"


@pytest.mark.parametrize(
    ("compiled", "found", "headers", "eager"),
    [
        (False, True, True, True),
        (True, True, True, False),
        (True, False, True, True),
        (True, True, False, True),
    ],
)
def test_a_cpu_engine_is_compiled_for_who_serves_long_where_there_is_a_compiler(
    compiled, found, headers, eager, tmp_path, monkeypatch
):
    compiler = tmp_path / "the-compiler"
    if found:
        compiler.touch(0o755)
    if headers:
        (tmp_path / "Python.h").touch()
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(vllm_settings.sysconfig, "get_path", lambda _: str(tmp_path))
    model = VllmTeacherSpec(name="t", model="m", max_model_len=64).to_model()
    assert engine_arguments(model, "cpu", compiled=compiled)["enforce_eager"] is eager
    assert "enforce_eager" not in engine_arguments(model, "gpu", compiled=compiled)


def test_a_gpu_engine_keeps_vllms_own_scheduling():
    arguments = engine_arguments(
        VllmTeacherSpec(name="t", model="m", tensor_parallel=8).to_model(), "gpu"
    )
    theirs = {
        "enforce_eager",
        "enable_chunked_prefill",
        "kv_cache_memory_bytes",
        "max_num_seqs",
        "max_num_batched_tokens",
    }
    assert not theirs & arguments.keys()
    assert (arguments["tensor_parallel_size"], arguments["distributed_executor_backend"]) == (
        8,
        "mp",
    )
    assert engine_environment(8, "gpu") == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "memory", "batch"),
    [("NVIDIA H200", 141, (1024, 16384)), ("NVIDIA A100-SXM4-80GB", 80, (256, 8192))],
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_an_engine_that_answers_offline_batches_as_llm_would_on_its_gpu(
    name, memory, batch, ranks, monkeypatch
):
    """vLLM resolves the arguments that our engine gets, for a GPU that is not here; what is given
    in the job stays."""
    from vllm.engine import arg_utils
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.llm_engine import LLMEngine

    class Pretended:
        get_device_total_memory = staticmethod(lambda: memory * 2**30)
        get_device_name = staticmethod(lambda: name)
        is_cpu = is_tpu = staticmethod(lambda: False)

        def __getattr__(self, field):
            return getattr(there, field)

    there = arg_utils.current_platform
    given = []

    def engine(cls, arguments, **more):
        given.append((arguments, more))
        raise RuntimeError("seen")

    monkeypatch.setattr(LLMEngine, "from_engine_args", classmethod(engine))
    monkeypatch.setattr(AsyncLLM, "from_engine_args", classmethod(engine))
    monkeypatch.setattr(arg_utils, "current_platform", Pretended())
    for own in ({}, {"max_num_seqs": 77, "engine_args": {"max_num_batched_tokens": 4096}}):
        teacher = VllmTeacherSpec(
            name="t", model=str(QUICKSTART / "teacher"), data_parallel=ranks, **own
        ).to_model()
        with pytest.raises(StageError, match="seen"):
            VllmEngine(teacher, CaptureSpec(), device="gpu")
        arguments, more = given.pop()
        arguments.data_parallel_size = (
            1  # a CPU build has no such backend; it is not part of the batch
        )
        arguments._set_default_max_num_seqs_and_batched_tokens_args(
            more["usage_context"],
            arguments.create_model_config(),
            SimpleNamespace(use_batched_dp_moe=False),
        )
        assert (arguments.max_num_seqs, arguments.max_num_batched_tokens) == (
            (77, 4096) if own else batch
        )


def test_a_replica_over_two_nodes_is_started_by_ray_and_one_inside_a_node_by_vllm():
    teacher = VllmTeacherSpec(
        name="t",
        model="m",
        tensor_parallel=8,
        pipeline_parallel=2,
        quantization="fp8",
        kv_cache_dtype="fp8",
    ).to_model()
    arguments = engine_arguments(teacher, "gpu", spanning=True)
    assert (arguments["tensor_parallel_size"], arguments["pipeline_parallel_size"]) == (8, 2)
    assert (
        arguments["distributed_executor_backend"],
        arguments["quantization"],
        arguments["kv_cache_dtype"],
    ) == ("ray", "fp8", "fp8")
    assert engine_arguments(teacher, "gpu")["distributed_executor_backend"] == "mp"
    assert "distributed_executor_backend" not in engine_arguments(
        VllmTeacherSpec(name="t", model="m").to_model(), "gpu"
    )


def test_data_parallel_ranks_and_experts_reach_the_engine_and_each_rank_gets_a_core():
    teacher = VllmTeacherSpec(name="t", model="m", data_parallel=4, expert_parallel=True).to_model()
    arguments = engine_arguments(teacher, "gpu")
    assert (arguments["data_parallel_size"], arguments["enable_expert_parallel"]) == (4, True)
    assert (
        len(
            engine_environment(teacher.engine.devices, "cpu")["VLLM_CPU_OMP_THREADS_BIND"].split(
                "|"
            )
        )
        == 4
    )


def test_free_engine_arguments_win():
    free = {"enforce_eager": False, "swap_space": 8}
    arguments = engine_arguments(
        VllmTeacherSpec(name="t", model="m", max_model_len=64, engine_args=free).to_model(), "cpu"
    )
    assert (arguments["enforce_eager"], arguments["swap_space"]) == (False, 8)


@pytest.mark.proof
def test_a_tiny_deepseek_v3_answers_at_tensor_parallel_two(
    fake_job, tmp_path, ray_cluster, tiny_deepseek
):
    teacher = {
        "name": "v3",
        "model": str(tiny_deepseek),
        "dtype": "bfloat16",
        "tensor_parallel": 2,
        "kv_cache_gib": 0.25,
    }
    job = fake_job(
        24,
        generate={
            "teachers": [teacher],
            "sampling": {"temperature": 0.7, "max_tokens": 12},
            "capture": {"top_k": 8},
        },
    )
    run = pipeline.run(job, tmp_path / "runs", until="generate")
    manifest = run.manifests["generate"]
    assert manifest.rows_out == 32
    assert set(manifest.info.status) <= {"ok", "truncated", "empty"}
    files = [run.folders["generate"] / name for name in manifest.files]
    assert file_metadata(files[0])["top_k"] == 8
    for row in (row for table in read_tables(files) for row in to_rows(table, Completion)):
        signal = signal_of(row.topk_ids, row.topk_logprobs, row.tail)
        assert signal.ids.shape == (len(row.token_ids), 8)
        assert len(row.token_logprobs) == len(row.token_ids) > 0
        mass = np.exp(signal.logprobs).sum(axis=1) + signal.tail
        assert mass == pytest.approx(np.ones(len(mass)), abs=5e-3)


@pytest.fixture(scope="session")
def parrot(tmp_path_factory):
    """A Llama that says the last token again, for ever: its layers add nothing, and it reads out
    what it embeds."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = save_tiny(tmp_path_factory.mktemp("parrot"), "Llama", num_key_value_heads=2)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    model.lm_head.weight.data = model.model.embed_tokens.weight.data.clone()
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("teachers", [1, pytest.param(2, marks=pytest.mark.proof)])
def test_an_answer_that_repeats_itself_ends_early_as_a_loop_unless_the_job_says_otherwise(
    fake_job, tmp_path, ray_cluster, parrot, teachers
):
    common = {"model": str(parrot), "dtype": "float32", "kv_cache_gib": 0.25}
    sampling = {"temperature": 0.0, "max_tokens": 300}
    both = [
        common | {"name": "stops", "sampling": sampling},
        common | {"name": "goes", "sampling": sampling | {"stop_loops": False}},
    ]
    run = pipeline.run(
        fake_job(4, generate={"teachers": both[:teachers]}), tmp_path / "runs", until="generate"
    )
    told = {teacher.name: teacher.status for teacher in run.manifests["generate"].info.teachers}
    expected = [("stops", {"loop": 12}), ("goes", {"truncated": 12})]
    assert told == dict(expected[:teachers])
    files = [run.folders["generate"] / name for name in run.manifests["generate"].files]
    for row in (row for table in read_tables(files) for row in to_rows(table, Completion)):
        assert len(set(row.token_ids)) == 1
        assert (
            32 <= row.completion_tokens <= 40
            if row.teacher == "stops"
            else row.completion_tokens == 300
        )


SPLIT = """
import json, sys
from transformers import AutoTokenizer
from engine.backends.vllm_answers import AnswerReader
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
tokenizer.add_tokens(["<think>", "</think>"])
texts = json.loads(sys.argv[2])
ids = tokenizer([text + tokenizer.eos_token for text in texts])["input_ids"]
for parser in ("deepseek_r1", None):
    said = AnswerReader(tokenizer, parser, None).read(ids, [[]] * len(ids))
    print(json.dumps([(one.text, one.reasoning) for one in said]))
calls = json.loads(sys.argv[3])
tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
ids = tokenizer([text + tokenizer.eos_token for text in calls])["input_ids"]
reader = AnswerReader(tokenizer, "deepseek_r1", "hermes", {tokenizer.eos_token_id})
said = reader.read([*ids, ids[0]], [[tool]] * len(ids) + [[]])
print(json.dumps([(one.text, one.reasoning, list(one.calls)) for one in said]))
try:
    AnswerReader(tokenizer, None, "hermess")
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.slow
def test_parsers_tell_reasoning_and_calls_from_answer():
    texts = [
        "<think>2 and 3</think>5",
        "2 and 3</think>5",
        "<think>2 and 3 and",
    ]  # whole, opened by the template, cut short
    calls = [
        '<think>a</think>Look.<tool_call>\n{"name": "f", "arguments": {"n": 1}}\n</tool_call>',
        '<think>a</think>Look.<tool_call>\n{"name": "f", "arguments": {"n": \n</tool_call>',
        "<think>a</think>plain",
    ]
    given = [json.dumps(texts), json.dumps(calls)]
    command = [sys.executable, "-c", SPLIT, str(QUICKSTART / "teacher"), *given]
    environment = os.environ | {"PYTHONPATH": str(QUICKSTART.parents[1])}
    said = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert said.returncode == 0, said.stderr[-4000:]
    *told, unknown = said.stdout.splitlines()[-4:]
    parsed, whole, called = map(json.loads, told)
    stripped = [(answer.strip(), reasoning.strip()) for answer, reasoning in parsed]
    assert stripped == [("5", "2 and 3"), ("5", "2 and 3"), ("", "2 and 3 and")]
    assert all(reasoning is None for _, reasoning in whole)
    assert [answer.replace(" ", "") for answer, _ in whole] == [
        text.replace(" ", "") for text in texts
    ]
    sound, broken, plain, unoffered = called
    assert (sound[0].strip(), sound[2]) == ("Look.", [{"name": "f", "arguments": {"n": 1}}])
    assert (broken[0].strip(), broken[2][0]["name"]) == ("Look.", "")
    assert broken[2][0]["arguments"].startswith("<tool_call>")
    assert (plain[0].strip(), plain[2]) == ("plain", [])
    assert "<tool_call>" in unoffered[0]
    assert unoffered[2] == []
    assert unknown.startswith("StageError: tool_parser=hermess cannot be used with this model")


@pytest.mark.slow
def test_an_engine_without_the_memory_that_it_wants_ends_the_job_in_its_own_words(
    fake_job, tmp_path, ray_cluster
):
    teacher = {
        "name": "big",
        "model": str(QUICKSTART / "teacher"),
        "dtype": "float32",
        "kv_cache_gib": 40_000,
    }
    with pytest.raises(
        StageError,
        match=r"^generate: model 'big' .*: the engine did not start: ValueError: Available memory",
    ):
        pipeline.run(
            fake_job(4, generate={"teachers": [teacher]}), tmp_path / "runs", until="generate"
        )


K = 16


@pytest.fixture(scope="session")
def captured(tmp_path_factory):
    """(vocabulary, 24 sampled answers with their prompts) of a float32 engine around the
    quickstart's teacher."""
    folder = tmp_path_factory.mktemp("captured")
    lines = (QUICKSTART / "data/validation.jsonl").read_text().splitlines()[:24]
    (folder / "questions").write_text(json.dumps([json.loads(line)["prompt"] for line in lines]))
    script = Path(__file__).parents[1] / "drivers/capture_answers.py"
    command = [
        sys.executable,
        str(script),
        str(QUICKSTART / "teacher"),
        str(folder / "questions"),
        str(K),
        str(folder / "answers"),
    ]
    environment = os.environ | {"PYTHONPATH": str(QUICKSTART.parents[1])}
    said = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert said.returncode == 0, said.stderr[-4000:]
    return pickle.loads((folder / "answers").read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "packed"])
def test_the_captured_signal_is_that_of_a_float32_forward_pass(captured, tmp_path, name):
    import torch
    from transformers import AutoModelForCausalLM

    vocab_size, answers = captured
    flat = [(answer.topk_ids, answer.topk_logprobs, answer.tail) for _, answer in answers]
    columns = [
        dict(zip(("topk_ids", "topk_logprobs", "tail"), signal, strict=True)) for signal in flat
    ]
    if name == "packed":
        columns = [{"topk_packed": data} for data in codec.pack_rows(flat, K, vocab_size, 8)]
    rows = [
        Completion(
            n,
            "t",
            0,
            "train",
            0,
            "ok",
            token_ids=answer.token_ids,
            token_logprobs=answer.token_logprobs,
            **columns[n],
        )
        for n, (_, answer) in enumerate(answers)
    ]
    metadata = {
        "schema_version": SCHEMA_VERSION,
        "codec": name,
        "top_k": K,
        "vocab_size": vocab_size,
        "packed_bits": 8,
    }
    write_parquet(to_table(rows, completion_schema(), metadata), tmp_path / "part.parquet")

    model = AutoModelForCausalLM.from_pretrained(QUICKSTART / "teacher", dtype=torch.float32).eval()
    read = list(read_signal(tmp_path / "part.parquet"))
    assert len(read) == len(answers)
    assert sum(len(row.token_ids) for row in read) > 300
    for (prompt, _), row in zip(answers, read, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *row.token_ids]])).logits[
                0, len(prompt) - 1 : -1
            ]
        expected = torch.log_softmax(logits, dim=-1).numpy()
        at_ids = np.take_along_axis(expected, row.ids.astype(np.int64), 1)
        sampled = np.take_along_axis(expected, row.token_ids[:, None].astype(np.int64), 1)[:, 0]
        span = np.ptp(at_ids, axis=1, keepdims=True)
        packing = 2 * span / 255 if name == "packed" else 0.0  # the widest step of 8 bits
        assert (abs(row.logprobs - at_ids) <= 1e-3 + 1e-3 * abs(at_ids) + packing).all()
        assert (abs(row.token_logprobs - sampled) <= 1e-3 + 1e-3 * abs(sampled)).all()
        assert (abs(row.tail - (1 - np.exp(at_ids).sum(axis=1))) <= 2e-3).all()
        assert (at_ids.min(axis=1) >= np.sort(expected, axis=1)[:, -K] - 1e-3).all(), (
            "an id that is not among the k most likely"
        )
