"""A finished run, or the finished part of one, as figures of speed (machines/measured.py)."""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import SpecError
from engine.job.jobfile import load_run
from engine.job.spec import JobSpec, VllmTeacherSpec
from engine.machines.measured import Answered, Measured, Trained
from engine.machines.replica import Load
from engine.machines.serving import split_of
from engine.machines.work import Seen
from engine.run.facts import CurateInfo, GenerateInfo, PromptsInfo, TrainInfo
from engine.run.manifests import STAGE_FOLDER, Manifest, load_manifest
from engine.store.paths import Folder


def measured_run(folder: Folder) -> tuple[Measured, Seen]:
    """How fast its models were, and how long its prompts and answers. SpecError where nothing of it
    can be used."""
    job = load_run(folder)
    done = _newest(folder)
    generate = done.get("generate")
    if generate is None:
        raise SpecError(
            f"--from-run {folder}: its generate is not finished, so it tells no speed; finish it"
            " (distill run JOB --until generate), or leave --from-run out"
        )
    evaluate = done.get("evaluate")
    evaluate_s = evaluate.seconds if evaluate else None
    measured = Measured(
        folder.name,
        tuple(_answered(job, generate)),
        _trained(job, done.get("train")),
        evaluate_s,
        _validation_rows(done),
    )
    return measured, _seen(generate, done.get("curate"))


def _newest(folder: Folder) -> dict[str, Manifest]:
    """By stage, the manifest that was published last."""
    newest: dict[str, Manifest] = {}
    for path in folder.glob("*"):
        named = STAGE_FOLDER.fullmatch(path.name)
        manifest = load_manifest(path) if named else None
        if manifest is None:
            continue
        before = newest.get(manifest.stage)
        if before is None or before.finished_at < manifest.finished_at:
            newest[manifest.stage] = manifest
    return newest


def _validation_rows(done: Mapping[str, Manifest]) -> int:
    prompts = done.get("prompts")
    if prompts and isinstance(prompts.info, PromptsInfo):
        return prompts.info.validation
    return 0


def _answered(job: JobSpec, manifest: Manifest) -> list[Answered]:
    """Of the last session, where one model of ours alone answered."""
    info = manifest.info
    assert isinstance(info, GenerateInfo)
    teacher = job.generate.teachers[0]
    if len(job.generate.teachers) > 1 or not isinstance(teacher, VllmTeacherSpec):
        return []
    if not info.replicas or not info.tokens_per_second or not info.completions:
        return []
    answered = info.answered_this_run or info.completions
    tokens = info.tokens_out * answered / info.completions
    load = Load(
        info.tokens_in / info.completions,
        info.tokens_out / info.completions,
        answered / info.replicas,
    )
    start_s = max(0.0, manifest.seconds - tokens / info.tokens_per_second)
    return [
        Answered(
            teacher.model,
            _kind(job, teacher.accelerator_type),
            split_of(teacher),
            load,
            info.tokens_per_second / info.replicas,
            start_s,
        )
    ]


def _kind(job: JobSpec, named: str | None) -> str | None:
    """None on CPUs, and where the job let Ray choose: then it speaks for no named accelerator."""
    return named if job.device == "gpu" else None


def _trained(job: JobSpec, manifest: Manifest | None) -> Trained | None:
    info = manifest.info if manifest else None
    if manifest is None or not isinstance(info, TrainInfo) or not info.tokens_per_second:
        return None
    kinds = [one.accelerator_type for one in job.generate.teachers if one.kind == "vllm"]
    named = kinds[0] if kinds else None
    kind = _kind(job, named)
    start_s = max(0.0, manifest.seconds - info.tokens / info.tokens_per_second)
    speed = info.tokens_per_second / max(1, info.workers)
    return Trained(job.train.student, kind, info.workers, speed, start_s)


def _seen(generate: Manifest, curate: Manifest | None) -> Seen:
    """Mean lengths, and the share of answers that were kept."""
    info = generate.info
    assert isinstance(info, GenerateInfo)
    counted = max(1, info.completions - info.rows_without_token_counts)
    kept = None
    if curate and isinstance(curate.info, CurateInfo) and curate.info.funnel:
        first, last = curate.info.funnel[0][1], curate.info.funnel[-1][1]
        kept = last / first if first else None
    return Seen(
        prompt_tokens=info.tokens_in / counted or None,
        answer_tokens=info.tokens_out / counted or None,
        kept=kept,
    )
