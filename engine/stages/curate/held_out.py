"""The index of what a student must not be taught: files of test data that the job names, and its
validation prompts, always."""

from __future__ import annotations

import json

from engine.curation.contamination import Index
from engine.job.spec import DecontaminateSpec
from engine.rows.sources.held_out import held_out_texts
from engine.rows.tables import read_tables
from engine.run.facts import PromptsInfo
from engine.run.manifests import Finished

FIELD = "curate.decontaminate.against"
VALIDATION = "validation"  # name of the items that are the job's own


def index_of(spec: DecontaminateSpec | None, prompts: Finished) -> Index | None:
    """None where the job does not ask. Of a validation prompt its last message counts; those of one
    dialogue are one group, because they repeat each other's words."""
    if spec is None:
        return None
    info = prompts.manifest.info
    assert isinstance(info, PromptsInfo)
    asked: list[str | None] = []
    dialogues: list[str | None] = []
    for table in read_tables(prompts.files("validation"), ["messages", "meta"]):
        for row in table.to_pylist():
            asked.append(row["messages"][-1]["content"])
            dialogues.append(_dialogue(row["meta"], info.cluster_by))
    texts = held_out_texts(FIELD, spec.against)
    if not asked:
        return Index.of(texts)
    return Index.of({VALIDATION: asked} | texts, {VALIDATION: dialogues})


def _dialogue(meta: str, column: str | None) -> str | None:
    """What its rows have in common; None where each is by itself."""
    return None if column is None else str(json.loads(meta).get(column))
