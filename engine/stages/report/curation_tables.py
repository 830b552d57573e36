"""What curate left: the funnel, how varied the examples are, and a few answers that each reason
dropped. The whole of it is in curate's verdicts/*.parquet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from engine.rows.records import COMPLETION_KEY, Completion, Prompt
from engine.rows.tables import read_tables, to_rows
from engine.run.manifests import Finished
from engine.stages.report.examples import Shown
from engine.stages.report.judge_table import took
from engine.stages.report.table import Block, Table, figure, share, words

EACH = 3  # answers of a reason
KEPT = "kept"
_VERDICT = (*COMPLETION_KEY, "split", "filter", "reason")
_MOST_VALUES = 20  # of a column that examples are counted by

Key = tuple[int, str, int]


def curation(report: Block) -> list[Table]:
    """What each filter left, and how varied that is."""
    tables = [_funnel(report["curate"])]
    diversity = report["curate"].get("diversity")
    if diversity is not None:
        tables += [_diversity(diversity), *_counts(diversity)]
    return tables


def _funnel(curate: Block) -> Table:
    rows = []
    by_filter = curate.get("dropped_by") or {}
    last_lost = curate.get("prompts_with_no_answer_left") or {}
    prompts = curate.get("prompts") or 0
    for name, left in curate["funnel"]:
        prompts -= last_lost.get(name, 0)
        reasons = by_filter.get(name, {})
        dropped = ", ".join(f"{words(reason)} {count:,}" for reason, count in reasons.items())
        of_all = share(left / max(1, curate["rows_in"]))
        rows.append([words(name), f"{left:,}", of_all, f"{prompts:,}", dropped])
    most_first = sorted(curate["dropped"].items(), key=lambda item: -item[1])
    reasons = ", ".join(f"{words(reason)} {count:,}" for reason, count in most_first)
    note = (
        f"{curate['rows_kept']:,} of {curate['rows_in']:,} kept. Dropped: {reasons or 'nothing'}."
    )
    if judge := curate.get("judge"):
        note += f" {judge['replies']:,} replies of the judge {judge['name']} took {took(judge)}."
    header = ["after", "rows", "of all", "prompts with an answer", "dropped"]
    return Table("Curation", header, rows, note)


def _diversity(diversity: Block) -> Table:
    named = {
        "distinct words (distinct-1)": diversity["distinct_1"],
        "distinct pairs of words (distinct-2)": diversity["distinct_2"],
        f"begin with “{diversity['opening']}”": diversity["opening_share"],
        f"Vendi score of {diversity['vendi_sample']:,} answers": diversity["vendi"],
        "entropy of near-duplicate clusters before they went (bits)": diversity.get("cluster_bits"),
        "the same, of the most that can be": diversity.get("cluster_evenness"),
    }
    rows = [[name, figure(value)] for name, value in named.items()]
    note = (
        f"Of {diversity['sample']:,} training answers, drawn by lot: compare with a sample of the"
        " same size alone. The Vendi score sees words and no meaning: one sentence with other"
        " numbers counts as many answers. Nothing was dropped for these."
    )
    return Table("Diversity", ["", "value"], rows, note, is_part=True)


def _counts(diversity: Block) -> list[Table]:
    tables = []
    for column, counts in diversity.get("counts", {}).items():
        rows = []
        for value, (before, after) in list(counts.items())[:_MOST_VALUES]:
            rows.append([value, f"{before:,}", f"{after:,}", share(after / max(1, before))])
        more = len(counts) - len(rows)
        note = f"And {more:,} more." if more else ""
        title = f"By {words(column)}"
        tables.append(Table(title, ["", "answers", "kept", "share kept"], rows, note, is_part=True))
    return tables


def judged_examples(
    curate: Finished, generate: Finished, prompts: Finished, shown: Shown
) -> list[Table]:
    """Three training answers that were kept, and three of each reason; none where curate wrote no
    verdicts."""
    files = [curate.folder / name for name in sorted(curate.manifest.files)]
    files = [file for file in files if file.parent.name == "verdicts"]
    reasons = [KEPT, *sorted(curate.manifest.dropped)]
    chosen = _choose(read_tables(files, _VERDICT), reasons)
    keys = [key for of_reason in chosen.values() for key in of_reason]
    if not keys:
        return []
    answers = _answers(generate, keys)
    asked = _prompts(prompts, [key[0] for key in keys])
    rows = []
    for reason, of_reason in chosen.items():
        for key in of_reason:
            if key in answers and key[0] in asked:
                question = shown(asked[key[0]].messages[-1]["content"])
                gold = shown(asked[key[0]].reference or "")
                rows.append([words(reason), question, gold, shown(answers[key].said)])
    note = f"The first {EACH} of each kind; all are in {curate.folder.name}/verdicts."
    header = ["", "prompt", "reference", "answer"]
    return [Table("Kept and dropped answers", header, rows, note, is_text=True)]


def _choose(tables: Iterable[pa.Table], reasons: list[str]) -> dict[str, list[Key]]:
    """The first keys of each reason, from no more tables than it takes."""
    chosen: dict[str, list[Key]] = {reason: [] for reason in reasons}
    for table in tables:
        train = table.filter(pc.field("split") == "train")
        told = train["reason"].fill_null(KEPT)
        train = train.append_column("told", told)
        for reason, keys in chosen.items():
            wanted = EACH - len(keys)
            mine = train.filter(pc.field("told") == reason).slice(0, wanted).select(COMPLETION_KEY)
            keys += [tuple(row.values()) for row in mine.to_pylist()]
        if all(len(keys) == EACH for keys in chosen.values()):
            break
    return chosen


def _answers(generate: Finished, keys: list[Key]) -> Mapping[Key, Completion]:
    wanted = set(keys)
    ids = pa.array(sorted({key[0] for key in keys}), pa.int64())
    columns = [*COMPLETION_KEY, "split", "seed", "status", "text", "tool_calls"]
    found: dict[Key, Completion] = {}
    for table in read_tables(generate.files(), columns, optional=["tool_calls"]):
        if len(found) == len(wanted):
            break
        for row in _rows_of(table, ids, Completion):
            if row.key in wanted:
                found[row.key] = row
    return found


def _prompts(prompts: Finished, wanted: list[int]) -> Mapping[int, Prompt]:
    ids = pa.array(sorted(set(wanted)), pa.int64())
    found: dict[int, Prompt] = {}
    for table in read_tables(prompts.files("train")):
        if len(found) == len(ids):
            break
        for row in _rows_of(table, ids, Prompt):
            found[row.prompt_id] = row
    return found


def _rows_of(table: pa.Table, ids: pa.Array, kind: Any) -> list[Any]:
    return to_rows(table.filter(pc.field("prompt_id").isin(ids)), kind)
