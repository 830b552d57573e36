"""Stage 3, completions -> examples: keep, or drop with a reason.

Three passes. *Judge*: each answer by itself, a group of files at a time (judging.py). *Decide*:
answers beside each other, by narrow columns (deciding.py). *Write*: what stays, and a verdict of
each answer (examples.py). The first and the last are many tasks, in this process or side by side;
each leaves whole files, which another start does not make again. Examples leave in canonical order,
by prompt_id, teacher and sample_index: which rows stay and what each file holds depends on the set
of completions alone, not on the files that they lie in, their order, or who worked on them.
Validation answers pass through uncurated: they measure the training loss on what the teacher says,
good or bad.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.asking.dispatch import Stream
from engine.backends import math_verifier
from engine.backends.processes import Spread, here
from engine.backends.spread import spread_for
from engine.job.spec import CurateSpec, NearDuplicatesSpec
from engine.rows.tables import parquet_bytes
from engine.run.context import Context
from engine.run.facts import PromptsInfo
from engine.run.manifests import Counts, FileEntry, Finished
from engine.stages.curate.deciding import Decided, decide, rules_for
from engine.stages.curate.examples import (
    Settled,
    Spilling,
    both_sources,
    list_piles,
    piles_of,
    settle_group,
    write_pile,
)
from engine.stages.curate.grading import Grader, grader_for
from engine.stages.curate.groups import GROUP_ROWS, Group, groups_of
from engine.stages.curate.held_out import index_of
from engine.stages.curate.judging import Judging, Source, filters_of, judge_group
from engine.stages.curate.making import Made, digest_of, make_all
from engine.stages.curate.outcome import counts_of
from engine.stages.curate.prompts_by_id import forget, prompts_of
from engine.stages.curate.rules import Panel
from engine.stages.curate.twins import Finding, find_twins
from engine.stages.curate.variety import sample_of
from engine.store.paths import remove_tree

# of examples in memory, and about what one file of them holds; training reads a file whole
BUCKET_BYTES = 256 * 2**20
WORK = "work"  # what passes leave for each other, in the stage's folder
_WRITTEN_BY = ("file", "row", "pile", "is_redacted", "filter", "reason")


@dataclass(frozen=True)
class _Desk:
    """Where the stage works, and how."""

    spec: CurateSpec
    inputs: Mapping[str, Finished]
    out: Path
    ctx: Context
    groups: Sequence[Group]
    spread: Spread

    def make(
        self, work: Callable, orders: Sequence, note: str, told: str, basis: str = ""
    ) -> list[Made]:
        """What was made of each order; `told` counts what a pass is done with."""
        done = 0

        def show(made: Made) -> None:
            nonlocal done
            done += made.told.get(told, 0)
            self.ctx.progress.update(done=done)

        self.ctx.progress.update(note=note)
        receipts = f"{WORK}/receipts/{told}"
        return make_all(
            work,
            orders,
            self.out,
            receipts=receipts,
            basis=basis,
            spread=self.spread,
            on_made=show,
        )


def run(
    spec: CurateSpec,
    inputs: Mapping[str, Finished],
    out: Path,
    ctx: Context,
    *,
    bucket_bytes: int = BUCKET_BYTES,
    group_rows: int = GROUP_ROWS,
    open_algebra: math_verifier.OpenAlgebra = math_verifier.opened,
    spread: Spread | None = None,
    stream: Stream | None = None,
) -> Counts:
    """Judge every training completion; `stream` reaches the judge's replicas. StageError if a
    completion belongs to no prompt, or where the judge's budget is used up."""
    (out / "data").mkdir(parents=True, exist_ok=True)
    groups = groups_of(inputs["generate"], group_rows)
    with spread_for(spec.workers, len(groups)) if spread is None else nullcontext(spread) as spread:
        desk = _Desk(spec, inputs, out, ctx, groups, spread)
        filters, judged = _judge(desk, open_algebra)
        grader = _grader(desk, stream)
        rules, decided = _decide(desk, judged, grader)
        files, answers = _write(desk, decided, judged, bucket_bytes)
    judge = grader.facts if grader else None
    counts = counts_of(decided, [*filters, *rules], files, answers, judge)
    if (out / WORK).exists():
        remove_tree(out / WORK)
    forget()
    return counts


def _judge(desk: _Desk, open_algebra: math_verifier.OpenAlgebra) -> tuple[list[str], list[Made]]:
    """The first pass: names of the filters, and what was made of each group."""
    asked = desk.inputs["prompts"]
    assert isinstance(asked.manifest.info, PromptsInfo)
    if desk.spread is not here:  # each task has one processor
        open_algebra = partial(open_algebra, workers=1)
    plan = Judging(
        desk.spec,
        prompts_of(asked),
        asked.manifest.info.labels,
        desk.out,
        open_algebra,
        index_of(desk.spec.decontaminate, asked),
    )
    made = desk.make(partial(judge_group, plan), desk.groups, "judging answers", "rows")
    return filters_of(desk.spec), made


def _grader(desk: _Desk, stream: Stream | None) -> Grader | None:
    return grader_for(
        desk.spec.judge,
        stream,
        files=desk.inputs["generate"].files(),
        prompts=prompts_of(desk.inputs["prompts"]),
        out=desk.out,
        ctx=desk.ctx,
    )


def _decide(
    desk: _Desk, judged: Sequence[Made], grader: Grader | None
) -> tuple[list[str], Decided]:
    """The second pass: names of the rules, and what every answer comes to."""
    finding = Finding(
        desk.spec.near_duplicates or NearDuplicatesSpec(),
        desk.groups,
        _starts(judged),
        prompts_of(desk.inputs["prompts"]),
        desk.out,
        desk.spread,
    )
    panel = Panel(desk.ctx.seed, partial(find_twins, finding), grader)
    rules = rules_for(desk.spec, panel)
    files = [desk.out / WORK / f"judged/{group.name}.parquet" for group in desk.groups]
    more = ["pii"] if _redacts(desk.spec) else []
    return list(rules), decide(rules, files, more, desk.ctx.progress)


def _starts(judged: Sequence[Made]) -> np.ndarray:
    """Where each group starts among all answers, and where they end."""
    rows = [made.told["rows"] for made in judged]
    return np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])


def _redacts(spec: CurateSpec) -> bool:
    return spec.pii is not None and spec.pii.action == "redact"


def _write(
    desk: _Desk, decided: Decided, judged: Sequence[Made], bucket_bytes: int
) -> tuple[dict[str, FileEntry], list[str]]:
    """The third pass: files of verdicts and examples, and the answers that `diversity_of` wants."""
    sources: list[Source] = []
    for made in judged:
        for source in made.told["sources"]:
            sources += both_sources(source)
    table = _with_piles(desk.spec, decided.table, sources, bucket_bytes)
    order = np.argsort(table["place"].to_numpy())
    narrow = table.select([*_WRITTEN_BY, *decided.found])
    basis = digest_of(parquet_bytes(narrow))
    orders = []
    for group, (first, end) in zip(desk.groups, pairwise(_starts(judged)), strict=True):
        orders.append(Settled(group, narrow.take(order[first:end])))
    kinds = desk.spec.pii.kinds or None if desk.spec.pii else None
    spilling = Spilling(prompts_of(desk.inputs["prompts"]), desk.out, kinds)
    settle = partial(settle_group, spilling)
    settled = desk.make(settle, orders, "taking what stays", "examples", basis)
    listed = list_piles(table, sources, desk.out, sample_of(table, desk.ctx.seed))
    written = desk.make(write_pile, listed, "writing examples", "written", basis)
    files: dict[str, FileEntry] = {}
    answers: list[str] = []
    for made in (*settled, *written):
        files |= made.files
        answers += made.told.get("answers", [])
    files = {name: entry for name, entry in files.items() if not name.startswith(WORK)}
    return files, answers


def _with_piles(
    spec: CurateSpec, table: pa.Table, sources: Sequence[Source], bucket_bytes: int
) -> pa.Table:
    """All answers, with where each goes."""
    is_redacted = np.zeros(len(table), bool)
    if _redacts(spec):
        kinds_found = pc.call_function("list_value_length", [table["pii"]])
        is_redacted = kinds_found.fill_null(0).to_numpy() > 0
    table = table.append_column("is_redacted", pa.array(is_redacted))
    piles = piles_of(table, sources, bucket_bytes)
    return table.append_column("pile", pa.array(piles))
