import ast
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from doubles.task_files import write_task_files

from engine.backends.deepspeed_settings import DEEPSPEED_DECIDED, DEEPSPEED_FREE, zero_fields
from engine.backends.library_names import fields_of
from engine.backends.vllm_settings import ENGINE_FIELDS
from engine.check.job import check_job, problems_of
from engine.errors import SpecError
from engine.job.spec import JobSpec

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "vocab_size": 100,
    "intermediate_size": 128,
    "max_position_embeddings": 1024,
    "torch_dtype": "float32",
}
WEIGHTS = (2).to_bytes(8, "little") + b"{}"


def a_model(folder, **config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    return folder


@pytest.fixture
def place(tmp_path):
    a_model(tmp_path / "teacher")
    a_model(tmp_path / "student")
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text(
            json.dumps({"prompt": name, "reference": "2"}) + "\n"
        )
    return tmp_path


def a_job(place, teacher=(), train=(), **blocks):
    return JobSpec(
        **{
            "name": "j",
            "task": "math",
            "prompts": {"train": f"{place}/train.jsonl", "validation": f"{place}/validation.jsonl"},
            "generate": {
                "teachers": [{"name": "t", "model": f"{place}/teacher"} | dict(teacher)],
                "sampling": {"max_tokens": 64},
            },
            "train": {"student": f"{place}/student", "block_tokens": 256} | dict(train),
        }
        | blocks
    )


def the_problem(job):
    found = problems_of(job)
    assert len(found) == 1, found
    return found[0]


def test_a_good_job_has_no_problems(place):
    assert problems_of(a_job(place)) == []
    check_job(a_job(place))


def test_check_raises_all_problems_one_per_line(place):
    (place / "train.jsonl").unlink()
    (place / "student" / "config.json").unlink()
    with pytest.raises(SpecError) as caught:
        check_job(a_job(place))
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "train.jsonl" in lines[0]
    assert "config.json" in lines[1]


@pytest.mark.parametrize("content", [None, ""])
def test_a_missing_or_empty_prompt_file_is_found(place, content):
    (place / "train.jsonl").unlink()
    if content is not None:
        (place / "train.jsonl").write_text(content)
    assert f"{place}/train.jsonl" in the_problem(a_job(place))


@pytest.mark.parametrize("content", [None, b"", b'{"id": 7}\n'])
def test_test_data_for_answers_without_a_readable_text_is_found_before_it_is_paid(place, content):
    file = place / "leaked.jsonl"
    if content is not None:
        file.write_bytes(content)
    job = a_job(place, curate={"decontaminate": {"against": [str(file)]}})
    assert "curate.decontaminate.against" in the_problem(job)
    file.write_text('{"id": 7, "question": "How many?"}\n')
    assert problems_of(job) == []


def test_a_folder_without_weights_is_found_and_a_random_student_needs_none(place):
    (place / "student" / "model.safetensors").unlink()
    assert the_problem(a_job(place)).endswith(
        "/student has no weights (*.safetensors); train.init: random needs none"
    )
    assert problems_of(a_job(place, train={"init": "random"})) == []


def test_pickled_weights_are_refused(place):
    (place / "teacher" / "model.safetensors").rename(place / "teacher" / "pytorch_model.bin")
    assert "only pickled weights (pytorch_model.bin)" in the_problem(a_job(place))


def test_remote_code_is_refused_unless_trusted(place):
    auto_map = {
        "AutoConfig": "configuration_mine.MineConfig",
        "AutoModelForCausalLM": "modeling_mine.MineForCausalLM",
    }
    (place / "teacher" / "config.json").write_text(
        json.dumps(CONFIG | {"model_type": "mine", "auto_map": auto_map})
    )
    assert "set trust_remote_code: true" in the_problem(a_job(place))
    assert problems_of(a_job(place, teacher={"trust_remote_code": True})) == []
    (place / "student" / "config.json").write_text(json.dumps(CONFIG | {"auto_map": auto_map}))
    assert "choose a student that needs none" in the_problem(
        a_job(place, teacher={"trust_remote_code": True})
    )


def test_code_that_transformers_has_built_in_is_not_asked_for(place):
    auto_map = {"AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM"}
    (place / "teacher" / "config.json").write_text(
        json.dumps(CONFIG | {"model_type": "deepseek_v3", "auto_map": auto_map})
    )
    assert problems_of(a_job(place)) == []


def test_a_student_without_a_chat_template_is_found_before_an_api_is_paid(place, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "k")
    api = {"kind": "openai", "model": "m", "api_key_env": "SOME_KEY"}
    assert "train.student: " in the_problem(a_job(place, api))
    assert "has no chat template" in the_problem(a_job(place, api))
    assert "train.tokenizer: " in the_problem(a_job(place, api, {"tokenizer": f"{place}/teacher"}))
    assert problems_of(a_job(place)) == [], "a teacher's own token ids need none"
    (place / "student/tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert problems_of(a_job(place, api)) == []
    (place / "student/tokenizer_config.json").write_text("{}")
    (place / "student/chat_template.jinja").write_text("{{ messages }}")
    assert problems_of(a_job(place, api)) == []


def test_a_missing_tokenizer_is_found(place):
    (place / "student" / "tokenizer.json").unlink()
    assert "has no tokenizer" in the_problem(a_job(place))
    assert problems_of(a_job(place, train={"tokenizer": f"{place}/teacher"})) == []
    assert "train.tokenizer: there is no folder" in the_problem(
        a_job(place, train={"tokenizer": f"{place}/nowhere"})
    )


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("{place}/nowhere", "there is no folder"),
        ("{place}/train.jsonl", "there is no folder"),
        ("jobs/x/teacher", "no hub name"),
        ("org/na me", "no hub name"),
    ],
)
def test_a_model_that_is_neither_folder_nor_hub_name_is_found(place, model, part):
    assert part in the_problem(a_job(place, teacher={"model": model.format(place=place)}))


def test_a_hub_name_is_believed(place):
    assert problems_of(a_job(place, teacher={"model": "org/teacher"})) == []


def test_a_broken_config_is_found(place):
    (place / "teacher" / "config.json").write_text("{")
    assert the_problem(a_job(place)).endswith(
        "config.json is missing or not valid JSON; the folder must be a Hugging Face model"
    )


@pytest.mark.parametrize(
    "tensor_parallel", [5, 8, 3]
)  # 12 heads; 3 divides them, but not the 4 KV heads
def test_a_split_that_does_not_fit_the_heads_is_found(place, tensor_parallel):
    assert the_problem(a_job(place, teacher={"tensor_parallel": tensor_parallel})) == (
        f"generate.teachers.0.tensor_parallel={tensor_parallel} cannot split the model's 12"
        " attention heads"
        " (4 KV heads); choose one of 1, 2, 4, 12"
    )


def test_a_split_of_a_known_hub_model_is_checked_without_its_files(place):
    assert "128 attention heads" in the_problem(
        a_job(place, teacher={"model": "deepseek-ai/DeepSeek-V3", "tensor_parallel": 6})
    )
    assert "serve.tensor_parallel=7" in the_problem(a_job(place, serve={"tensor_parallel": 7}))


@pytest.mark.parametrize(
    ("teacher", "problem"),
    [
        (
            {"pipeline_parallel": 3},
            "generate.teachers.0.pipeline_parallel=3, but the model has 2 layers; choose at most 2",
        ),
        (
            {"expert_parallel": True},
            "generate.teachers.0.expert_parallel: the model has no experts to spread; leave it out",
        ),
        (
            {
                "model": "deepseek-ai/DeepSeek-V3",
                "tensor_parallel": 128,
                "data_parallel": 4,
                "expert_parallel": True,
            },
            "generate.teachers.0.expert_parallel spreads 256 experts over 512 devices; lower"
            " tensor_parallel or data_parallel",
        ),
    ],
)
def test_layers_and_experts_that_cannot_be_split_are_found(place, teacher, problem):
    assert the_problem(a_job(place, teacher)) == problem


@pytest.mark.parametrize("name", ["pipeline_parallel", "data_parallel"])
def test_pipelines_and_data_parallel_ranks_want_gpus(place, name):
    assert the_problem(a_job(place, {name: 2}, device="cpu")) == (
        f"generate.teachers.0.{name}=2, but vLLM's CPU engine dies of it (0.31); set {name}: 1, or"
        " device: gpu"
    )
    assert problems_of(a_job(place, {name: 2})) == []


@pytest.mark.parametrize(
    ("teacher", "problem"),
    [
        (
            {"engine_args": {"enforce_eagr": True}},
            "engine_args.enforce_eagr: vLLM has no such argument; did you mean enforce_eager?",
        ),
        (
            {"engine_args": {"tensor_parallel_size": 2}},
            "engine_args.tensor_parallel_size has a place of its own; set tensor_parallel",
        ),
        (
            {"engine_args": {"logprobs_mode": "x"}},
            "engine_args.logprobs_mode has a place of its own; the signal is always raw"
            " log-probabilities",
        ),
        ({"quantization": "fp9"}, "quantization: vLLM has no fp9; did you mean fp8?"),
        (
            {"kv_cache_dtype": "fp8_e4m4"},
            "kv_cache_dtype: vLLM has no fp8_e4m4; did you mean fp8_e4m3?",
        ),
        (
            {"quantization": "zzz"},
            "quantization: vLLM has no zzz; it has auto_awq, auto_gptq, awq,",
        ),
    ],
)
def test_names_that_vllm_does_not_know_are_found_with_the_nearest(place, teacher, problem):
    assert the_problem(a_job(place, teacher)).startswith(f"generate.teachers.0.{problem}")


def test_names_that_vllm_knows_are_no_problem(place):
    teacher = {
        "quantization": "fp8",
        "kv_cache_dtype": "fp8_e5m2",
        "engine_args": {"enforce_eager": True, "enable_log_requests": False},
    }
    assert problems_of(a_job(place, teacher)) == []


def test_every_engine_argument_with_a_field_of_its_own_is_one_of_vllms():
    vllm = Path(importlib.util.find_spec("vllm").submodule_search_locations[0])
    assert ENGINE_FIELDS.keys() <= set(fields_of(vllm / "engine/arg_utils.py", "EngineArgs"))


def test_a_length_beyond_the_model_is_found(place):
    assert "has 1024 positions; choose at most 1024" in the_problem(
        a_job(place, teacher={"max_model_len": 2048})
    )
    assert "serve.max_model_len=2048" in the_problem(a_job(place, serve={"max_model_len": 2048}))


def a_judge(place, **changes):
    (place / "rubric.txt").write_text("Right is better.")
    teacher = {"name": "j", "model": f"{place}/teacher"}
    return {"judge": {"teacher": teacher, "rubric": f"{place}/rubric.txt"} | changes}


def test_a_good_judge_has_no_problems(place):
    assert problems_of(a_job(place, evaluate=a_judge(place))) == []


def test_a_rubric_that_is_missing_is_named_with_the_remedy(place):
    found = the_problem(a_job(place, evaluate=a_judge(place, rubric=f"{place}/no.txt")))
    assert found.startswith(f"evaluate.judge.rubric: there is no file {place}/no.txt; write what")
    assert "jobs/rubrics/helpful.txt" in found


@pytest.mark.parametrize("named", ["student", "teacher/../student"])
def test_a_judge_that_is_the_student_is_refused(place, named):
    judge = a_judge(place, teacher={"name": "j", "model": f"{place}/{named}"})
    found = the_problem(a_job(place, evaluate=judge))
    assert found.startswith(f"evaluate.judge.teacher.model={place}/{named} is train.student")


def test_a_judge_behind_an_api_is_no_student_either(place, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    api = {"kind": "openai", "name": "j", "model": "org/small", "api_key_env": "MY_KEY"}
    job = a_job(place, train={"student": "org/small"}, evaluate=a_judge(place, teacher=api))
    assert "is train.student" in the_problem(job)


def test_the_weights_of_a_judge_are_looked_at_like_a_teachers(place):
    judge = a_judge(place, teacher={"name": "j", "model": f"{place}/teacher", "tensor_parallel": 5})
    found = the_problem(a_job(place, evaluate=judge))
    assert found.startswith("evaluate.judge.teacher.tensor_parallel=5 cannot split")


def test_the_key_of_a_judge_is_wanted_where_evaluate_runs(place, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    api = {"kind": "openai", "name": "j", "model": "gpt-4", "api_key_env": "MY_KEY"}
    job = a_job(place, evaluate=a_judge(place, teacher=api))
    with pytest.raises(SpecError, match=r"^evaluate\.judge\.teacher\.api_key_env: .*MY_KEY is not"):
        check_job(job)
    check_job(job, running=("generate",))


def test_a_key_that_is_named_but_not_set_is_found(place, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    (place / "student/chat_template.jinja").write_text("{{ messages }}")
    teacher = {"kind": "openai", "model": "gpt-4", "api_key_env": "MY_KEY"}
    with pytest.raises(
        SpecError,
        match=r"^generate\.teachers\.0\.api_key_env: the environment variable MY_KEY is not set",
    ):
        check_job(a_job(place, teacher=teacher))
    with pytest.raises(SpecError, match=r"^serve\.api_key_env: the environment variable MY_KEY"):
        check_job(a_job(place, serve={"api_key_env": "MY_KEY"}))
    check_job(
        a_job(place, teacher=teacher, serve={"api_key_env": "MY_KEY"}), running=()
    )  # its work is done, or will be elsewhere
    monkeypatch.setenv("MY_KEY", "sk-secret")
    check_job(a_job(place, teacher=teacher, serve={"api_key_env": "MY_KEY"}))


def test_checking_and_planning_import_no_heavy_library():
    root = Path(__file__).parents[2]
    code = """
import sys
from pathlib import Path
from engine.job.jobfile import load_job
from engine.machines.planner import plan_devices
from engine.check.job import problems_of
job = load_job(Path("jobs/gpt-4-to-phi-3.5-mini.yaml"))
plan_devices(job).lines(), problems_of(job)
print(sorted({"torch", "ray", "vllm", "transformers", "deepspeed"} & sys.modules.keys()))
"""
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert out.stdout.strip() == "[]"


def test_the_work_of_a_check_takes_a_fraction_of_a_second(place):
    """Of this process, however busy the machine is."""
    problems_of(a_job(place))  # imports
    started = time.process_time()
    engine = {"quantization": "fp8", "engine_args": {"enforce_eager": True}}
    problems_of(
        a_job(place, teacher={"model": "deepseek-ai/DeepSeek-V3", "tensor_parallel": 8} | engine)
    )
    assert time.process_time() - started < 0.5


def test_more_captured_tokens_than_the_vocabulary_and_longer_blocks_than_positions_are_found(place):
    assert "generate.capture.top_k=1000, but the model has" in the_problem(
        a_job(place, **a_capture(place, 1000))
    )
    assert "train.block_tokens=4096, but the model has 1024 positions" in the_problem(
        a_job(place, train={"block_tokens": 4096})
    )


def a_capture(place, top_k):
    teacher = {"name": "t", "model": f"{place}/teacher"}
    return {
        "generate": {
            "teachers": [teacher],
            "sampling": {"max_tokens": 64},
            "capture": {"top_k": top_k},
        }
    }


WHITE_BOX = {"loss": "forward_kl"}


def a_white_box_job(place, config=(), **train):
    a_model(place / "white", **dict(config))
    return a_job(place, train=WHITE_BOX | {"teacher": {"model": f"{place}/white"}} | train)


def test_a_live_teacher_of_the_students_vocabulary_is_no_problem(place):
    layers = {
        "hidden": {"layers": [[0, 0], [2, 4]]},
        "attention_transfer": {"layers": [[1, 1], [2, 4]]},
    }
    assert problems_of(a_white_box_job(place, {"num_hidden_layers": 4}, **layers)) == []


def test_vocabularies_padded_otherwise_are_an_error_with_the_stored_top_k_as_the_remedy(place):
    a_model(place / "padded", vocab_size=151_936)
    found = the_problem(a_white_box_job(place, {"vocab_size": 152_064}, student=f"{place}/padded"))
    assert found.startswith(
        "train.teacher.model has 152,064 tokens and train.student 151,936, but loss=forward_kl"
        " compares"
    )
    assert "learn from a stored top-k in place of a live teacher" in found


def test_hidden_states_alone_may_have_another_vocabulary(place):
    assert (
        problems_of(
            a_white_box_job(place, {"vocab_size": 7}, loss="sft", hidden={"layers": [[1, 1]]})
        )
        == []
    )


@pytest.mark.parametrize(
    ("term", "pair", "problem"),
    [
        (
            "hidden",
            [3, 1],
            "train.hidden.layers: [3, 1] names layer 3 of the student, which has 0 to 2",
        ),
        (
            "hidden",
            [2, 5],
            "train.hidden.layers: [2, 5] names layer 5 of the teacher, which has 0 to 4",
        ),
        (
            "hidden",
            [-1, 1],
            "train.hidden.layers: [-1, 1] names layer -1 of the student, which has 0 to 2",
        ),
        (
            "attention_transfer",
            [1, 0],
            "train.attention_transfer.layers: [1, 0] names layer 0 of the teacher, which has 1 to"
            " 4",
        ),
    ],
)
def test_layers_that_do_not_exist_are_found(place, term, pair, problem):
    assert (
        the_problem(
            a_white_box_job(place, {"num_hidden_layers": 4}, **{term: {"layers": [[1, 1], pair]}})
        )
        == problem
    )


def test_a_live_teacher_needs_weights_and_no_code_of_its_own(place):
    job = a_white_box_job(place)
    (place / "white" / "model.safetensors").unlink()
    assert the_problem(job).endswith(
        "/white has no weights (*.safetensors); is the download complete?"
    )
    a_model(place / "coded", auto_map={"AutoModelForCausalLM": "modeling_mine.MineForCausalLM"})
    assert "choose a teacher that needs none" in the_problem(
        a_job(place, train=WHITE_BOX | {"teacher": {"model": f"{place}/coded"}})
    )


@pytest.mark.parametrize(
    ("train", "package", "what"),
    [
        ({"trackers": ["tensorboard", "wandb"]}, "wandb", "train.trackers: wandb"),
        ({"trackers": ["mlflow"]}, "mlflow", "train.trackers: mlflow"),
        ({"attention": "flash_attention_2"}, "flash_attn", "train.attention=flash_attention_2"),
        ({"lora": {"quantize": "nf4"}}, "bitsandbytes", "train.lora.quantize=nf4"),
    ],
)
def test_a_package_that_is_not_installed_is_found(place, train, package, what, monkeypatch):
    with monkeypatch.context() as without:
        without.setitem(sys.modules, package, None)
        found = the_problem(a_job(place, train=train))
    assert (
        found
        == f"{what} needs a package that is not installed: pip install {package.replace('_', '-')}"
    )
    (place / f"{package}.py").write_text("raise AssertionError('a check imports nothing')")
    monkeypatch.syspath_prepend(place)
    assert problems_of(a_job(place, train=train)) == []


def test_flash_attention_wants_gpus(place):
    for attention in ("flash_attention_2", "flex_attention"):
        found = the_problem(a_job(place, train={"attention": attention}, device="cpu"))
        assert (
            found == f"train.attention={attention} wants GPUs; set attention: sdpa, or device: gpu"
        )


@pytest.mark.parametrize(
    "train", [{"cache_dir": "scratch"}, {"nvme_path": "nvme", "offload": "nvme", "zero_stage": 3}]
)
def test_folders_on_each_node_are_absolute(place, train):
    name = next(iter(train))
    assert (
        the_problem(a_job(place, train=train))
        == f"train.{name}={train[name]} is a folder on each node; give an absolute path"
    )
    assert problems_of(a_job(place, train=train | {name: "/local/disk"})) == []


@pytest.mark.parametrize("train", [{"export": "best"}, {"early_stopping": 3}])
def test_what_goes_by_the_validation_loss_wants_validation_prompts(place, train):
    prompts = {"train": f"{place}/train.jsonl", "validation_fraction": 0.0}
    assert "but there are no validation prompts" in the_problem(
        a_job(place, train=train, prompts=prompts)
    )
    assert problems_of(a_job(place, train=train)) == []


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"optimizer": {"type": "Adam"}},
            "optimizer is decided elsewhere; the optimizer is torch's AdamW: set"
            " train.learning_rate",
        ),
        (
            {"gradient_clipping": 1.0},
            "gradient_clipping is decided elsewhere; set train.max_grad_norm",
        ),
        ({"train_batch_size": 8}, "train_batch_size is decided elsewhere; set train.global_batch"),
        ({"bf16": {"enabled": True}}, "bf16 is decided elsewhere; set train.precision"),
        (
            {"zero_optimization": {"stage": 3}},
            "zero_optimization.stage is decided elsewhere; set train.zero_stage",
        ),
        (
            {"zero_optimization": {"offload_param": {"device": "cpu"}}},
            "zero_optimization.offload_param.device is decided elsewhere; set train",
        ),
        (
            {"wall_clock_brakedown": True},
            "wall_clock_brakedown: there is no such setting here; did you mean"
            " wall_clock_breakdown?",
        ),
        (
            {"zero_optimization": {"overlap_com": 1}},
            "zero_optimization.overlap_com: DeepSpeed has no such setting; did you mean"
            " overlap_comm",
        ),
        ({"zero_optimization": 2}, "zero_optimization=2; give a map"),
        (
            {"zero_optimization": {"offload_optimizer": "cpu"}},
            "zero_optimization.offload_optimizer=cpu; give a map",
        ),
        (
            {"communication_data_type": "half"},
            "communication_data_type=half; choose one of fp16, bf16",
        ),
        ({"steps_per_print": 1}, "steps_per_print is decided elsewhere; progress"),
        (
            {"prescale_gradients": True},
            "prescale_gradients is decided elsewhere; losses are averaged",
        ),
        ({"compile": {"deepcompile": True}}, "compile: there is no such setting here"),
        (
            {"zero_optimization": {"offload_optimizer": {"ratio": 0.5}}},
            "zero_optimization.offload_optimizer tunes an offload that the job",
        ),
    ],
)
def test_a_deepspeed_map_that_contradicts_the_block_or_names_nothing_is_found(
    place, settings, problem
):
    assert the_problem(a_job(place, train={"deepspeed": settings})).startswith(
        f"train.deepspeed.{problem}"
    )


def test_overlapping_communication_wants_sharded_gradients(place):
    job = a_job(
        place, train={"zero_stage": 1, "deepspeed": {"zero_optimization": {"overlap_comm": True}}}
    )
    assert "overlap_comm wants train.zero_stage: 2 or 3, given 1" in the_problem(job)


LONG_ROPE = {"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 512}


@pytest.mark.parametrize(
    ("block_tokens", "lengths", "found"),
    [
        (
            256,
            {},
            [
                "evaluate.max_model_len, not given, is the model's 1024",
                "serve.max_model_len, not given",
            ],
        ),
        (256, {"evaluate": 512, "serve": 512}, []),
        (1024, {}, []),
        (1024, {"evaluate": 512}, ["evaluate.max_model_len=512, and train.block_tokens=1024"]),
    ],
)
def test_a_long_rope_student_is_asked_with_the_rotation_of_its_training(
    place, block_tokens, lengths, found
):
    a_model(place / "long", **LONG_ROPE)
    job = a_job(
        place,
        train={"student": f"{place}/long", "block_tokens": block_tokens},
        **{name: {"max_model_len": length} for name, length in lengths.items()},
    )
    assert [
        problem.startswith(start) for problem, start in zip(problems_of(job), found, strict=True)
    ] == [True] * len(found)


def test_a_stored_signal_wants_the_students_tokenizer(place):
    for name, token in (("teacher", "a"), ("student", "b")):
        (place / name / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {token: 0}}}))
    capture = {
        "teachers": [{"name": "t", "model": f"{place}/teacher"}],
        "sampling": {"max_tokens": 64},
        "capture": {"top_k": 16},
    }
    problem = the_problem(a_job(place, train={"loss": "forward_kl"}, generate=capture))
    assert (
        "generate.teachers.0.model (1 tokens) has another tokenizer than train.student (1); set"
        " train.loss: uld" in problem
    )
    for loss in ("uld", "sft"):
        assert problems_of(a_job(place, train={"loss": loss}, generate=capture)) == []
    assert (
        problems_of(
            a_job(
                place,
                train={"loss": "forward_kl", "tokenizer": f"{place}/teacher"},
                generate=capture,
            )
        )
        == []
    )


def test_uld_compares_no_more_tokens_than_the_student_has(place):
    a_model(place / "small", vocab_size=50)
    capture = {
        "teachers": [{"name": "t", "model": f"{place}/teacher"}],
        "sampling": {"max_tokens": 64},
        "capture": {"top_k": 64},
    }
    assert "top_k=64, but train.student has 50 tokens" in the_problem(
        a_job(place, train={"student": f"{place}/small", "loss": "uld"}, generate=capture)
    )


def test_free_deepspeed_settings_are_no_problem(place):
    zero = {
        "overlap_comm": True,
        "reduce_bucket_size": 5e7,
        "stage3_max_live_parameters": 1e8,
        "offload_optimizer": {"buffer_count": 5},
    }
    assert (
        problems_of(
            a_job(
                place,
                train={
                    "offload": "cpu",
                    "deepspeed": {"wall_clock_breakdown": True, "zero_optimization": zero},
                },
            )
        )
        == []
    )


def test_every_free_or_decided_deepspeed_setting_is_one_of_deepspeeds():
    folder = Path(importlib.util.find_spec("deepspeed").submodule_search_locations[0])
    files = [*folder.glob("*/*.py"), *folder.glob("*/*/*.py"), *folder.glob("*.py")]
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    words = {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    top = {name for name in DEEPSPEED_DECIDED if "." not in name}
    assert top | set(DEEPSPEED_FREE) <= words
    assert {name.split(".")[1] for name in DEEPSPEED_DECIDED if "." in name} <= set(zero_fields())


def test_lm_eval_is_wanted_where_evaluate_will_run_and_its_files_always(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    files = write_task_files(place / "tasks")
    job = a_job(place, evaluate={"lm_eval": files})
    check_job(job, running=("generate", "loadtest"))
    with pytest.raises(SpecError, match=r"not installed here; pip install 'distill-engine\[lm-"):
        check_job(job)
    gone = a_job(place, evaluate={"lm_eval": [f"{place}/none.yaml"]})
    assert the_problem(gone) == f"evaluate.lm_eval.0: {place}/none.yaml: there is no such file"
    check_job(a_job(place))


def test_lm_evals_endpoint_wants_the_keys_of_serve(place, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    files = write_task_files(place / "tasks")
    keyed = {"serve": {"api_key_env": "MY_KEY"}}
    check_job(a_job(place, **keyed), running=("evaluate",))
    with pytest.raises(SpecError, match=r"^serve\.api_key_env: .*MY_KEY is not set"):
        check_job(a_job(place, evaluate={"lm_eval": files}, **keyed), running=("evaluate",))


def test_a_student_of_quantised_weights_is_refused_by_folder_and_by_hub_name(place):
    (place / "student" / "config.json").write_text(
        json.dumps(CONFIG | {"quantization_config": {"quant_method": "fp8"}})
    )
    assert "quantised as fp8, which transformers cannot train" in the_problem(a_job(place))
    assert problems_of(a_job(place, train={"init": "random"})) == []
    of_the_hub = a_job(place, train={"student": "openai/gpt-oss-20b"})
    assert "quantised as mxfp4" in the_problem(of_the_hub)
    assert problems_of(a_job(place, train={"student": "unsloth/gpt-oss-20b-BF16"})) == []


def test_an_attention_that_leaves_sinks_out_or_sees_across_examples_is_refused(place):
    student = {"student": "unsloth/gpt-oss-20b-BF16"}
    for attention in ("sdpa", "eager"):
        job = a_job(place, train=student | {"attention": attention})
        assert "set attention: auto" in the_problem(job)
    assert problems_of(a_job(place, train=student)) == []
