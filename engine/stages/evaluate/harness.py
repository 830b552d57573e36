"""lm-eval's tasks on student, baseline and teacher: one after the other, each behind an endpoint
for as long as it is asked, so that no more devices are needed than by the largest of them.

A model whose tasks are done is not asked again when the stage goes on after a kill.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from engine.backends import lm_eval_harness
from engine.backends.lm_eval_harness import Api, Harness, Served
from engine.job.spec import (
    API_KINDS,
    AnthropicTeacherSpec,
    EvaluateSpec,
    GenerateSpec,
    Model,
    OpenAITeacherSpec,
    VllmTeacherSpec,
)
from engine.rows.ids import derive_seed
from engine.run.context import Context
from engine.run.facts import GenerateInfo
from engine.run.harness_facts import HarnessInfo, HarnessScore, HarnessTask
from engine.run.manifests import Finished
from engine.serving.endpoint import OpenEndpoint
from engine.store.files import write_atomic

FOLDER = "lm_eval"  # of the stage's folder: results and samples, by model
WORK = "lm_eval-work"  # its log, and answers until a model has all

OpenHarness = Callable[[Sequence[str], Path], AbstractContextManager[Harness]]
Way = Callable[[], AbstractContextManager[Served | Api]]


@dataclass(frozen=True)
class Harnessed:
    """What lm-eval found, and its files with their rows; nothing where the job names no task
    files."""

    info: HarnessInfo | None = None
    files: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def score_with_harness(
    spec: EvaluateSpec,
    models: Sequence[Model],
    generate: GenerateSpec,
    generated: Finished,
    out: Path,
    ctx: Context,
    *,
    endpoint: OpenEndpoint | None,
    harness: OpenHarness = lm_eval_harness.opened,
) -> Harnessed:
    """Scores of the first teacher and of `models` by the job's task files, an API's within what the
    finished `generated` left of its budget. StageError for a task that cannot be run; what was
    scored stays."""
    if not spec.lm_eval:
        return Harnessed()
    assert endpoint is not None
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    ways = _ways(spec, models, generate, _left_usd(generate, generated), ctx.seed, endpoint)
    found: dict[str, dict[str, Any]] = {}
    ctx.progress.update(note="lm-eval reads its tasks")
    with harness(spec.lm_eval, out / WORK) as running:
        for name, way in ways.items():
            found[name] = _scored(running, name, way, spec.bootstrap_samples, out / FOLDER, ctx)
        info = _info(running, found)
    ctx.progress.update(unit="rows", lm_eval="done")
    for name in found:
        shutil.rmtree(out / WORK / name, ignore_errors=True)
    info = info.model_copy(update={"unknown": info.unknown | _unasked(generate, running.tasks)})
    files: dict[str, int] = {}
    warnings: list[str] = []
    for name, said in found.items():
        files[f"{FOLDER}/{name}.json"] = 1
        files[f"{FOLDER}/{name}.jsonl"] = said["samples"]
        warnings += _doubts(name, said)
    return Harnessed(info, files, warnings)


def _ways(
    spec: EvaluateSpec,
    models: Sequence[Model],
    generate: GenerateSpec,
    left_usd: float | None,
    seed: int,
    endpoint: OpenEndpoint,
) -> dict[str, Way]:
    """How each model is reached, by its name in the report."""
    shared: dict[str, Any] = {
        "max_tokens": spec.max_tokens or generate.sampling.max_tokens,
        "seed": derive_seed(seed, "lm_eval"),
    }
    ways: dict[str, Way] = {}
    teacher = generate.teachers[0]
    if _why_unasked(generate) is None:
        if isinstance(teacher, OpenAITeacherSpec | AnthropicTeacherSpec):
            ways["teacher"] = partial(nullcontext, Api(teacher.asked_live(), left_usd, **shared))
        elif isinstance(teacher, VllmTeacherSpec):
            model = replace(teacher.to_model(), name="teacher")
            ways["teacher"] = partial(_served, model, endpoint, shared)
    for model in models:
        ways[model.name] = partial(_served, model, endpoint, shared)
    return ways


def _left_usd(generate: GenerateSpec, generated: Finished) -> float | None:
    """Of max_cost_usd; None where there is no limit."""
    assert isinstance(generated.manifest.info, GenerateInfo)
    if generate.max_cost_usd is None:
        return None
    return max(0.0, generate.max_cost_usd - (generated.manifest.info.cost_usd or 0.0))


@contextmanager
def _served(model: Model, endpoint: OpenEndpoint, shared: Mapping[str, Any]) -> Generator[Served]:
    with endpoint([model.name]) as live:
        yield Served(
            model.name,
            live.base_url,
            live.api_key,
            model.model,
            model.revision,
            model.trust_remote_code,
            **shared,
        )


def _scored(
    running: Harness, name: str, way: Way, bootstrap_samples: int, folder: Path, ctx: Context
) -> dict[str, Any]:
    """What the harness says of one model, kept beside its samples."""
    kept = folder / f"{name}.json"
    if kept.exists():
        return json.loads(kept.read_text())

    def on_progress(done: int, total: int) -> None:
        ctx.progress.update(done=done, total=total, unit="requests", lm_eval=name)

    ctx.progress.update(note=f"lm-eval: starting {name}")
    with way() as model:
        samples = folder / f"{name}.jsonl"
        said = running.score(model, samples, bootstrap_samples, on_progress)
    write_atomic(kept, json.dumps(said, indent=1))
    return said


def _why_unasked(generate: GenerateSpec) -> str | None:
    """Why the teacher cannot be asked at all."""
    if generate.route != "all":
        return "several teachers answer, each some of the prompts"
    kind = generate.teachers[0].kind
    if kind not in ("vllm", *API_KINDS):
        return f"the teacher is of kind {kind}, which nobody serves"
    return None


def _unasked(generate: GenerateSpec, tasks: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    reason = _why_unasked(generate)
    return {"teacher": dict.fromkeys(tasks, reason)} if reason else {}


def _info(running: Harness, found: Mapping[str, Mapping[str, Any]]) -> HarnessInfo:
    tasks = {name: HarnessTask.model_validate(task) for name, task in running.tasks.items()}
    scores: dict[str, list[HarnessScore]] = {}
    unknown: dict[str, dict[str, str]] = {}
    for name, said in found.items():
        scores[name] = [HarnessScore.model_validate(score) for score in said["scores"]]
        if said["unknown"]:
            unknown[name] = said["unknown"]
    chat = {name: said["chat_template"] for name, said in found.items()}
    cost_usd = found.get("teacher", {}).get("cost_usd")
    return HarnessInfo(
        version=running.version,
        tasks=tasks,
        scores=scores,
        unknown=unknown,
        chat_template=chat,
        cost_usd=cost_usd,
    )


def _doubts(name: str, said: Mapping[str, Any]) -> Iterator[str]:
    if said["shortened"]:
        yield (
            f"lm-eval: {said['shortened']} texts of its tasks are longer than {name} reads, and"
            " their beginning was left out; raise max_model_len, or take fewer num_fewshot"
        )
    if said["refused"]:
        yield (
            f"lm-eval: {said['refused']} prompts of its tasks are too long for {name}, and count as"
            " answered with nothing"
        )
