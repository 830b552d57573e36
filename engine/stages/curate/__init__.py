"""Stage 3, completions -> examples: keep, or drop with a reason.

Examples leave in canonical order, by prompt_id, teacher and sample_index. Which rows stay and what
each file holds depends on the set of completions alone, not on the files that they lie in or the
order in which they came. Two passes, because answers with their signals do not fit in memory:
judging.py reads the light columns and decides, examples.py carries what stays. Validation answers
pass through uncurated: they measure the training loss on what the teacher says, good or bad.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from engine.backends import math_verifier
from engine.job.spec import CurateSpec
from engine.run.context import Context
from engine.run.facts import CurateInfo, PromptsInfo
from engine.run.manifests import Counts, Finished
from engine.stages.curate.examples import write_examples
from engine.stages.curate.judging import build_judge, judge_answers
from engine.stages.curate.piles import Piles, spill_folder
from engine.stages.curate.prompts_by_id import load_prompts
from engine.stages.curate.referee import referee_for

FEW = 0.1  # of the answers: below, a sentence says so
# of examples in memory, and about what one file of them holds; training reads a file whole
BUCKET_BYTES = 256 * 2**20

Funnel = list[tuple[str, int]]


def run(
    spec: CurateSpec,
    inputs: Mapping[str, Finished],
    out: Path,
    ctx: Context,
    *,
    bucket_bytes: int = BUCKET_BYTES,
    open_algebra: math_verifier.OpenAlgebra = math_verifier.opened,
) -> Counts:
    """Judge every training completion. StageError if a completion belongs to no prompt."""
    (out / "data").mkdir(parents=True, exist_ok=True)
    asked = inputs["prompts"]
    prompts = load_prompts(asked)
    completions = inputs["generate"].files()
    assert isinstance(asked.manifest.info, PromptsInfo)
    labels = asked.manifest.info.labels
    with referee_for(spec.verify, labels, open_algebra) as referee, spill_folder(out) as spill:
        judge = build_judge(spec, referee)
        answers = Piles(spill / "answers", bucket_bytes)
        kept = judge_answers(completions, prompts, judge, answers, ctx.progress)
        files = write_examples(
            completions,
            kept,
            prompts,
            out,
            piles=Piles(spill / "examples", bucket_bytes),
            bucket_bytes=bucket_bytes,
            progress=ctx.progress,
        )
    rows_out = _rows_of(files, "train")
    dropped = sum(judge.lost.values(), Counter())
    info = CurateInfo(
        funnel=_funnel(judge.rows_in, judge.lost),
        validation_examples=_rows_of(files, "validation"),
        validation_unusable=dict(judge.unusable),
        warnings=_warnings(judge.rows_in, rows_out, dropped),
    )
    return Counts(judge.rows_in, rows_out, files, dropped, info)


def _rows_of(files: dict[str, int], split: str) -> int:
    prefix = f"data/{split}-"
    return sum(rows for name, rows in files.items() if name.startswith(prefix))


def _funnel(rows_in: int, lost: dict[str, Counter[str]]) -> Funnel:
    """[filter, rows left] in the order in which filters judge."""
    left = rows_in
    funnel: Funnel = [("completions", rows_in)]
    for name, reasons in lost.items():
        left -= reasons.total()
        funnel.append((name, left))
    return funnel


def _warnings(rows_in: int, rows_out: int, dropped: Counter[str]) -> list[str]:
    if not rows_out:
        listed = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
        return [
            f"no example is left: all {rows_in} answers were dropped ({listed}); look at them, or"
            " relax the curate block"
        ]
    if rows_out < FEW * rows_in:
        listed = ", ".join(f"{reason} {count:,}" for reason, count in dropped.most_common())
        return [
            f"only {rows_out:,} of {rows_in:,} answers are kept ({listed}): too few to"
            " learn from what was paid for; look at the"
            " dropped ones, mend what produces them (the prompt, max_tokens, the teacher), or relax"
            " the curate block"
        ]
    return []
