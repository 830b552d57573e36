"""What the stage says of itself: rows and prompts by filter, and what is doubtful."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from engine.run.facts import CurateInfo
from engine.run.judge_facts import CurateJudge
from engine.run.manifests import Counts, FileEntry
from engine.stages.curate.deciding import Decided, lost_by, prompts_lost_by
from engine.stages.curate.judging import FAILED
from engine.stages.curate.variety import diversity_of

FEW = 0.1  # of the answers, or of the prompts: below, a sentence says so
CHOSEN = ("select", "balance")  # what these take is not bad, there is enough of it

Funnel = list[tuple[str, int]]
Lost = dict[str, dict[str, int]]  # by filter and reason


def counts_of(
    decided: Decided,
    filters: Sequence[str],
    files: Mapping[str, FileEntry],
    answers: Sequence[str],
    judge: CurateJudge | None,
) -> Counts:
    """Rows in and out, by reason; `filters` are all that judged, in order, `answers` a sample of
    those that stay, and `judge` a model that was asked."""
    table = decided.table
    train = table.filter(pc.field("split") == "train")
    rows_in = len(train)
    rows_out = _rows_of(files, "train")
    lost = lost_by(table, filters, "train")
    unusable = lost_by(table, filters, "validation")
    prompts, last_lost = prompts_lost_by(table, filters)
    dropped = _by_reason(lost)
    warnings = [
        *_few_left(rows_in, rows_out, lost, prompts, last_lost),
        *_failed(table, lost),
        *decided.warnings,
    ]
    info = CurateInfo(
        funnel=_funnel(rows_in, lost),
        dropped_by={name: reasons for name, reasons in lost.items() if reasons},
        prompts=prompts,
        prompts_with_no_answer_left=last_lost,
        validation_examples=_rows_of(files, "validation"),
        validation_unusable=dict(_by_reason(unusable)),
        diversity=diversity_of(train, answers),
        judge=judge,
        warnings=warnings,
    )
    return Counts(rows_in, rows_out, files, dropped, info)


def _rows_of(files: Mapping[str, FileEntry], split: str) -> int:
    prefix = f"data/{split}-"
    return sum(entry.rows for name, entry in files.items() if name.startswith(prefix))


def _by_reason(lost: Lost) -> Counter[str]:
    counted: Counter[str] = Counter()
    for reasons in lost.values():
        counted.update(reasons)
    return counted


def _funnel(rows_in: int, lost: Lost) -> Funnel:
    """[filter, rows left] in the order in which filters judge."""
    left = rows_in
    funnel: Funnel = [("completions", rows_in)]
    for name, reasons in lost.items():
        left -= sum(reasons.values())
        funnel.append((name, left))
    return funnel


def _few_left(
    rows_in: int,
    rows_out: int,
    lost: Lost,
    prompts: int,
    last_lost: Mapping[str, int],
) -> list[str]:
    by_reason = _by_reason(lost).most_common()
    listed = ", ".join(f"{reason} {count:,}" for reason, count in by_reason)
    chosen_from = rows_in - sum(sum(lost.get(name, {}).values()) for name in CHOSEN)
    if not rows_out:
        return [
            f"no example is left: all {rows_in} answers were dropped ({listed}); look at them, or"
            " relax the curate block"
        ]
    if rows_out < FEW * chosen_from:
        return [
            f"only {rows_out:,} of {rows_in:,} answers are kept ({listed}): too few to"
            " learn from what was paid for; look at the"
            " dropped ones, mend what produces them (the prompt, max_tokens, the teacher), or relax"
            " the curate block"
        ]
    left = prompts - sum(last_lost.values())
    if left < FEW * prompts:
        by_filter = ", ".join(f"{name} {count:,}" for name, count in last_lost.items())
        return [
            f"only {left:,} of {prompts:,} prompts keep an answer (the last one went to"
            f" {by_filter}): the student learns next to nothing of what was asked; look at the"
            " verdicts, and relax what takes most in the curate block"
        ]
    return []


def _failed(table: pa.Table, lost: Lost) -> list[str]:
    """A filter that raised on some answers, with the first of them."""
    warnings = []
    for name, reasons in lost.items():
        count = reasons.get(FAILED)
        if not count:
            continue
        is_such = (pc.field("filter") == name) & (pc.field("reason") == FAILED)
        first = table.filter(is_such).slice(0, 1).to_pylist()[0]
        warnings.append(
            f"filter {name} failed on {count:,} answers, which were dropped as {FAILED}: first on"
            f" prompt {first['prompt_id']}, teacher '{first['teacher']}', sample"
            f" {first['sample_index']} ({first['error']}); mend it, and curate again with --force"
        )
    return warnings
