"""The student against the other models on the same prompts, and what each of them takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from engine.errors import SpecError
from engine.job.spec import GenerateSpec, Model, VllmTeacherSpec
from engine.machines.architectures import facts
from engine.rows.comparison import compare
from engine.rows.intervals import Clusters
from engine.rows.records import Prompt
from engine.run.facts import Compared, Footprint
from engine.stages.evaluate.scoring import References, Resampling, Statistics


def clusters_of(prompts: Sequence[Prompt], column: str | None) -> Clusters:
    """The group of each prompt by the value of a column of its source; a prompt without one is
    alone. SpecError where none has it."""
    if column is None:
        return None
    clusters: list[int | str] = []
    found = 0
    for prompt in prompts:
        value = json.loads(prompt.meta).get(column)
        if value is None:
            clusters.append(prompt.prompt_id)
        else:
            clusters.append(json.dumps(value, sort_keys=True))
            found += 1
    if not found:
        raise SpecError(
            f"evaluate.cluster_by={column}: no validation prompt has that column; name one of the"
            " source files' columns that is neither prompt nor reference, or leave it out"
        )
    return clusters


def comparisons_of(
    statistics: Statistics, references: References, resampling: Resampling
) -> dict[str, list[Compared]]:
    """The student against the baseline, and against the teacher where gold answers say who is
    right."""
    models = next(iter(statistics.values())).keys()
    compared = {}
    if "baseline" in models:
        everything = np.ones(len(references.texts), bool)
        compared["baseline"] = _against("baseline", statistics, everything, resampling)
    if references.kind != "teacher":
        compared["teacher"] = _against("teacher", statistics, references.is_gold, resampling)
    return compared


def _against(
    model: str, statistics: Statistics, wanted: np.ndarray, resampling: Resampling
) -> list[Compared]:
    ours: dict[str, np.ndarray] = {}
    theirs: dict[str, np.ndarray] = {}
    for metric, by_model in statistics.items():
        ours[metric] = by_model["student"][wanted]
        theirs[metric] = by_model[model][wanted]
    drawn = resampling.of(wanted)
    found = compare(ours, theirs, drawn.samples, drawn.seed, drawn.clusters)
    return [Compared.model_validate(asdict(one)) for one in found]


def footprints_of(models: Sequence[Model], generate: GenerateSpec) -> dict[str, Footprint]:
    """What the teacher and the models that answer here take, by name; the peak of an engine's
    memory is not known here."""
    found = {"teacher": _of_teacher(generate)}
    for model in models:
        found[model.name] = _footprint(model.model)
    return found


def _of_teacher(generate: GenerateSpec) -> Footprint:
    teacher = generate.teachers[0]
    if generate.route != "all":
        return Footprint(why_unknown="several teachers answer, each some of the prompts")
    if not isinstance(teacher, VllmTeacherSpec):
        return Footprint(
            why_unknown=f"the teacher is of kind {teacher.kind}: its weights are not here"
        )
    return _footprint(teacher.model)


def _footprint(model: str) -> Footprint:
    shape = facts(model)
    if shape is None:
        return Footprint(
            why_unknown="no config.json of it is here, and its name is not a known one"
        )
    return Footprint(
        weights_bytes=round(shape.params_b * shape.bytes_per_param * 1e9),
        kv_bytes_per_token=shape.kv_bytes_per_token(),
    )
