"""The second look: which prompts are for validation, and which leave because of what others say.

In this order: whole groups are drawn for validation; training prompts that hold test data leave;
then those that are nearly the same as an earlier prompt; then validation prompts that still have a
twin in training, since otherwise they would measure what was learnt by heart. Where nobody asked
for groups (`split_by`) validation stays as it is, and `decontaminate` takes the twins from
training.

    N   prompts, as numbers of Staged
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from engine.backends.processes import Spread
from engine.curation.contamination import AT_LEAST
from engine.curation.near_duplicates import twins
from engine.curation.splits import groups_of, is_validation, leaves_validation
from engine.errors import InputError
from engine.job.spec import PromptsSpec
from engine.stages.prompts.drawing import is_for_validation
from engine.stages.prompts.leaks import Leaks, Training, Validation
from engine.stages.prompts.reading import lacking, split_problem
from engine.stages.prompts.staged import Staged
from engine.stages.prompts.twins import NO_PAIRS, Pairs, pairs_of

CLUSTER_JACCARD = 0.8  # from which prompts are nearly the same where the job does not say
TWINS = pa.schema(
    [
        ("prompt_id", pa.int64()),
        ("source_id", pa.string()),
        ("split", pa.string()),
        ("reason", pa.string()),
        ("is_kept", pa.bool_()),
        ("twin_id", pa.int64()),  # the prompt that stays; null: a row of a file of test data
        ("twin", pa.string()),  # its source_id, or file:line
        ("jaccard", pa.float64()),  # null where it was not by that
        ("coverage", pa.float64()),  # share of the twin's rare word 5-grams
    ]
)
_SHOWN = 3


class Chosen(NamedTuple):
    """What becomes of N prompts."""

    is_validation_N: np.ndarray
    is_kept_N: np.ndarray
    dropped: Counter[str]
    contaminated_by: Counter[str]  # rows by file, or "validation"
    twins: pa.Table  # TWINS: each row that left, or is flagged, with its twin
    warnings: list[str]


def choose(staged: Staged, spec: PromptsSpec, seed: int, spread: Spread) -> Chosen:
    """InputError where half of the rows lack the column of `split_by`, or a file of test data
    cannot be read."""
    choice = _Choice(staged, spec, seed, spread)
    choice.find_twins()
    choice.split()
    if spec.decontaminate is not None:
        choice.drop_leaks()
    if spec.near_duplicates is not None:
        choice.drop_near_duplicates()
    if spec.split_by is not None:
        choice.leave_validation()
    elif spec.decontaminate is not None:
        choice.drop_validation_leaks()
    return choice.made()


class _Choice:
    """What is known of all prompts so far."""

    def __init__(self, staged: Staged, spec: PromptsSpec, seed: int, spread: Spread) -> None:
        self._staged = staged
        self._spec = spec
        self._seed = seed
        self._spread = spread
        self._narrow = staged.narrow()
        self._ids_N = self._narrow["prompt_id"].to_numpy()
        self._dialogues_N: np.ndarray | None = None
        if spec.turns == "each":
            self._dialogues_N = groups_of(self._narrow["dialogue"])
        self._groups_N = self._dialogues_N  # what repeats itself by nature
        self._pairs = NO_PAIRS
        self._is_validation_N = np.zeros(len(staged), bool)
        self._is_kept_N = np.ones(len(staged), bool)
        self._dropped: Counter[str] = Counter()
        self._contaminated_by: Counter[str] = Counter()
        self._twins: list[pa.Table] = []
        self._warnings: list[str] = []

    def find_twins(self) -> None:
        """Pairs of prompts that are nearly the same, where somebody asks."""
        if self._spec.split_by is None and self._spec.near_duplicates is None:
            return
        at_least = self._spec.near_duplicates or CLUSTER_JACCARD
        self._pairs = pairs_of(self._staged, self._dialogues_N, at_least, self._spread)

    def split(self) -> None:
        """Say which prompts are for validation."""
        spec = self._spec
        if spec.split_by is None:
            self._is_validation_N = is_for_validation(self._narrow, spec, self._seed)
            return
        self._groups_N = self._groups()
        self._is_validation_N = is_validation(
            self._ids_N, self._groups_N, spec.validation_fraction, self._seed
        )
        self._warn_of_large_groups()

    def _groups(self) -> np.ndarray:
        """What must not be torn apart (N,)."""
        links = [self._pairs.rows_P2]
        if self._spec.split_column is not None and self._spec.near_duplicates is None:
            links = []
        if self._dialogues_N is not None:
            links.append(_links(self._dialogues_N))
        values = self._column() if self._spec.split_column else self._narrow["prompt_id"]
        links_P2 = np.concatenate([np.zeros((0, 2), np.int64), *links])
        return groups_of(values, links_P2)

    def _column(self) -> pa.ChunkedArray:
        """Values of the column of `split_by`. InputError where half of the rows have none."""
        values = self._narrow["group"]
        missing = values.null_count
        rows = len(values)
        if problem := split_problem(self._spec, missing, rows, "of"):
            raise InputError(problem)
        if missing:
            told = lacking(self._spec, missing, rows, "of")
            self._warnings.append(f"{told}; each of them is a group of its own")
        return values

    def _warn_of_large_groups(self) -> None:
        """Where whole groups cannot make about `validation_fraction` of the prompts."""
        assert self._groups_N is not None
        prompts = len(self._staged)
        wanted = self._spec.validation_fraction * prompts
        largest = int(np.bincount(self._groups_N).max(initial=0))
        drawn = int(self._is_validation_N.sum())
        if largest > wanted > 0 and not wanted / 2 <= drawn <= 2 * wanted:
            self._warnings.append(
                f"prompts.split_by={self._spec.split_by}: {drawn:,} of {prompts:,} prompts are for"
                f" validation, because groups stay whole and the largest has {largest:,}; set"
                " another validation_fraction, or split by something finer"
            )

    def drop_leaks(self) -> None:
        """Training prompts that hold what stands in the files of test data leave, or are named."""
        if self._spec.decontaminate is not None and self._spec.decontaminate.against:
            leaks = self._training().with_files(self._spec)
            self._take(leaks)

    def drop_validation_leaks(self) -> None:
        """The same of validation prompts."""
        leaks = self._training().with_prompts(self._validation())
        self._take(leaks)

    def _training(self) -> Training:
        at_least = AT_LEAST
        if self._spec.decontaminate is not None:
            at_least = self._spec.decontaminate.coverage
        return Training(
            self._staged,
            self._is_training(),
            at_least,
            self._spread,
        )

    def _validation(self) -> Validation:
        rows = np.flatnonzero(self._is_validation_N & self._is_kept_N)
        if self._groups_N is None:  # each is its own
            return Validation(rows, rows)
        return Validation(rows, self._groups_N[rows])

    def _is_training(self) -> np.ndarray:
        return self._is_kept_N & ~self._is_validation_N

    def _take(self, leaks: Leaks) -> None:
        """Leaks leave training, or are flagged."""
        assert self._spec.decontaminate is not None
        flags = self._spec.decontaminate.action == "flag"
        self._contaminated_by.update(leaks.names)
        if not len(leaks.rows):
            return
        self._note(
            leaks.rows,
            "contaminated",
            keep=flags,
            twin_rows=leaks.twin_rows,
            twins=leaks.places,
            coverage=leaks.coverage,
        )
        verb = "are flagged" if flags else "leave training"
        self._warnings.append(
            f"{len(leaks.rows):,} training prompts hold test data and {verb}"
            f" ({self._examples(leaks.rows, leaks.places)}); twins.parquet names them all"
        )

    def drop_near_duplicates(self) -> None:
        """Training prompts that are nearly the same as an earlier one leave; what is for validation
        comes before all."""
        assert self._spec.near_duplicates is not None
        pairs = self._pairs.rows_P2
        both_kept = self._is_kept_N[pairs].all(axis=1)
        is_wanted = both_kept & ~self._is_validation_N[pairs].all(axis=1)
        wanted = self._pairs.where(is_wanted)
        rank_N = np.arange(len(self._staged)) + len(self._staged) * ~self._is_validation_N
        found = twins(wanted.rows_P2, wanted.jaccard_P, rank_N, self._spec.near_duplicates)
        before = int(self._is_training().sum())
        self._note(found.rows, "near_duplicate", twin_rows=found.twin_of, jaccard=found.jaccard)
        if 2 * len(found.rows) > before:
            self._warnings.append(
                f"{len(found.rows):,} of {before:,} training prompts are nearly the same as an"
                " earlier one and leave; if a long text that all prompts share makes them so, raise"
                " prompts.near_duplicates, or move that text into prompts.system"
            )

    def leave_validation(self) -> None:
        """Validation prompts with a twin in training leave the split altogether: in training they
        would be twins of what is still in validation."""
        is_kept = self._is_kept_N[self._pairs.rows_P2].all(axis=1)
        pairs = self._pairs.where(is_kept)
        similar = np.flatnonzero(leaves_validation(self._is_validation_N, pairs.rows_P2))
        validation = int((self._is_validation_N & self._is_kept_N).sum())
        partner, jaccard = _best_partner(pairs, similar)
        self._note(similar, "twin_in_training", twin_rows=partner, jaccard=jaccard)
        covered = self._training().twins_of(self._validation())
        self._note(
            covered.rows,
            "twin_in_training",
            twin_rows=covered.twin_rows,
            coverage=covered.coverage,
        )
        leaves = len(similar) + len(covered.rows)
        if leaves:
            self._warnings.append(
                f"{leaves:,} of {validation:,} validation prompts had a twin in training and leave"
                " validation; twins.parquet names them"
            )

    def _note(
        self,
        rows: np.ndarray,
        reason: str,
        *,
        keep: bool = False,
        twin_rows: np.ndarray | None = None,
        twins: Sequence[str] | None = None,
        jaccard: np.ndarray | None = None,
        coverage: np.ndarray | None = None,
    ) -> None:
        """Rows that leave for a reason, or `keep` their place, each with its twin."""
        if not keep:
            self._is_kept_N[rows] = False
            self._dropped[reason] += len(rows)
        is_validation_R = self._is_validation_N[rows]
        count = len(rows)
        twin_ids = pa.nulls(count, pa.int64())
        if twin_rows is not None:
            twin_ids = pa.array(self._ids_N[twin_rows])
            twins = self._source_ids(twin_rows)
        columns = {
            "prompt_id": pa.array(self._ids_N[rows]),
            "source_id": pa.array(self._source_ids(rows), pa.string()),
            "split": pa.array(np.where(is_validation_R, "validation", "train"), pa.string()),
            "reason": pa.array([reason] * count, pa.string()),
            "is_kept": pa.array([keep] * count, pa.bool_()),
            "twin_id": twin_ids,
            "twin": pa.array(twins, pa.string()),
            "jaccard": _or_nulls(jaccard, count),
            "coverage": _or_nulls(coverage, count),
        }
        self._twins.append(pa.table(columns, schema=TWINS))

    def _source_ids(self, rows: np.ndarray) -> list[str]:
        return self._narrow["source_id"].take(pa.array(rows)).to_pylist()

    def _examples(self, rows: np.ndarray, places: Sequence[str]) -> str:
        shown = []
        for source_id, place in zip(self._source_ids(rows[:_SHOWN]), places, strict=False):
            shown.append(f"{source_id} has {place}")
        if len(rows) > _SHOWN:
            shown.append("…")
        return ", ".join(shown)

    def made(self) -> Chosen:
        """The end of it."""
        return Chosen(
            self._is_validation_N,
            self._is_kept_N,
            +self._dropped,
            self._contaminated_by,
            pa.concat_tables([TWINS.empty_table(), *self._twins]),
            self._warnings,
        )


def _links(groups_N: np.ndarray) -> np.ndarray:
    """Pairs (P, 2) of rows that hold each group together: the first of a group with each other."""
    _, first, numbers_N = np.unique(groups_N, return_index=True, return_inverse=True)
    firsts_N = first[numbers_N]
    links = np.stack([firsts_N, np.arange(len(groups_N))], axis=1)
    return links[firsts_N < links[:, 1]]


def _or_nulls(values: np.ndarray | None, count: int) -> pa.Array:
    if values is None:
        return pa.nulls(count, pa.float64())
    return pa.array(values.astype(np.float64))


def _best_partner(pairs: Pairs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the row that is most like it, and how like."""
    both = np.concatenate([pairs.rows_P2, pairs.rows_P2[:, ::-1]])
    similar = np.concatenate([pairs.jaccard_P, pairs.jaccard_P])
    order = np.lexsort((both[:, 1], -similar, both[:, 0]))
    first = np.searchsorted(both[order, 0], rows)
    return both[order[first], 1], similar[order[first]]
