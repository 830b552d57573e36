"""Test data in answers: what the index of it says of a slice of answers, looked up together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from engine.curation.contamination import AT_LEAST, Index, is_contaminated
from engine.rows.records import Completion, Prompt

Key = tuple[int, str, int]


@dataclass(frozen=True)
class Leak:
    """The item that an answer has most of ("file:3", by its line), its share of the item's rare
    runs, and whether that is enough to drop it."""

    item: str
    coverage: float
    counts: bool


class Leaks:
    """Looks answers up, and remembers those of the slice that it studied last."""

    def __init__(self, index: Index, at_least: float = AT_LEAST) -> None:
        self._index = index
        self._at_least = at_least
        self._found: dict[Key, Leak | None] = {}

    def study(self, answers: Sequence[Completion], prompts: Sequence[Prompt]) -> None:
        """Look up the answers of a slice."""
        said = pa.array([answer.written for answer in answers], pa.string())
        found = self._index.look_up(said)
        counts = is_contaminated(found, self._at_least)
        self._found = {}
        for at, answer in enumerate(answers):
            leak = None
            if found.item_N[at] >= 0:
                name, number = self._index.place(int(found.item_N[at]))
                coverage = float(found.coverage_N[at])
                leak = Leak(f"{name}:{number + 1}", coverage, bool(counts[at]))
            self._found[answer.key] = leak

    def found(self, answer: Completion) -> Leak | None:
        """What the answer holds of test data."""
        if answer.key not in self._found:
            self.study([answer], [])
        return self._found[answer.key]
