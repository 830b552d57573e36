"""What a rehearsal stands on, made before its first stage: rows, small models, and what of the job
is not tried."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.job.spec import ApiTeacher, JobSpec
from engine.rehearsal.ground import Ground
from engine.rehearsal.little_job import OFF, lengths
from engine.rehearsal.made_rows import made_rows
from engine.rehearsal.own_rows import Own, own_rows

SHRINKS = (8, 4, 2, 1)  # by how much positions may be divided, the most first
# Characters of a prompt that a position holds for certain, and what a chat template adds.
_CHARACTERS = 2
_AROUND = 64


def prepare(job: JobSpec, root: Path, api: str) -> tuple[Ground, list[str]]:
    """Rows and models, and what is to be said of them."""
    # Here: torch and transformers take seconds, and `check` has found most by then.
    from engine.rehearsal.little_models import LittleModels, is_little

    shrinks: Sequence[int] = SHRINKS
    if any(is_little(model) for model, _ in job.weights()):
        shrinks = (1,)
    tokens = min(lengths(job))
    longest = max(1, tokens // shrinks[0] - _AROUND) * _CHARACTERS
    said = []
    rows: dict[str, Own] = {}
    for split in ("train", "validation"):
        if split == "validation" and not job.prompts.validation:
            continue
        own = own_rows(job, split, root / "rows", longest)
        if own is None or not own.prompts:
            said.append(
                f"prompts.{split} is not on this machine: ROWS ARE MADE UP; columns, references and"
                " lengths of the real ones are not tried"
            )
            own = made_rows(job, split, root / "rows")
        rows[split] = own
    texts: list[str] = []
    characters = 0
    for own in rows.values():
        texts += own.texts
        for prompt in own.prompts:
            characters = max(characters, prompt.characters)
    needed = characters / _CHARACTERS + _AROUND
    fitting = [each for each in shrinks if tokens // each >= needed]
    shrink = max(fitting, default=1)
    models = LittleModels(root / "models", texts, shrink)
    validation = None
    if "validation" in rows:
        validation = rows["validation"].files
    ground = Ground(rows["train"].files, validation, models, shrink, api)
    return ground, said


def asks_apis(job: JobSpec) -> bool:
    """Whether anybody's API is asked."""
    return any(isinstance(each, ApiTeacher) for each in job.asked().values())


def not_tried(job: JobSpec) -> Iterator[str]:
    """What of the job a rehearsal leaves out, a sentence each."""
    for name, variable in job.key_variables().items():
        if not os.environ.get(variable):
            yield f"{name}: {variable} is not set here; the run will want it"
    if job.evaluate.lm_eval:
        yield "evaluate.lm_eval: its task files were checked, their tasks are not run"
    off = [f"curate.{name}" for name in OFF if getattr(job.curate, name) is not None]
    for name in ("decontaminate", "near_duplicates"):
        if getattr(job.prompts, name) is not None:
            off.append(f"prompts.{name}")
    if off:
        yield f"{', '.join(off)}: off, for they would leave nothing of random answers or a few rows"
    if job.serve.adapters:
        yield "serve.adapters: they fit the real base alone"
    if job.loadtest.trace or job.loadtest.search:
        yield "loadtest: neither a trace nor a search, which take long; one level of each kind"
