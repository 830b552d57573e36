"""What is wrong with the models that a job names: folders, weights, tokenizers, templates, and
layouts that do not divide them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.backends.library_names import package_folder
from engine.job.spec import EngineSpec, JobSpec
from engine.machines.architectures import Architecture, load_config
from engine.machines.limits import quantization_of

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_PICKLED = (".bin", ".pt", ".pth")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


class NotHere(str):
    """A problem of this machine's disk, which another machine need not have."""


def rope_problems(
    name: str, shape: Architecture, block_tokens: int, max_model_len: int | None
) -> Iterator[str]:
    """A long-rope student must be asked with the rotation that it was trained with
    (engine/training/rope.py)."""
    short = shape.short_context
    longest = max_model_len or shape.max_context
    if (block_tokens > short) != (longest > short):
        given = f"{name}.max_model_len={max_model_len}"
        if not max_model_len:
            given = f"{name}.max_model_len, not given, is the model's {longest}"
        yield (
            f"{given}, and train.block_tokens={block_tokens}: the student rotates by one set of"
            f" factors up to {short} positions and by"
            f" another beyond, so training and {name} would not see the same model; set both to at"
            f" most {short}, or both above it"
        )


def name_problems(field: str, model: str) -> Iterator[str]:
    if not os.path.isdir(model) and not _HUB_NAME.fullmatch(model):
        yield NotHere(
            f"{field}: there is no folder {model}, and it is no hub name (owner/name); relative"
            " paths start at the job file"
        )


def model_problems(
    field: str, model: str, *, weights: bool = True, trust: bool = False
) -> Iterator[str]:
    yield from name_problems(field, model)
    folder = Path(model)
    if not folder.is_dir():
        return
    config = load_config(folder)
    if config is None:
        yield (
            f"{field}: {folder / 'config.json'} is missing or not valid JSON; the folder must be a"
            " Hugging Face model"
        )
    elif "auto_map" in config and not trust and not _is_built_in(config):
        way_out = "read it, then set trust_remote_code: true"
        if role := {"train.student": "student", "train.teacher.model": "teacher"}.get(field):
            way_out = f"choose a {role} that needs none"
        yield (
            f"{field}: {folder} wants to run its own Python code (auto_map in config.json);"
            f" {way_out}"
        )
    if weights and not any(folder.glob("*.safetensors")):
        yield _without_weights(field, folder)


def quantized_problems(student: str) -> Iterator[str]:
    """Weights of a few bits take no gradient."""
    kind = quantization_of(student)
    if kind:
        yield (
            f"train.student={student} has weights quantised as {kind}, which transformers cannot"
            " train; name a copy of it in bfloat16"
        )


def _without_weights(field: str, folder: Path) -> str:
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLED)
    if pickled:
        return (
            f"{field}: {folder} has only pickled weights ({pickled[0]}), which can run code"
            " when they are loaded;"
            " convert them: load with transformers, save_pretrained() writes safetensors"
        )
    hint = "is the download complete?"
    if field == "train.student":
        hint = "train.init: random needs none"
    return f"{field}: {folder} has no weights (*.safetensors); {hint}"


def _is_built_in(config: dict[str, Any]) -> bool:
    """Whether transformers itself has the class that auto_map offers: DeepSeek-V3 and Phi ship code
    that nobody needs."""
    transformers = package_folder("transformers")
    if transformers is None:
        return False
    offered = str(config["auto_map"].get("AutoModelForCausalLM")).rpartition(".")[2]
    folder = transformers / "models" / str(config.get("model_type")).replace("-", "_")
    sources = [file.read_text(encoding="utf-8") for file in folder.glob("modeling_*.py")]
    return any(f"class {offered}(" in source for source in sources)


def tokenizer_of(job: JobSpec) -> tuple[str, str]:
    """The student's tokenizer: the field that names it, and its folder or hub name."""
    if job.train.tokenizer:
        return "train.tokenizer", job.train.tokenizer
    return "train.student", job.train.student


def has_tokenizer(model: str) -> bool:
    return any((Path(model) / name).exists() for name in TOKENIZER_FILES)


def tokenizer_problems(field: str, model: str) -> Iterator[str]:
    folder = Path(model)
    if folder.is_dir() and not has_tokenizer(model):
        problem = f"{field}: {folder} has no tokenizer ({', '.join(TOKENIZER_FILES)})"
        if field == "train.student":
            problem += "; name another folder under train.tokenizer"
        yield problem


def has_chat_template(folder: Path) -> bool:
    """Whether a local folder has one."""
    return bool(chat_templates(folder))


def chat_templates(folder: Path) -> dict[str, str]:
    """Those of a local folder by name; most have one, `default`."""
    found: dict[str, str] = {}
    for name in ("tokenizer_config.json", "chat_template.json"):
        found |= _named(_json(folder / name).get("chat_template"))
    file = folder / "chat_template.jinja"
    if file.exists():
        found["default"] = file.read_text(encoding="utf-8")
    for file in folder.glob("additional_chat_templates/*.jinja"):
        found[file.stem] = file.read_text(encoding="utf-8")
    return found


def _json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if isinstance(values, dict):
        return values
    return {}


def _named(template: Any) -> dict[str, str]:
    if isinstance(template, str) and template:
        return {"default": template}
    if isinstance(template, list):
        return {one["name"]: one["template"] for one in template}
    return {}


def layout_problems(
    field: str, shape: Architecture | None, tensor_parallel: int, max_model_len: int | None = None
) -> Iterator[str]:
    """The engine must be able to split the model's heads, and its length must fit into the model's
    positions."""
    if shape and not _fits(shape, tensor_parallel):
        possible = [str(n) for n in range(1, shape.heads + 1) if _fits(shape, n)]
        yield (
            f"{field}.tensor_parallel={tensor_parallel} cannot split the model's {shape.heads}"
            " attention heads"
            f" ({shape.kv_heads} KV heads); choose one of {', '.join(possible)}"
        )
    context = shape.max_context if shape else 0
    if context and max_model_len and max_model_len > context:
        yield (
            f"{field}.max_model_len={max_model_len}, but the model has {context} positions; choose"
            f" at most {context}"
        )


def split_problems(
    field: str, shape: Architecture | None, engine: EngineSpec, device: str
) -> Iterator[str]:
    """The engine must be able to split the model's layers and experts, and have what does it on
    this device."""
    splits = {
        "pipeline_parallel": engine.pipeline_parallel,
        "data_parallel": engine.data_parallel,
    }
    for name, count in splits.items():
        if device == "cpu" and count > 1:
            yield (
                f"{field}.{name}={count}, but vLLM's CPU engine dies of it (0.31); set {name}: 1,"
                " or device: gpu"
            )
    if shape and engine.pipeline_parallel > shape.layers:
        yield (
            f"{field}.pipeline_parallel={engine.pipeline_parallel}, but the model has"
            f" {shape.layers} layers; choose at most {shape.layers}"
        )
    if shape and engine.expert_parallel:
        yield from _expert_problems(field, shape, engine.tensor_parallel * engine.data_parallel)


def _expert_problems(field: str, shape: Architecture, devices: int) -> Iterator[str]:
    if not shape.experts:
        yield f"{field}.expert_parallel: the model has no experts to spread; leave it out"
    elif devices > shape.experts:
        yield (
            f"{field}.expert_parallel spreads {shape.experts} experts over {devices} devices; lower"
            " tensor_parallel or data_parallel"
        )


def _fits(shape: Architecture, devices: int) -> bool:
    """vLLM wants whole heads per device; fewer KV heads than devices are copied evenly, a latent
    (MLA) cache always."""
    if shape.heads % devices:
        return False
    kv_heads = shape.kv_heads
    return bool(shape.mla_rank) or kv_heads % devices == 0 or devices % kv_heads == 0
