"""Which texts hold an item of named test data: by how much of its rare five-word runs they have.

"Any shared run of n words" flags half of a corpus of service dialogues, or misses each item that is
shorter than n words. Here a text is contaminated by an item if it has a fair share of what only
that item and a few others say. It reads no files; what an item is (a prompt, a prompt with its
reference) is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

AT_LEAST = 0.3  # share of an item's rare runs


class Found(NamedTuple):
    """What an index says about N texts.

    `item_N` int64: the item that a text has most of, -1 where there is none. `coverage_N` float32:
    the share of that item's rare runs that the text has, 0 to 1; 1 where an item is matched whole.
    `has_run_N` bool: they also share thirteen words in a row that hardly any other item has.
    """

    item_N: np.ndarray
    coverage_N: np.ndarray
    has_run_N: np.ndarray


@dataclass(frozen=True)
class Index:
    """The rare runs of all items; small (about 0.5 kB per item), pure arrays, pickles."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, texts: Mapping[str, Sequence[str | None]]) -> Index:
        """An index of items by the name of their file or set. InputError for a name none of whose
        texts has a word."""
        raise NotImplementedError

    def look_up(self, texts: pa.Array | pa.ChunkedArray) -> Found:
        """The item that each text has most of; nulls and texts without words have none."""
        raise NotImplementedError

    def place(self, item: int) -> tuple[str, int]:
        """The name of an item's set and its number there, from 0."""
        raise NotImplementedError


def is_contaminated(found: Found, at_least: float = AT_LEAST) -> np.ndarray:
    """(N,) bool: texts with a coverage of `at_least`, or with a rare run of thirteen words and a
    coverage of 0.12."""
    raise NotImplementedError
