"""Which answers are worth learning from, beside others: rules over a table of narrow columns, and
one table of all rules.

A rule sees all training answers in canonical order, those too that are gone (their `reason` says
why), and gives a reason, or null, to each row; only of rows that are still there does it count.
Narrow columns are those of narrow.py. What else it found becomes columns of the verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from engine.curation.balance import Balanced, balance
from engine.curation.ledger import Across, groups_in, is_left_in, reasons_of
from engine.curation.selection import (
    Quality,
    best_first,
    minority,
    not_best,
    off_difficulty,
    pass_rates,
)
from engine.curation.votes import ballot_of, votes_of
from engine.job.spec import BalanceSpec, CurateSpec
from engine.rows.records import COMPLETION_KEY
from engine.stages.curate.grading import Grader
from engine.stages.curate.twins import Alike

DUPLICATE = "duplicate_answer"
NEAR_DUPLICATE = "near_duplicate"


@dataclass(frozen=True)
class Ruled:
    """A reason or null of each row; columns of CompletionVerdict; and what is doubtful."""

    reasons: pa.Array
    found: dict[str, pa.Array] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    """What rules may be told besides the spec: the job's seed, and who finds twins among rows of
    these ranks."""

    seed: int
    find_twins: Callable[[pa.Table, np.ndarray], Alike]
    grader: Grader | None = None


Settings = dict[str, Any]
SettingsOf = Callable[[CurateSpec, Panel], Settings | None]


def agrees_with_most(table: pa.Table, *, min_agreement: float, across: Across) -> Ruled:
    """Drop what is not the answer of most samples, of prompts without a reference."""
    ballot = ballot_of(table, across=across)
    votes, agreement = votes_of(ballot)
    votes_there = pa.array(votes, pa.int32(), mask=votes == 0)
    found = {"votes": votes_there, "agreement": _known(agreement)}
    return Ruled(minority(ballot, min_agreement=min_agreement), found)


def has_difficulty(table: pa.Table, *, keep: Sequence[float], across: Across) -> Ruled:
    """Drop prompts that nearly all or hardly any of their answers get right."""
    lowest, highest = keep
    rates = pass_rates(table, across=across)
    reasons = off_difficulty(table, rates, keep=(lowest, highest))
    return Ruled(reasons, {"difficulty": _known(rates)})


def is_new(table: pa.Table) -> Ruled:
    """Drop an answer that the same prompt already has; the first in canonical order stays."""
    rows = still_there(table)
    prompt_ids = table["prompt_id"].to_numpy()[rows]
    said = table["said"].to_numpy()[rows]
    order = np.lexsort((said, prompt_ids))  # stable: equal ones stay in canonical order
    is_copy = np.zeros(len(rows), bool)
    same_prompt = np.diff(prompt_ids[order]) == 0
    same_words = said[order][1:] == said[order][:-1]
    is_copy[order[1:]] = same_prompt & same_words
    return Ruled(reasons_of(len(table), {DUPLICATE: rows[is_copy]}))


def is_good_enough(table: pa.Table, *, grader: Grader, pairs: bool, across: Across) -> Ruled:
    """Drop answers that the judge grades too low, or not readably; and find the score by which the
    best are chosen, of votes on `pairs` or of grades."""
    rows = still_there(table)
    scores = np.full(len(table), np.nan)
    reasons = {}
    at_least = grader.spec.at_least
    if at_least is not None or not pairs:
        scores[rows] = grader.grades(table.take(rows))
    if at_least is not None:
        is_graded = ~np.isnan(scores[rows])
        is_low = scores[rows] < at_least
        reasons = {"low_grade": rows[is_low], "ungraded": rows[~is_graded]}
        rows = rows[is_graded & ~is_low]
    if pairs:
        groups = groups_in(table, across).of_row_N[rows]
        scores[rows] = grader.points(table.take(rows), groups)
    return Ruled(reasons_of(len(table), reasons), {"score": _known(scores)})


def is_among_the_best(
    table: pa.Table, *, per_prompt: int, by: Sequence[Any], across: Across, seed: int
) -> Ruled:
    """Drop all but the best answers of a prompt."""
    qualities: list[Quality] = ["score" if name == "judge" else name for name in by]
    reasons = not_best(table, per_prompt=per_prompt, by=qualities, across=across, seed=seed)
    return Ruled(reasons)


def is_no_twin(
    table: pa.Table, *, find: Callable[[pa.Table, np.ndarray], Alike], seed: int
) -> Ruled:
    """Drop near duplicates of an example of another prompt: what is known to be right stays before
    what is not, then the better graded, the shorter, and what was drawn."""
    rows = still_there(table)
    alive = table.take(rows)
    alike = find(alive, _rank(alive, seed))
    gone = rows[alike.twins.rows]
    stays = rows[alike.twins.twin_of]
    cluster = _scattered(table, rows, pa.array(rows[alike.clusters]))
    found = {"cluster": cluster}
    for name in COMPLETION_KEY:
        found[f"twin_{name}"] = _scattered(table, gone, table[name].take(stays))
    found["jaccard"] = _scattered(table, gone, pa.array(alike.twins.jaccard))
    return Ruled(reasons_of(len(table), {NEAR_DUPLICATE: gone}), found)


def is_within_caps(table: pa.Table, *, spec: BalanceSpec, seed: int) -> Ruled:
    """Drop what is too much of a label, source, language or length."""
    by = spec.by
    if by.startswith("meta."):
        table = table.append_column(by, table["group"])
    done = balance(table, by=by, seed=seed, most=spec.most, share=spec.share)
    return Ruled(done.reasons, warnings=_doubts(spec, done))


def still_there(table: pa.Table) -> np.ndarray:
    """The rows that no filter or rule has dropped."""
    return np.flatnonzero(is_left_in(table))


def _rank(table: pa.Table, seed: int) -> np.ndarray:
    """(N,) the place of each row where the best are first."""
    by: list[Quality] = ["correct", "score", "shorter"]
    if "score" not in table.column_names:
        by.remove("score")
    keys = best_first(table, by, seed, "near_duplicates")
    rank = np.empty(len(table), np.int64)
    rank[np.lexsort(keys[::-1])] = np.arange(len(table))
    return rank


def _scattered(table: pa.Table, rows: np.ndarray, values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column with the values at these rows, and null elsewhere."""
    at = np.zeros(len(table), np.int64)
    at[rows] = np.arange(len(rows))
    has_none = np.ones(len(table), bool)
    has_none[rows] = False
    taken = values.take(pa.array(at, mask=has_none))
    return taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken


def _known(values: np.ndarray) -> pa.Array:
    """NaN becomes null."""
    return pa.array(values, pa.float64(), mask=np.isnan(values))


def _doubts(spec: BalanceSpec, done: Balanced) -> list[str]:
    warnings = []
    if not done.before:
        warnings.append(
            f"curate.balance.by={spec.by}: no example has one, so nothing was capped; name what"
            " prompts have (a field of meta, source), or take balance out"
        )
    elif done.unknown:
        warnings.append(
            f"curate.balance caps {', '.join(done.unknown)}, which no example has: {spec.by} is"
            f" {', '.join(list(done.before)[:10])}; correct the names"
        )
    if not done.is_met:
        warnings.append(
            f"curate.balance.share={spec.share} cannot be met by {len(done.before)} values of"
            f" {spec.by}, so nothing was dropped for it; raise it, or use most"
        )
    return warnings


def _across(spec: CurateSpec) -> Across:
    return spec.select.across if spec.select else None


def _majority(spec: CurateSpec, panel: Panel) -> Settings | None:
    if spec.majority is None:
        return None
    return {"min_agreement": spec.majority.min_agreement, "across": _across(spec)}


def _difficulty(spec: CurateSpec, panel: Panel) -> Settings | None:
    if spec.difficulty is None:
        return None
    return {"keep": spec.difficulty.keep, "across": _across(spec)}


def _exact(spec: CurateSpec, panel: Panel) -> Settings | None:
    return {} if spec.dedup == "exact" else None


def _judge(spec: CurateSpec, panel: Panel) -> Settings | None:
    if panel.grader is None:
        return None
    pairs = spec.select is not None and "judge" in spec.select.by
    return {"grader": panel.grader, "pairs": pairs, "across": _across(spec)}


def _select(spec: CurateSpec, panel: Panel) -> Settings | None:
    if spec.select is None:
        return None
    return {**spec.select.model_dump(), "seed": panel.seed}


def _near_duplicates(spec: CurateSpec, panel: Panel) -> Settings | None:
    if spec.near_duplicates is None:
        return None
    return {"find": panel.find_twins, "seed": panel.seed}


def _balance(spec: CurateSpec, panel: Panel) -> Settings | None:
    if spec.balance is None:
        return None
    return {"spec": spec.balance, "seed": panel.seed}


_QUALITY = ("correct", "completion_tokens")
# In the order in which they judge, after all filters. The second entry gives a rule's settings from
# the spec (None leaves it out), the third names the narrow columns that it reads besides key, split
# and reason.
RULES: dict[str, tuple[Callable[..., Ruled | pa.Array], SettingsOf, tuple[str, ...]]] = {
    "majority": (agrees_with_most, _majority, ("task", "answer", "correct")),
    "difficulty": (has_difficulty, _difficulty, ("correct",)),
    "duplicate": (is_new, _exact, ("said",)),
    "judge": (is_good_enough, _judge, ()),
    "select": (is_among_the_best, _select, _QUALITY),
    "near_duplicates": (is_no_twin, _near_duplicates, _QUALITY),
    "balance": (
        is_within_caps,
        _balance,
        ("label", "source", "language", "group", "correct", "completion_tokens"),
    ),
}
