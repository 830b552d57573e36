"""The index of what a student must not be taught: files of test data that the job names, and its
validation prompts, always."""

from __future__ import annotations

from engine.curation.contamination import Index
from engine.job.spec import DecontaminateSpec
from engine.rows.sources.held_out import held_out_texts
from engine.rows.tables import read_tables
from engine.run.manifests import Finished

FIELD = "curate.decontaminate.against"
VALIDATION = "validation"  # name of the items that are the job's own


def index_of(spec: DecontaminateSpec | None, prompts: Finished) -> Index | None:
    """None where the job does not ask."""
    if spec is None:
        return None
    texts: dict[str, list[str | None]] = {}
    asked: list[str | None] = []
    for table in read_tables(prompts.files("validation"), ["messages"]):
        for messages in table["messages"].to_pylist():
            asked.append(messages[-1]["content"])
    if asked:
        texts[VALIDATION] = asked
    return Index.of(texts | held_out_texts(FIELD, spec.against))
