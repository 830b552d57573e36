"""Which texts hold an item of named test data: by how much of its rare five-word runs they have.

"Any shared run of n words" flags half of a corpus of service dialogues, or misses each item that is
shorter than n words. Here a text is contaminated by an item if it has a fair share of what only
that item and a few others say. It reads no files; what an item is (a prompt, a prompt with its
reference) is the caller's choice.

    N   texts       I   items       P   pairs of a text and an item       R   different runs
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from engine.curation.shingles import Hashes, each_once, is_new, places_of, runs_of, words_of
from engine.errors import InputError

AT_LEAST = 0.3  # share of an item's rare runs
RUN_WORDS = 5
RARE = 10  # groups of items that may share a rare run
LONG_RUN_WORDS = 13
LONG_RUN_RARE = 3
LONG_RUN_COVERAGE = 0.2
_BATCH = 500  # texts at a time: their runs stay in the processor's cache
_ODD = np.uint64(0x9E3779B97F4A7C15)


class Found(NamedTuple):
    """What an index says about N texts.

    `item_N` int64: the item that a text has most of, -1 where there is none. `coverage_N` float32:
    the share of that item's rare runs that the text has, 0 to 1; 1 where the text is the item.
    `has_run_N` bool: they also share thirteen words in a row that hardly any other item has.
    """

    item_N: np.ndarray
    coverage_N: np.ndarray
    has_run_N: np.ndarray


class Covered(NamedTuple):
    """The other way about, for I items: `coverage_I` float32, the highest coverage of an item by a
    text that it contaminates, 0 where there is none, and `text_I` int64, that text, or -1."""

    coverage_I: np.ndarray
    text_I: np.ndarray


class Pairs(NamedTuple):
    """Texts and items that share something; each pair once. The fields as in `Found`."""

    text_P: np.ndarray
    item_P: np.ndarray
    coverage_P: np.ndarray
    has_run_P: np.ndarray


class Postings(NamedTuple):
    """Which items have a run: those of `hash_R[r]` are `items[starts[r] : starts[r + 1]]`. Of a
    hash, `marks` has the bit at its last bits set, which spares most searches."""

    hash_R: np.ndarray  # sorted
    starts: np.ndarray
    items: np.ndarray
    marks: np.ndarray  # uint8, a power of two of them

    @classmethod
    def of(cls, runs: Hashes, group_I: np.ndarray, most: int) -> Postings:
        """The runs that items of at most `most` groups have."""
        items = np.repeat(np.arange(len(group_I)), np.diff(runs.starts))
        order = np.lexsort((items, runs.values))
        hashes = runs.values[order]
        items = items[order]
        is_new_hash = is_new(hashes)
        number = np.cumsum(is_new_hash) - 1
        groups = each_once(number * len(group_I) + group_I[items]) // len(group_I)
        is_rare = np.bincount(groups, minlength=number[-1] + 1 if len(number) else 0) <= most
        stays = (is_new_hash | is_new(items)) & is_rare[number]
        hash_R, starts = np.unique(hashes[stays], return_index=True)
        ends = np.append(starts, np.count_nonzero(stays))
        return cls(hash_R, ends, items[stays], _marks(hash_R))

    def shared(self, runs: Hashes, items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Text, item and how many different runs they share, of all pairs that share any."""
        places = np.flatnonzero(self._may_have(runs.values))
        numbers = np.searchsorted(self.hash_R, runs.values[places])
        numbers = np.minimum(numbers, len(self.hash_R) - 1)
        is_hit = self.hash_R[numbers] == runs.values[places]
        texts = np.searchsorted(runs.starts, places[is_hit], side="right") - 1
        hits = each_once(texts * len(self.hash_R) + numbers[is_hit])
        texts, numbers = np.divmod(hits, max(1, len(self.hash_R)))
        owners, positions = places_of(self.starts, numbers)
        pairs, counts = np.unique(texts[owners] * items + self.items[positions], return_counts=True)
        return pairs // items, pairs % items, counts

    def _may_have(self, values: np.ndarray) -> np.ndarray:
        if not len(self.hash_R):
            return np.zeros(len(values), bool)
        byte = (values >> np.uint64(3)) & np.uint64(len(self.marks) - 1)
        bit = (values & np.uint64(7)).astype(np.uint8)
        return (self.marks[byte] >> bit) & 1 > 0


@dataclass(frozen=True)
class Index:
    """The rare runs of all items; about 1.5 kB per item of 100 words, arrays only, pickles."""

    names: tuple[str, ...]
    ends: np.ndarray  # of each name's items among all
    runs: Postings
    long_runs: Postings
    wholes: Postings
    rare_I: np.ndarray  # how many rare runs an item has

    @classmethod
    def of(
        cls,
        texts: Mapping[str, Sequence[str | None]],
        groups: Mapping[str, Sequence[Hashable]] | None = None,
    ) -> Index:
        """An index of items by the name of their file or set. InputError for a name none of whose
        texts has a word.

        A run counts as rare where at most ten groups have it. Unless `groups` says otherwise, by
        name as `texts`, each item is a group (None likewise): items that repeat each other's words
        by nature, as the turns of one dialogue do, are one.
        """
        items = [text for name in texts for text in texts[name]]
        ends = np.cumsum([len(texts[name]) for name in texts])
        words = words_of(pa.array(items, pa.large_string()))
        _check_words(texts, ends, words)
        wholes = Hashes(np.arange(len(items) + 1), _wholes(words))
        group_I = _group_numbers(texts, groups)
        _, first, same = np.unique(wholes.values, return_index=True, return_inverse=True)
        group_I = group_I[first][same]  # however often the same item is named, it is one
        runs = Postings.of(runs_of(words, RUN_WORDS), group_I, RARE)
        return cls(
            names=tuple(texts),
            ends=ends,
            runs=runs,
            long_runs=Postings.of(runs_of(words, LONG_RUN_WORDS), group_I, LONG_RUN_RARE),
            wholes=Postings.of(_of_words_only(wholes, words), group_I, len(items)),
            rare_I=np.bincount(runs.items, minlength=len(items)),
        )

    def look_up(self, texts: pa.Array | pa.ChunkedArray) -> Found:
        """The item that each text has most of; nulls and texts without words have none. An item of
        fewer than five words is found where the text is nothing but that item."""
        found = Found(
            np.full(len(texts), -1),
            np.zeros(len(texts), np.float32),
            np.zeros(len(texts), bool),
        )
        for pairs in self.pairs(texts):
            best = _best(pairs.text_P, pairs)
            text = pairs.text_P[best]
            found.item_N[text] = pairs.item_P[best]
            found.coverage_N[text] = pairs.coverage_P[best]
            found.has_run_N[text] = pairs.has_run_P[best]
        return found

    def covered(self, texts: pa.Array | pa.ChunkedArray, at_least: float = AT_LEAST) -> Covered:
        """Of every item the text that has most of it, among those that it contaminates."""
        covered = Covered(np.zeros(len(self.rare_I), np.float32), np.full(len(self.rare_I), -1))
        for pairs in self.pairs(texts):
            is_leak = _is_leak(pairs.coverage_P, pairs.has_run_P, at_least)
            leaks = Pairs(*(values[is_leak] for values in pairs))
            best = _best(leaks.item_P, leaks)
            item = leaks.item_P[best]
            more = leaks.coverage_P[best] > covered.coverage_I[item]
            covered.coverage_I[item[more]] = leaks.coverage_P[best][more]
            covered.text_I[item[more]] = leaks.text_P[best][more]
        return covered

    def pairs(self, texts: pa.Array | pa.ChunkedArray) -> Iterator[Pairs]:
        """All pairs of a text and an item that share a rare run, or all words; by batches."""
        for start in range(0, len(texts), _BATCH):
            pairs = self._pairs(words_of(texts.slice(start, _BATCH)))
            yield pairs._replace(text_P=pairs.text_P + start)

    def _pairs(self, words: Hashes) -> Pairs:
        items = len(self.rare_I)
        text_P, item_P, shared = self.runs.shared(runs_of(words, RUN_WORDS), items)
        coverage_P = shared / self.rare_I[item_P]
        alike = Hashes(np.arange(len(words.starts)), _wholes(words))
        text_W, item_W, _ = self.wholes.shared(_of_words_only(alike, words), items)
        pair_P, places = np.unique(
            np.concatenate([text_W * items + item_W, text_P * items + item_P]), return_index=True
        )
        coverage_P = np.concatenate([np.ones(len(text_W)), coverage_P])[places]
        has_run_P = self._has_run(words, pair_P, coverage_P >= LONG_RUN_COVERAGE)
        return Pairs(pair_P // items, pair_P % items, coverage_P.astype(np.float32), has_run_P)

    def _has_run(self, words: Hashes, pair_P: np.ndarray, asked_P: np.ndarray) -> np.ndarray:
        """Which of these pairs share a rare long run; looked for in few texts only."""
        items = len(self.rare_I)
        texts = each_once(pair_P[asked_P] // items)
        owners, positions = places_of(words.starts, texts)
        starts = np.searchsorted(owners, np.arange(len(texts) + 1))
        few = Hashes(starts, words.values[positions])
        text, item, _ = self.long_runs.shared(runs_of(few, LONG_RUN_WORDS), items)
        return asked_P & np.isin(pair_P, texts[text] * items + item)

    def place(self, item: int) -> tuple[str, int]:
        """The name of an item's set and its number there, from 0."""
        name = int(np.searchsorted(self.ends, item, side="right"))
        before = 0
        if name:
            before = int(self.ends[name - 1])
        return self.names[name], item - before


def is_contaminated(found: Found, at_least: float = AT_LEAST) -> np.ndarray:
    """(N,) bool: texts with a coverage of `at_least`, or with a rare run of thirteen words and a
    coverage of 0.2."""
    return _is_leak(found.coverage_N, found.has_run_N, at_least)


def _is_leak(coverage: np.ndarray, has_run: np.ndarray, at_least: float) -> np.ndarray:
    by_run = has_run & (coverage >= np.float32(LONG_RUN_COVERAGE))
    return (coverage >= np.float32(at_least)) | by_run


def _best(of_P: np.ndarray, pairs: Pairs) -> np.ndarray:
    """The pair to name for each of `of_P`: with a run, then covered most, then the first."""
    order = np.lexsort((pairs.item_P, pairs.text_P, -pairs.coverage_P, ~pairs.has_run_P, of_P))
    return order[is_new(of_P[order])]


def _check_words(
    texts: Mapping[str, Sequence[str | None]], ends: np.ndarray, words: Hashes
) -> None:
    last = 0
    for name, end in zip(texts, ends, strict=True):
        if words.starts[end] == words.starts[last]:
            raise InputError(
                f"{name}: none of its {end - last} texts has a word, so nothing can be told from"
                " it; name the field that holds its text, or leave it out"
            )
        last = end


def _group_numbers(
    texts: Mapping[str, Sequence[str | None]], groups: Mapping[str, Sequence[Hashable]] | None
) -> np.ndarray:
    """A number below I for the group of each item."""
    numbers: dict[Hashable, int] = {}
    found = []
    for name in texts:
        named = (groups or {}).get(name) or [None] * len(texts[name])
        for group in named:
            key = len(found) if group is None else (name, group)
            found.append(numbers.setdefault(key, len(numbers)))
    return np.array(found, np.int64)


def _wholes(words: Hashes) -> np.ndarray:
    """A hash of all words of each text, in order: a polynomial modulo 2**64."""
    lengths = np.diff(words.starts)
    powers = np.full(lengths.max(initial=0) + 1, _ODD)
    powers[0] = 1
    powers = np.multiply.accumulate(powers)
    positions = np.arange(len(words.values)) - np.repeat(words.starts[:-1], lengths)
    sums = np.append(np.uint64(0), np.cumsum(words.values * powers[positions], dtype=np.uint64))
    return sums[words.starts[1:]] - sums[words.starts[:-1]]


def _of_words_only(wholes: Hashes, words: Hashes) -> Hashes:
    """Without the texts that have no word: those are no copies of each other."""
    has_words = np.diff(words.starts) > 0
    starts = np.append(0, np.cumsum(has_words))
    return Hashes(starts, wholes.values[has_words])


def _marks(hashes: np.ndarray) -> np.ndarray:
    """A bit per hash at its last bits, of at least sixteen bits a hash."""
    size = 1 << max(10, (2 * len(hashes)).bit_length())
    marks = np.zeros(size, np.uint8)
    byte = (hashes >> np.uint64(3)) & np.uint64(size - 1)
    bit = np.uint8(1) << (hashes & np.uint64(7)).astype(np.uint8)
    np.bitwise_or.at(marks, byte, bit)
    return marks
