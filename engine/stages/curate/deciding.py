"""Second pass: what each answer comes to beside all others, by narrow columns alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.curation.ledger import is_left_in
from engine.errors import EngineError, StageError
from engine.job.spec import CurateSpec
from engine.run.progress import Progress
from engine.stages.curate.narrow import CANONICAL, load_narrow
from engine.stages.curate.rules import RULES, Panel, Ruled
from engine.store.paths import Folder

Rule = Callable[[pa.Table], Ruled | pa.Array]


@dataclass(frozen=True)
class Decided:
    """All answers in canonical order, as in `load_narrow`, with the filter and the reason of those
    that go; which columns the rules found; and what is doubtful."""

    table: pa.Table
    found: list[str]
    warnings: list[str]


def rules_for(spec: CurateSpec, panel: Panel) -> dict[str, Rule]:
    """The rules that the spec asks for, in order."""
    rules: dict[str, Rule] = {}
    for name, (rule, settings_of, _) in RULES.items():
        settings = settings_of(spec, panel)
        if settings is not None:
            rules[name] = partial(rule, **settings)
    return rules


def decide(
    rules: Mapping[str, Rule], files: Sequence[Folder], more: Sequence[str], progress: Progress
) -> Decided:
    """Let each rule look at the training answers of all judged `files`; `more` are columns that
    the caller reads. Validation answers are as they were judged."""
    columns = list(more)
    for name in rules:
        columns += RULES[name][2]
    table = load_narrow(files, columns)
    train = table.filter(pc.field("split") == "train")
    rest = table.filter(pc.field("split") != "train")
    del table
    warnings: list[str] = []
    found: list[str] = []
    for name, rule in rules.items():
        progress.update(note=f"rule {name}")
        ruled = _ruled(name, rule, train)
        if not isinstance(ruled, Ruled):
            ruled = Ruled(ruled)
        train = _with_reasons(train, name, ruled.reasons)
        for column, values in ruled.found.items():
            train = train.append_column(column, values)
            found.append(column)
        warnings += ruled.warnings
    together = pa.concat_tables([train, rest], promote_options="default")
    return Decided(together.sort_by(CANONICAL).combine_chunks(), found, warnings)


def _ruled(name: str, rule: Rule, train: pa.Table) -> Ruled | pa.Array:
    """StageError where it raises: a rule sees all answers at once, so none of them can be named."""
    try:
        return rule(train)
    except EngineError:
        raise
    except Exception as error:
        raise StageError(
            f"curate: rule {name} failed on {len(train):,} answers"
            f" ({type(error).__name__}: {error}); mend it, or take its field out of the curate"
            " block. What filters found is kept: the same command goes on from there"
        ) from error


def _with_reasons(table: pa.Table, name: str, reasons: pa.Array) -> pa.Table:
    """The table in which rows that are still there go where there is a reason."""
    goes = pa.array(is_left_in(table) & reasons.is_valid().to_numpy(zero_copy_only=False))
    for column, value in (("filter", pa.scalar(name)), ("reason", reasons)):
        at = table.schema.get_field_index(column)
        values = pc.call_function("if_else", [goes, value, table[column]])
        table = table.set_column(at, column, values)
    return table


def lost_by(table: pa.Table, filters: Sequence[str], split: str) -> dict[str, dict[str, int]]:
    """Answers that went, by filter and reason."""
    lost: dict[str, dict[str, int]] = {name: {} for name in filters}
    gone = table.filter((pc.field("split") == split) & pc.field("reason").is_valid())
    counted = gone.group_by(["filter", "reason"]).aggregate([([], "count_all")])
    rows = sorted(counted.to_pylist(), key=lambda row: (-row["count_all"], row["reason"]))
    for row in rows:
        lost[row["filter"]][row["reason"]] = row["count_all"]
    return lost


def prompts_lost_by(table: pa.Table, filters: Sequence[str]) -> tuple[int, dict[str, int]]:
    """Prompts with a training answer, and how many of them each filter took the last one."""
    train = table.filter(pc.field("split") == "train")
    place_of = {name: place for place, name in enumerate(filters)}
    names = train["filter"].combine_chunks().dictionary_encode()
    places = [place_of[name] for name in names.dictionary.to_pylist()]
    # of an answer that stays, behind all filters
    codes = names.indices.fill_null(len(places)).to_numpy()
    survived = np.array([*places, len(filters)])[codes]
    prompt_ids = train["prompt_id"].to_numpy()
    starts = np.flatnonzero(np.diff(prompt_ids, prepend=prompt_ids[:1] - 1))
    if not len(starts):
        return 0, {}
    furthest = np.maximum.reduceat(survived, starts)
    counts = np.bincount(furthest, minlength=len(filters))
    lost = {}
    for name, place in place_of.items():
        if counts[place]:
            lost[name] = int(counts[place])
    return len(starts), lost
