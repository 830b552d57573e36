"""Stage 3, completions -> examples: keep, or drop with a reason.

Reads one file of completions at a time. Token ids and the teacher's signal go from table to table
inside Arrow. Validation answers pass through uncurated: they measure the training loss on what the
teacher says, good or bad.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from engine.errors import StageError
from engine.job.spec import CurateSpec
from engine.rows.records import EXAMPLE, Completion, Prompt, completion_schema
from engine.rows.tables import read_tables, to_rows, write_parquet
from engine.run.context import Context
from engine.run.manifests import Counts, stage_files
from engine.stages.curate.filters import FILTERS, Drop, Verdict

_LIGHT = [
    field.name
    for field in completion_schema()
    if not (pa.types.is_list(field.type) or pa.types.is_binary(field.type))
]
_CARRIED = [name for name in EXAMPLE.names if name != "messages"]

FEW = 0.1  # of the answers: below, a sentence says so

Filters = dict[str, Callable[[Completion, Prompt], Verdict]]


def run(spec: CurateSpec, inputs: dict[str, Path], out: Path, ctx: Context) -> Counts:
    """Judge every training completion. StageError if a completion belongs to no prompt."""
    (out / "data").mkdir(parents=True, exist_ok=True)
    sorted_prompts = _load_prompts(inputs["prompts"])
    settings = {name: settings_of(spec) for name, (_, settings_of) in FILTERS.items()}
    filters = {
        name: partial(FILTERS[name][0], **wanted)
        for name, wanted in settings.items()
        if wanted is not None
    }
    lost: dict[str, Counter[str]] = {name: Counter() for name in filters}
    unusable: Counter[str] = Counter()
    files: dict[str, int] = {}
    rows_in, rows_out = 0, {"train": 0, "validation": 0}
    usable = ("ok", "truncated") if spec.keep_truncated else ("ok",)
    completions = read_tables(
        stage_files(inputs["generate"], "data/"), columns=list({*_LIGHT, *_CARRIED})
    )
    for number, table in enumerate(completions):
        prompts = _prompts_of(table["prompt_id"].to_numpy(), sorted_prompts)
        kept: dict[str, list[int]] = {"train": [], "validation": []}
        for row, (answer, prompt) in enumerate(
            zip(to_rows(table.select(_LIGHT), Completion), prompts, strict=True)
        ):
            rows_in += answer.split == "train"
            if answer.split == "validation" and answer.status not in usable:
                unusable[answer.status] += 1
            elif answer.split == "train" and (drop := _first_drop(answer, prompt, filters)):
                lost[drop[0]][drop[1]] += 1
            else:
                kept[answer.split].append(row)
        for split, chosen in kept.items():
            # one file per file of completions: its metadata says which teacher and tokenizer these
            # rows have
            if chosen:
                name = f"data/{split}-{number:05d}.parquet"
                write_parquet(
                    _examples(table.take(chosen), [prompts[row] for row in chosen]), out / name
                )
                files[name] = len(chosen)
                rows_out[split] += len(chosen)
        ctx.progress.update(done=rows_in)
    dropped = sum(lost.values(), Counter())
    funnel: list[list[str | int]] = [["completions", rows_in]]
    for name, reasons in lost.items():
        funnel.append([name, funnel[-1][1] - reasons.total()])
    warnings = []
    if not rows_out["train"]:
        listed = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
        warnings.append(
            f"no example is left: all {rows_in} answers were dropped ({listed}); look at them, or"
            " relax the curate block"
        )
    elif rows_out["train"] < FEW * rows_in:
        listed = ", ".join(f"{reason} {count:,}" for reason, count in dropped.most_common())
        warnings.append(
            f"only {rows_out['train']:,} of {rows_in:,} answers are kept ({listed}): too few to"
            " learn from what was paid for; look at the"
            " dropped ones, mend what produces them (the prompt, max_tokens, the teacher), or relax"
            " the curate block"
        )
    validation = {"validation_examples": rows_out["validation"], "validation_unusable": unusable}
    return Counts(
        rows_in,
        rows_out["train"],
        files,
        dropped,
        {"funnel": funnel, **validation, "warnings": warnings},
    )


def _load_prompts(folder: Path) -> pa.Table:
    """All prompts sorted by id, in one chunk, because `take` would join several each time."""
    files = [
        file for split in ("train", "validation") for file in stage_files(folder, f"data/{split}-")
    ]
    return pa.concat_tables(read_tables(files)).sort_by("prompt_id").combine_chunks()


def _prompts_of(prompt_ids: np.ndarray, sorted_prompts: pa.Table) -> list[Prompt]:
    """Prompts of shape (n,) ids, in their order."""
    known = sorted_prompts["prompt_id"].to_numpy()
    at = np.searchsorted(known, prompt_ids).clip(max=len(known) - 1)
    unknown = prompt_ids[known[at] != prompt_ids]
    if len(unknown):
        raise StageError(
            f"curate: {len(unknown)} completions belong to no prompt, e.g. id {unknown[0]}; make"
            " generate again"
        )
    return to_rows(sorted_prompts.take(at), Prompt)


def _first_drop(answer: Completion, prompt: Prompt, filters: Filters) -> tuple[str, str] | None:
    """(filter, reason) of the first filter that drops the answer."""
    for name, judge in filters.items():
        if isinstance(verdict := judge(answer, prompt), Drop):
            return name, verdict.reason
    return None


def _examples(table: pa.Table, prompts: list[Prompt]) -> pa.Table:
    texts = table["text"].to_pylist()
    messages = [
        [*p.messages, {"role": "assistant", "content": text}]
        for p, text in zip(prompts, texts, strict=True)
    ]
    columns = {name: table[name].cast(EXAMPLE.field(name).type) for name in _CARRIED}
    columns["messages"] = pa.array(messages, EXAMPLE.field("messages").type)
    return pa.table(
        [columns[name] for name in EXAMPLE.names],
        schema=EXAMPLE.with_metadata(table.schema.metadata),
    )
