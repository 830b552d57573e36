"""What can be known to fail before anything runs: the files, folders, layouts and keys that a job names.

`distill check` must answer within a second, so nothing here imports torch, ray, vllm or transformers, opens weights or
asks the network. A hub name is believed unless it cannot be one.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
import json
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from engine.errors import SpecError
from engine.job.spec import API_KINDS, JobSpec, TeacherSpec
from engine.machines.architectures import Architecture, facts, load_config

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_PICKLED = (".bin", ".pt", ".pth")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def check(job: JobSpec, running: Collection[str] = ("generate", "loadtest")) -> None:
    """SpecError with all problems of the job, one per line. A missing API key is one where a stage that wants it is `running` here."""
    if found := [*problems(job), *_missing_keys(job, running)]:
        raise SpecError("\n".join(found))


def problems(job: JobSpec) -> list[str]:
    """Everything that is wrong with the files and machines' settings that the job names, one sentence each."""
    from engine.stages.prompts import head_problems  # here: a job without problems elsewhere need not wait for it

    training = (_student_problems, _template_problems, _white_box_problems, _signal_problems, _training_problems, _deepspeed_problems)
    return [*head_problems(job.prompts), *_teacher_problems(job), *(found for part in training for found in part(job))]


def source_lines(job: JobSpec) -> list[str]:
    """What the job's prompt files hold, a sentence each."""
    from engine.stages.prompts import head_lines

    return head_lines(job.prompts, job.task, [job.generate.route_by] if job.generate.route_by else [])


def _teacher_problems(job: JobSpec) -> Iterator[str]:
    for number, teacher in enumerate(job.generate.teachers):
        if teacher.kind == "vllm":
            field, shape = f"generate.teachers.{number}", facts(teacher.model)
            yield from _model_problems(f"{field}.model", teacher.model, trust=teacher.trust_remote_code)
            yield from _tokenizer_problems(f"{field}.model", teacher.model)
            yield from _layout_problems(field, shape, teacher.tensor_parallel, teacher.max_model_len)
            yield from _split_problems(field, shape, teacher, job)
            yield from _engine_problems(field, teacher)
            if shape and job.generate.capture.top_k > shape.vocab:
                yield f"generate.capture.top_k={job.generate.capture.top_k}, but the model has {shape.vocab} tokens; choose fewer"


def _student_problems(job: JobSpec) -> Iterator[str]:
    student, tokenizer, shape = job.train.student, job.train.tokenizer, facts(job.train.student)
    yield from _model_problems("train.student", student, weights=job.train.init == "pretrained")
    if tokenizer:
        yield from _name_problems("train.tokenizer", tokenizer)
    yield from _tokenizer_problems("train.tokenizer" if tokenizer else "train.student", tokenizer or student)
    if shape and 0 < shape.max_context < job.train.block_tokens:
        yield f"train.block_tokens={job.train.block_tokens}, but the model has {shape.max_context} positions; choose at most that many"
    for name in ("evaluate", "serve"):
        block = getattr(job, name)
        yield from _layout_problems(name, shape, block.tensor_parallel, block.max_model_len)
        if shape and shape.short_context and (name == "evaluate" or job.loadtest.models):
            yield from _rope_problems(name, shape, job.train.block_tokens, block.max_model_len)


def _rope_problems(name: str, shape: Architecture, block_tokens: int, max_model_len: int | None) -> Iterator[str]:
    """A long-rope student must be asked with the rotation that it was trained with (stages/train/rope.py)."""
    short, longest = shape.short_context, max_model_len or shape.max_context
    if (block_tokens > short) != (longest > short):
        given = f"{name}.max_model_len={max_model_len}" if max_model_len else f"{name}.max_model_len, not given, is the model's {longest}"
        yield (f"{given}, and train.block_tokens={block_tokens}: the student rotates by one set of factors up to {short} positions and by"
               f" another beyond, so training and {name} would not see the same model; set both to at most {short}, or both above it")


def _white_box_problems(job: JobSpec) -> Iterator[str]:
    """A live teacher must be a model that is here, with the student's vocabulary where distributions are compared, and with the layers."""
    train = job.train
    if not train.teacher:
        return
    yield from _model_problems("train.teacher.model", train.teacher.model)
    student, teacher = facts(train.student), facts(train.teacher.model)
    if student and teacher and train.loss != "sft" and student.vocab != teacher.vocab:
        yield (f"train.teacher.model has {teacher.vocab:,} tokens and train.student {student.vocab:,}, but loss={train.loss} compares"
               " whole distributions entry by entry; learn from a stored top-k in place of a live teacher (leave train.teacher out, set"
               " generate.capture.top_k), or take models of one vocabulary")
    for name, first in (("hidden", 0), ("attention_transfer", 1)):  # layer 0 is the embeddings, which have no attention
        for pair in getattr(train, name).layers if getattr(train, name) else ():
            for whose, shape, layer in zip(("student", "teacher"), (student, teacher), pair, strict=True):
                if layer < first or (shape and layer > shape.layers):
                    last = shape.layers if shape else "its last"
                    yield f"train.{name}.layers: {pair} names layer {layer} of the {whose}, which has {first} to {last}"


def _signal_problems(job: JobSpec) -> Iterator[str]:
    """A stored distribution is over the teacher's tokens: only `uld` compares it with a student of other ones."""
    train, shape = job.train, facts(job.train.student)
    if train.loss == "uld" and shape and job.generate.capture.top_k > shape.vocab:
        yield f"generate.capture.top_k={job.generate.capture.top_k}, but train.student has {shape.vocab} tokens for uld; choose fewer"
    if train.loss in ("sft", "uld") or train.teacher or (ours := _vocabulary(train.tokenizer or train.student)) is None:
        return
    for number, teacher in enumerate(job.generate.teachers):
        if teacher.kind == "vllm" and (theirs := _vocabulary(teacher.model)) is not None and theirs != ours:
            whose = "train.tokenizer" if train.tokenizer else "train.student"
            yield (f"train.loss={train.loss} compares distributions over the same tokens, but generate.teachers.{number}.model"
                   f" ({len(theirs):,} tokens) has another tokenizer than {whose} ({len(ours):,}); set train.loss: uld, which aligns"
                   " tokenizers, or sft, or take a student with the teacher's")


def _vocabulary(model: str) -> Any:
    """Tokens of a local tokenizer.json without those added to it; None where it does not tell."""
    try:
        return json.loads((Path(model) / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _training_problems(job: JobSpec) -> Iterator[str]:
    """Settings that need a package, a GPU or data that are not there, and folders that each node would understand otherwise."""
    from engine.stages.prompts import holds_unlearnt

    train = job.train
    if train.learn_turns == "all" and holds_unlearnt(job.prompts):
        yield "train.learn_turns: all would learn answers that the prompt files give weight 0; set learn_turns: last"
    if train.attention in ("flash_attention_2", "flex_attention") and job.device == "cpu":
        yield f"train.attention={train.attention} wants GPUs; set attention: sdpa, or device: gpu"
    wanted = {f"train.trackers: {name}": name for name in train.trackers}
    wanted |= {"train.attention=flash_attention_2": "flash_attn"} if train.attention == "flash_attention_2" and job.device == "gpu" else {}
    wanted |= {"train.lora.quantize=nf4": "bitsandbytes"} if train.lora and train.lora.quantize == "nf4" else {}
    for what, package in wanted.items():
        if importlib.util.find_spec(package) is None:
            yield f"{what} needs a package that is not installed: pip install {package.replace('_', '-')}"
    for name in ("cache_dir", "nvme_path"):
        if (path := getattr(train, name)) and not os.path.isabs(path):
            yield f"train.{name}={path} is a folder on each node; give an absolute path"
    watched = [name for name, wants in (("export: best", train.export == "best"), ("early_stopping", train.early_stopping)) if wants]
    if watched and not (job.prompts.validation or job.prompts.validation_fraction):
        yield f"train.{' and '.join(watched)} goes by the validation loss, but there are no validation prompts; set prompts.validation"


def _deepspeed_problems(job: JobSpec) -> Iterator[str]:
    """The free `deepspeed` map may not contradict the block, nor name a setting that DeepSpeed would ignore without a word."""
    given = job.train.deepspeed
    flat = {key: value for key, value in given.items() if key != "zero_optimization"}
    zero = given.get("zero_optimization", {})
    if not isinstance(zero, dict):
        yield f"train.deepspeed.zero_optimization={zero}; give a map, such as {{overlap_comm: true}}"
        zero = {}
    places = {name: zero[name] for name in ("offload_optimizer", "offload_param") if zero.get(name) is not None}
    for name, value in places.items():
        if not isinstance(value, dict):
            yield f"train.deepspeed.zero_optimization.{name}={value}; give a map, such as {{buffer_count: 5}}, and {_OFFLOAD}"
        elif job.train.offload == "none" and not {"device", "nvme_path"} & value.keys():
            yield f"train.deepspeed.zero_optimization.{name} tunes an offload that the job does not ask for; {_OFFLOAD}"
    offload = [f"{name}.{key}" for name, value in places.items() if isinstance(value, dict) for key in value]
    for key in [*flat, *(f"zero_optimization.{name}" for name in [*zero, *offload])]:
        if reason := DEEPSPEED_DECIDED.get(key):
            yield f"train.deepspeed.{key} is decided elsewhere; {reason}"
        elif key in flat and key not in DEEPSPEED_FREE:
            yield f"train.deepspeed.{key}: there is no such setting here; {_nearest(key, [*DEEPSPEED_FREE, *DEEPSPEED_DECIDED])}"
    if zero.get("overlap_comm") and job.train.zero_stage < 2:
        yield (f"train.deepspeed.zero_optimization.overlap_comm wants train.zero_stage: 2 or 3, given {job.train.zero_stage}: below,"
               " DeepSpeed reduces gradients at the end of the step")
    if (given_type := flat.get("communication_data_type")) not in (None, *_COMMUNICATION_TYPES):
        yield f"train.deepspeed.communication_data_type={given_type}; choose one of {', '.join(_COMMUNICATION_TYPES)}"
    known = zero_fields() if zero else []
    for key in zero.keys() - set(known) if known else ():
        yield f"train.deepspeed.zero_optimization.{key}: DeepSpeed has no such setting; {_nearest(key, known)}"


def zero_fields() -> list[str]:
    """Names that DeepSpeed takes under zero_optimization: its fields and their aliases; empty where it is not installed."""
    if (found := importlib.util.find_spec("deepspeed")) is None:  # finds the folder, imports nothing
        return []
    file = Path(found.submodule_search_locations[0]) / "runtime/zero/config.py"
    aliases = [node.value.value for node in ast.walk(_tree(file)) if isinstance(node, ast.keyword) and node.arg == "alias"]
    return [*fields_of(file, "DeepSpeedZeroConfig"), *aliases]


_OPTIMIZER = "the optimizer is torch's AdamW: set train.learning_rate, weight_decay and adam_beta2"
_OFFLOAD = "set train.offload and train.nvme_path"
_COMMUNICATION_TYPES = ("fp16", "bf16", "bfp16", "fp32")
DEEPSPEED_DECIDED = {
    "optimizer": _OPTIMIZER, "zero_allow_untested_optimizer": _OPTIMIZER, "zero_force_ds_cpu_optimizer": _OPTIMIZER,
    "scheduler": "set train.schedule, warmup_ratio and min_learning_rate_ratio", "gradient_clipping": "set train.max_grad_norm",
    **dict.fromkeys(("train_batch_size", "gradient_accumulation_steps", "managed_gradient_accumulation"),
                    "set train.global_batch, or batch_size and accumulation"),
    "train_micro_batch_size_per_gpu": "set train.batch_size",
    **dict.fromkeys(("bf16", "fp16", "torch_autocast", "data_types"), "set train.precision"),
    **dict.fromkeys(("gradient_allreduce_op", "gradient_predivide_factor", "prescale_gradients"),
                    "losses are averaged over the target tokens of the global batch"),
    "activation_checkpointing": "set train.gradient_checkpointing", "elasticity": "set train.elastic",
    "checkpoint": "set train.checkpoint_steps and keep_checkpoints", "tensorboard": "set train.trackers", "wandb": "set train.trackers",
    "steps_per_print": "progress and metrics.jsonl have every step", "zero_optimization.stage": "set train.zero_stage",
    "zero_optimization.compute_grad_norm": "clipping and metrics.jsonl want the norm",
    **{f"zero_optimization.{name}.{key}": _OFFLOAD for name in ("offload_optimizer", "offload_param") for key in ("device", "nvme_path")},
    **dict.fromkeys(("zero_optimization.cpu_offload", "zero_optimization.cpu_offload_param"), _OFFLOAD),
}
DEEPSPEED_FREE = (
    "aio", "comms_logger", "communication_data_type", "dump_state", "flops_profiler", "memory_breakdown", "timers", "wall_clock_breakdown",
    "zero_optimization",
)


def _missing_keys(job: JobSpec, running: Collection[str]) -> Iterator[str]:
    for field, variable in job.key_variables().items():
        stage = field.partition(".")[0].replace("serve", "loadtest")
        if stage in running and not os.environ.get(variable):
            yield f"{field}: the environment variable {variable} is not set; export {variable}=<the key> before the command"


def _name_problems(field: str, model: str) -> Iterator[str]:
    if not os.path.isdir(model) and not _HUB_NAME.fullmatch(model):
        yield f"{field}: there is no folder {model}, and it is no hub name (owner/name); relative paths start at the job file"


def _model_problems(field: str, model: str, *, weights: bool = True, trust: bool = False) -> Iterator[str]:
    yield from _name_problems(field, model)
    folder = Path(model)
    if not folder.is_dir():
        return
    config = load_config(folder)
    if config is None:
        yield f"{field}: {folder / 'config.json'} is missing or not valid JSON; the folder must be a Hugging Face model"
    elif "auto_map" in config and not trust and not _is_built_in(config):
        role = {"train.student": "student", "train.teacher.model": "teacher"}.get(field)
        way_out = f"choose a {role} that needs none" if role else "read it, then set trust_remote_code: true"
        yield f"{field}: {folder} wants to run its own Python code (auto_map in config.json); {way_out}"
    if weights and not any(folder.glob("*.safetensors")):
        pickled = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLED)
        if pickled:
            yield (f"{field}: {folder} has only pickled weights ({pickled[0]}), which can run code when they are loaded;"
                   " convert them: load with transformers, save_pretrained() writes safetensors")
        else:
            hint = "train.init: random needs none" if field == "train.student" else "is the download complete?"
            yield f"{field}: {folder} has no weights (*.safetensors); {hint}"


def _is_built_in(config: dict[str, Any]) -> bool:
    """Whether transformers itself has the class that auto_map offers: DeepSeek-V3 and Phi ship code that nobody needs."""
    offered = str(config["auto_map"].get("AutoModelForCausalLM")).rpartition(".")[2]
    transformers = importlib.util.find_spec("transformers").submodule_search_locations[0]  # finds the folder, imports nothing
    folder = Path(transformers) / "models" / str(config.get("model_type")).replace("-", "_")
    return any(f"class {offered}(" in file.read_text(encoding="utf-8") for file in folder.glob("modeling_*.py"))


def _tokenizer_problems(field: str, model: str) -> Iterator[str]:
    folder = Path(model)
    if folder.is_dir() and not any((folder / name).exists() for name in _TOKENIZER_FILES):
        way_out = "; name another folder under train.tokenizer" if field == "train.student" else ""
        yield f"{field}: {folder} has no tokenizer ({', '.join(_TOKENIZER_FILES)}){way_out}"


def _template_problems(job: JobSpec) -> Iterator[str]:
    """Answers that come as text must be spelt by the student's chat template; a teacher's own token ids need none."""
    source = job.train.tokenizer or job.train.student
    folder, apis = Path(source), [teacher.name for teacher in job.generate.teachers if teacher.kind in API_KINDS]
    if apis and any((folder / name).exists() for name in _TOKENIZER_FILES) and not _has_chat_template(folder):
        field = "train.tokenizer" if job.train.tokenizer else "train.student"
        yield (f"{field}: {source} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json), so the text that"
               f" teacher '{apis[0]}' gives cannot become a conversation of the student; set train.tokenizer to one that has")


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").exists() or (folder / "chat_template.json").exists():
        return True
    try:
        return bool(json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False


def _layout_problems(field: str, shape: Architecture | None, tensor_parallel: int, max_model_len: int | None = None) -> Iterator[str]:
    """The engine must be able to split the model's heads, and its length must fit into the model's positions."""
    if shape and not _fits(shape, tensor_parallel):
        possible = ", ".join(str(n) for n in range(1, shape.heads + 1) if _fits(shape, n))
        yield (f"{field}.tensor_parallel={tensor_parallel} cannot split the model's {shape.heads} attention heads"
               f" ({shape.kv_heads} KV heads); choose one of {possible}")
    context = shape.max_context if shape else 0
    if context and max_model_len and max_model_len > context:
        yield f"{field}.max_model_len={max_model_len}, but the model has {context} positions; choose at most {context}"


def _split_problems(field: str, shape: Architecture | None, teacher: TeacherSpec, job: JobSpec) -> Iterator[str]:
    """The engine must be able to split the model's layers and experts, and have what does it on this device."""
    stages, over = teacher.pipeline_parallel, teacher.tensor_parallel * teacher.data_parallel
    for name in ("pipeline_parallel", "data_parallel"):
        if job.device == "cpu" and (count := getattr(teacher, name)) > 1:
            yield f"{field}.{name}={count}, but vLLM's CPU engine dies of it (0.31); set {name}: 1, or device: gpu"
    if shape and stages > shape.layers:
        yield f"{field}.pipeline_parallel={stages}, but the model has {shape.layers} layers; choose at most {shape.layers}"
    if shape and teacher.expert_parallel and not shape.experts:
        yield f"{field}.expert_parallel: the model has no experts to spread; leave it out"
    elif shape and teacher.expert_parallel and over > shape.experts:
        yield f"{field}.expert_parallel spreads {shape.experts} experts over {over} devices; lower tensor_parallel or data_parallel"
    if teacher.data_parallel > 1 and "teacher" in job.loadtest.models and teacher is job.generate.teachers[0]:
        yield f"{field}.data_parallel={teacher.data_parallel} cannot be served here; take teacher out of loadtest.models"


def _engine_problems(field: str, teacher: TeacherSpec) -> Iterator[str]:
    """Names that vLLM would refuse only after minutes; where vLLM is not installed, they are believed."""
    found = importlib.util.find_spec("vllm")  # finds the folder, imports nothing
    if found is None or not (teacher.engine_args or teacher.quantization or teacher.kv_cache_dtype != "auto"):
        return
    vllm = Path(found.submodule_search_locations[0])
    for name, file, of_vllm in (
        ("quantization", "model_executor/layers/quantization/__init__.py", "QuantizationMethods"),
        ("kv_cache_dtype", "config/cache.py", "CacheDType"),
    ):
        given, allowed = getattr(teacher, name), _literal(vllm / file, of_vllm)
        if given not in (None, "auto", *allowed):
            yield f"{field}.{name}: vLLM has no {given}; {_nearest(given, allowed)}"
    known = fields_of(vllm / "engine/arg_utils.py", "EngineArgs", "AsyncEngineArgs")
    for key in teacher.engine_args:
        if own := ENGINE_FIELDS.get(key):
            yield f"{field}.engine_args.{key} has a place of its own; {own}"
        elif key not in known:
            yield f"{field}.engine_args.{key}: vLLM has no such argument; {_nearest(key, known)}"


ENGINE_FIELDS = {
    **{name: f"set the teacher's {name}" for name in (
        "model", "revision", "dtype", "quantization", "kv_cache_dtype", "max_model_len", "max_num_seqs", "trust_remote_code",
        "gpu_memory_utilization", "reasoning_parser",
    )},
    "tensor_parallel_size": "set the teacher's tensor_parallel", "pipeline_parallel_size": "set the teacher's pipeline_parallel",
    "data_parallel_size": "set the teacher's data_parallel", "enable_expert_parallel": "set the teacher's expert_parallel",
    "kv_cache_memory_bytes": "set the teacher's kv_cache_gib", "max_logprobs": "set generate.capture.top_k",
    "logprobs_mode": "the signal is always raw log-probabilities", "distributed_executor_backend": "the layout decides it",
    "hf_token": "secrets never stand in a job; export HF_TOKEN where the engines run",
}


def _literal(file: Path, name: str) -> list[str]:
    """The strings of `name = Literal[...]` in a source file."""
    for node in _tree(file).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            return [item.value for item in ast.walk(node.value) if isinstance(item, ast.Constant)]
    raise LookupError(f"{file} has no {name}; is this vLLM 0.31?")


def fields_of(file: Path, *classes: str) -> list[str]:
    """The annotated fields of classes in a source file."""
    bodies = [node.body for node in _tree(file).body if isinstance(node, ast.ClassDef) and node.name in classes]
    return [item.target.id for body in bodies for item in body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]


@functools.cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _nearest(given: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(given, allowed, 1)
    return f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(allowed))}"


def _fits(shape: Architecture, devices: int) -> bool:
    """vLLM wants whole heads per device; fewer KV heads than devices are copied evenly, a latent (MLA) cache always."""
    kv_heads = shape.kv_heads
    return shape.heads % devices == 0 and bool(shape.mla_rank or kv_heads % devices == 0 or devices % kv_heads == 0)
