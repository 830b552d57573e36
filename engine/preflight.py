"""What can be known to fail before anything runs: the files, folders, layouts and keys that a job names.

`distill check` must answer within a second, so nothing here imports torch, ray, vllm or transformers, opens weights or
asks the network. A hub name is believed unless it cannot be one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import SpecError
from engine.models import Architecture, facts, load_config
from engine.spec import JobSpec

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_PICKLED = (".bin", ".pt", ".pth")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def check(job: JobSpec) -> None:
    """SpecError with all problems of the job, one per line."""
    if found := problems(job):
        raise SpecError("\n".join(found))


def problems(job: JobSpec) -> list[str]:
    """Everything that is wrong with the files and machines' settings that the job names, one sentence each."""
    from engine.stages.prompts import head_problems  # here: a job without problems elsewhere need not wait for it

    return [*head_problems(job.prompts), *_teacher_problems(job), *_student_problems(job), *_missing_keys(job)]


def _teacher_problems(job: JobSpec) -> Iterator[str]:
    for number, teacher in enumerate(job.generate.teachers):
        if teacher.kind == "vllm":
            field, shape = f"generate.teachers.{number}", facts(teacher.model)
            yield from _model_problems(f"{field}.model", teacher.model, trust=teacher.trust_remote_code)
            yield from _tokenizer_problems(f"{field}.model", teacher.model)
            yield from _split_problems(field, shape, teacher.tensor_parallel)
            yield from _length_problems(shape, f"{field}.max_model_len", teacher.max_model_len,
                                        "generate.sampling.max_tokens", job.generate.sampling.max_tokens)


def _student_problems(job: JobSpec) -> Iterator[str]:
    student, shape = job.train.student, facts(job.train.student)
    yield from _model_problems("train.student", student, weights=job.train.init == "pretrained", trust=None)
    yield from _tokenizer_problems("train.tokenizer" if job.train.tokenizer else "train.student", job.train.tokenizer or student)
    yield from _split_problems("evaluate", shape, job.evaluate.tensor_parallel)
    yield from _split_problems("serve", shape, job.serve.tensor_parallel)
    answer = job.evaluate.max_tokens or job.generate.sampling.max_tokens
    yield from _length_problems(shape, "", None, "evaluate.max_tokens", answer)
    load = job.loadtest.max_tokens if job.loadtest.models else 0
    yield from _length_problems(shape, "serve.max_model_len", job.serve.max_model_len, "loadtest.max_tokens", load)


def _missing_keys(job: JobSpec) -> Iterator[str]:
    named = {f"generate.teachers.{number}.api_key_env": t.api_key_env for number, t in enumerate(job.generate.teachers)}
    for field, variable in (named | {"serve.api_key_env": job.serve.api_key_env}).items():
        if variable and not os.environ.get(variable):
            yield f"{field}: the environment variable {variable} is not set; export {variable}=<the key> before the command"


def _name_problem(field: str, model: str) -> str | None:
    """A name that is neither an existing folder nor possible on the hub."""
    if os.path.isdir(model):
        return None
    if os.path.isfile(model):
        return f"{field}: {model} is a file; give the folder that holds config.json and *.safetensors"
    if os.path.isabs(model):
        return f"{field}: there is no folder {model}"
    if not _HUB_NAME.fullmatch(model):
        return f"{field}: {model!r} is no folder beside the job file and no hub name (owner/name); start a path with ./ or ../"
    return None


def _model_problems(field: str, model: str, *, weights: bool = True, trust: bool | None) -> Iterator[str]:
    """Problems of a model folder; `trust` is its trust_remote_code, None where there is no such switch."""
    if problem := _name_problem(field, model):
        yield problem
    folder = Path(model)
    if not folder.is_dir():
        return
    config = load_config(folder)
    if config is None:
        state = "is not valid JSON" if (folder / "config.json").exists() else "is missing"
        yield f"{field}: {folder / 'config.json'} {state}; the folder must be a Hugging Face model"
        return
    if "auto_map" in config and not trust and not _is_built_in(config):
        way_out = "read it, then set trust_remote_code: true" if trust is False else "choose a student that needs none"
        yield f"{field}: {folder} wants to run its own Python code (auto_map in config.json); {way_out}"
    if weights:
        yield from _weight_problems(field, folder)


def _weight_problems(field: str, folder: Path) -> Iterator[str]:
    files = {file.name: file for file in folder.glob("*.safetensors")}
    if not files:
        if pickled := sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLED):
            yield (f"{field}: {folder} has only pickled weights ({pickled[0]}), which can run code when they are loaded;"
                   " convert them: load with transformers, save_pretrained() writes safetensors")
        else:
            hint = "; train.init: random needs none" if field == "train.student" else "; is the download complete?"
            yield f"{field}: {folder} has no weights (*.safetensors){hint}"
        return
    for file in sorted(files.values()):
        with file.open("rb") as handle:
            header_bytes = int.from_bytes(handle.read(8), "little")
        if not 2 <= header_bytes <= file.stat().st_size - 8:
            yield f"{field}: {file} ({file.stat().st_size} bytes) is no safetensors file; is the download complete?"
    index = folder / "model.safetensors.index.json"
    if index.exists():
        missing = sorted(set(json.loads(index.read_text())["weight_map"].values()) - files.keys())
        if missing:
            yield f"{field}: {folder} lacks {len(missing)} of its weight files, the first is {missing[0]}; finish the download"


def _is_built_in(config: dict[str, Any]) -> bool:
    """Whether transformers itself has the class that auto_map offers: DeepSeek-V3 and Phi ship code that nobody needs."""
    offered = str(config["auto_map"].get("AutoModelForCausalLM")).rpartition(".")[2]
    found = importlib.util.find_spec("transformers")  # finds the folder, imports nothing
    if found is None or found.origin is None:
        return False
    folder = Path(found.origin).parent / "models" / str(config.get("model_type")).replace("-", "_")
    return any(f"class {offered}(" in file.read_text(encoding="utf-8") for file in folder.glob("modeling_*.py"))


def _tokenizer_problems(field: str, model: str) -> Iterator[str]:
    folder = Path(model)
    if field == "train.tokenizer" and (problem := _name_problem(field, model)):
        yield problem
    if folder.is_dir() and not any((folder / name).exists() for name in _TOKENIZER_FILES):
        way_out = "; name another folder under train.tokenizer" if field == "train.student" else ""
        yield f"{field}: {folder} has no tokenizer ({', '.join(_TOKENIZER_FILES)}){way_out}"


def _split_problems(field: str, shape: Architecture | None, tensor_parallel: int) -> Iterator[str]:
    if shape and not _fits(shape, tensor_parallel):
        possible = ", ".join(str(n) for n in range(1, shape.heads + 1) if _fits(shape, n))
        yield (f"{field}.tensor_parallel={tensor_parallel} cannot split the model's {shape.heads} attention heads"
               f" ({shape.kv_heads} KV heads); choose one of {possible}")


def _fits(shape: Architecture, devices: int) -> bool:
    """vLLM wants whole heads per device; fewer KV heads than devices are copied evenly, a latent (MLA) cache always."""
    kv_heads = shape.kv_heads
    return shape.heads % devices == 0 and bool(shape.mla_rank or kv_heads % devices == 0 or devices % kv_heads == 0)


def _length_problems(shape: Architecture | None, field: str, length: int | None, answer_field: str, answer: int) -> Iterator[str]:
    """The engine's length must fit into the model's positions, and the longest answer must leave room for a prompt."""
    context = shape.max_context if shape else 0
    if context and length and length > context:
        yield f"{field}={length}, but the model has {context} positions; choose at most {context}"
    room = min((n for n in (context, length) if n), default=0)
    if room and answer >= room:
        yield f"{answer_field}={answer} leaves no room for a prompt in {room} tokens; lower it"
