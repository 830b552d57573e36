"""Texts as numbers: the words of each text in order, runs of words, and sets of runs of five.

What compares many texts (near duplicates, leaks of test data) starts here. Texts are read in
batches that stay in the processor's cache, and no Python object is made per word. Words are those
of engine/rows/words.py, but digits of another script are other digits. It knows no language.

    N   texts        W   words of all texts        M   runs of words of all texts
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex

from engine.curation.priority import splitmix64
from engine.rows.words import ALONE, MARK, TOGETHER, folded

SHINGLE_WORDS = 5
HASH_BITS = 48  # of a run of words; the rest of 64 bits holds a row number while a batch is sorted

_BATCH_BYTES = 1 << 17  # of text: with what is made of it, it fits the second cache
_BATCH_TEXTS = 4096
_PIECE = 8  # bytes of a word that are hashed at once
_LONGEST = 64  # bytes; longer words, no longer a language's, are hashed one by one
_MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)

# What a byte is to words. A byte that belongs to the letter before it is JOINED: a mark, and all
# but the first byte of a letter.
_OUTSIDE, _TOGETHER, _ALONE, _JOINED, _UNKNOWN = range(5)
_KINDS = ((TOGETHER, _TOGETHER), (ALONE, _ALONE), (MARK, _JOINED))


class Hashes(NamedTuple):
    """Per text some hashes: those of text i are `values[starts[i] : starts[i + 1]]`.

    `starts` is (N + 1,) int64; `values` (W,) or (M,) uint64.
    """

    starts: np.ndarray
    values: np.ndarray


def words_of(texts: pa.Array | pa.ChunkedArray) -> Hashes:
    """The words of each text, in order. A null has none."""
    return concatenated([_words(batch) for batch in _batches(texts)])


def runs_of(words: Hashes, length: int) -> Hashes:
    """Every run of `length` words of each text, in order: max(0, words - length + 1) of each. Run k
    of a text begins at its word k.

    Hashes are below 2**48: of two different runs one pair in 2.8e14 is taken for the same.
    """
    starts, values = words
    places = len(values) - length + 1
    if places < 1:
        return Hashes(np.zeros_like(starts), np.zeros(0, np.uint64))
    is_whole = np.ones(len(values), bool)
    for too_few in range(1, length):
        # Before the first word this counts from the last one, where no run begins either.
        is_whole[starts[1:] - too_few] = False
    pieces = [values[first : first + places] for first in range(length)]
    found = _sequence(pieces)[is_whole[:places]]
    counts = np.maximum(np.diff(starts) - length + 1, 0)
    return Hashes(_ends(counts), found)


def shingles_of(texts: pa.Array | pa.ChunkedArray) -> Hashes:
    """The set of runs of five words of each text, sorted, each once. A text of one to four words
    has one shingle, its words; a text without words, and a null, has none."""
    return concatenated([_shingles(_words(batch)) for batch in _batches(texts)])


def _shingles(words: Hashes) -> Hashes:
    """Of one batch: sorted by text and hash at once, as one number."""
    counts = np.diff(words.starts)
    runs = runs_of(words, SHINGLE_WORDS)
    texts = np.repeat(np.arange(len(counts)), np.diff(runs.starts))
    parts = [_with_text(texts, runs.values)]
    for length in range(1, SHINGLE_WORDS):
        short = np.flatnonzero(counts == length)
        first = words.starts[short]
        pieces = [words.values[first + place] for place in range(length)]
        parts.append(_with_text(short, _sequence(pieces)))
    found = each_once(np.concatenate(parts))
    starts = np.searchsorted(found, _with_text(np.arange(len(counts) + 1), np.uint64(0)))
    return Hashes(starts, found & np.uint64((1 << HASH_BITS) - 1))


def each_once(values: np.ndarray) -> np.ndarray:
    """The different values of any shape, sorted: `np.unique`, which since numpy 2.3 puts them into
    a table of hashes first. Of a million of 64 bits that took 33 times as long."""
    ordered = np.sort(values, axis=None)
    return ordered[is_new(ordered)]


def places_of(starts: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the values of some lists are, list i of all from `starts[i]` to `starts[i + 1]`: for
    each value which of `numbers` it is of, and its place."""
    lengths = starts[numbers + 1] - starts[numbers]
    owners = np.repeat(np.arange(len(numbers)), lengths)
    moved = starts[numbers] - (np.cumsum(lengths) - lengths)
    return owners, np.arange(len(owners)) + np.repeat(moved, lengths)


def is_new(values: np.ndarray) -> np.ndarray:
    """(N,) bool: which values are not equal to the one before."""
    differs = np.ones(len(values), bool)
    differs[1:] = values[1:] != values[:-1]
    return differs


def _with_text(text: np.ndarray, values: np.ndarray | np.uint64) -> np.ndarray:
    return (text.astype(np.uint64) << np.uint64(HASH_BITS)) | values


def _sequence(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """One hash of HASH_BITS for the first words of all, the second, and so on."""
    whole = pieces[0]
    for piece in pieces[1:]:
        whole = whole * _MULTIPLIER + piece
    return splitmix64(whole) >> np.uint64(64 - HASH_BITS)


def _batches(texts: pa.Array | pa.ChunkedArray) -> Iterator[list[str | None]]:
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    for chunk in chunks:
        plain = chunk.cast(pa.large_string())
        lengths = pc.call_function("binary_length", [plain]).fill_null(0).to_numpy()
        ends = np.cumsum(lengths)
        first = 0
        while first < len(plain):
            before = ends[first] - lengths[first]
            fitting = int(np.searchsorted(ends, before + _BATCH_BYTES, side="right"))
            last = min(max(fitting, first + 1), first + _BATCH_TEXTS)
            yield plain.slice(first, last - first).to_pylist()
            first = last


def concatenated(parts: Sequence[Hashes]) -> Hashes:
    """Those of all parts, in order."""
    counts = [np.diff(part.starts) for part in parts]
    values = [part.values for part in parts]
    starts = _ends(np.concatenate([np.zeros(0, np.int64), *counts]))
    return Hashes(starts, np.concatenate([np.zeros(0, np.uint64), *values]))


def _ends(counts: np.ndarray) -> np.ndarray:
    """Where each of these counts begins, and where the last one ends."""
    ends = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=ends[1:])
    return ends


def _words(texts: Sequence[str | None]) -> Hashes:
    """Of one batch. Lines stand between texts, and no word goes over a line's end."""
    lines = [folded(text or "").encode() for text in texts]
    buffer = b"\n".join([b"", *lines, bytes(_LONGEST)])
    raw = np.frombuffer(buffer, np.uint8)
    starts, ends = _borders(raw)
    lengths = np.fromiter(map(len, lines), np.int64, len(lines))
    begins = _ends(lengths + 1)
    return Hashes(np.searchsorted(starts, begins), _hashed(raw, starts, ends))


def _borders(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where words of UTF-8 bytes start and end."""
    kinds = np.frombuffer(bytearray(raw.tobytes().translate(_byte_kinds())), np.uint8)
    letters = np.flatnonzero(raw >= 0xC0)  # the first byte of each that is not ASCII
    if len(letters):
        kinds[letters] = _kinds_of(_codes(raw, letters))
        joined = np.flatnonzero(kinds == _JOINED)
        kinds[joined] = kinds[_before_run(joined)]
        if (kinds == _ALONE).any():
            return _borders_beside_letters_alone(kinds, joined)
    borders = np.flatnonzero(kinds[1:] != kinds[:-1]) + 1
    return borders[::2], borders[1::2]


def _before_run(places: np.ndarray) -> np.ndarray:
    """For each of these places, ascending, the one before the run of places that it is in. The
    first byte of a batch, a line's end, is none."""
    is_first = np.diff(places, prepend=-1) != 1
    return np.maximum.accumulate(np.where(is_first, places, 0)) - 1


def _borders_beside_letters_alone(
    kinds: np.ndarray, joined: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same where some letters are words: each of them is a border, but not what it is joined
    by."""
    before = np.zeros_like(kinds)
    before[1:] = kinds[:-1]
    is_start = (kinds == _ALONE) | ((kinds == _TOGETHER) & (before != _TOGETHER))
    is_end = (kinds == _OUTSIDE) & (before != _OUTSIDE)
    is_start[joined] = False
    is_end[joined] = False
    borders = np.flatnonzero(is_start | is_end)
    starts = np.flatnonzero(is_start[borders])
    return borders[starts], borders[starts + 1]


def _codes(raw: np.ndarray, letters: np.ndarray) -> np.ndarray:
    """The code points of the letters of two to four bytes that begin at these places (RFC 3629)."""
    first = raw[letters].astype(np.int32)
    second, third, fourth = (raw[letters + place].astype(np.int32) & 0x3F for place in (1, 2, 3))
    of_two = (first & 0x1F) << 6 | second
    of_three = (first & 0x0F) << 12 | second << 6 | third
    of_four = (first & 0x07) << 18 | second << 12 | third << 6 | fourth
    return np.where(first < 0xE0, of_two, np.where(first < 0xF0, of_three, of_four))


def _hashed(raw: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """A hash (W,) uint64 of the bytes of each word, eight at a time."""
    places = len(raw) - _PIECE + 1
    windows = np.ndarray(places, "<u8", raw.data, strides=(1,))  # of eight bytes from each place
    masks = _masks()
    lengths = ends - starts
    values = np.zeros(len(starts), np.uint64)
    some = np.arange(len(starts))
    for done in range(0, _LONGEST, _PIECE):
        left = lengths[some] - done
        pieces = windows[starts[some] + done] & masks[np.minimum(left, _PIECE)]
        values[some] = splitmix64(values[some] * _MULTIPLIER + pieces)
        some = some[left > _PIECE]
        if not len(some):
            return values
    for place in some.tolist():
        word = raw[starts[place] : ends[place]].tobytes()
        digest = hashlib.blake2b(word, digest_size=_PIECE).digest()
        values[place] = int.from_bytes(digest, "little")
    return values


@functools.cache
def _masks() -> np.ndarray:
    """By a number of bytes, 0 to 8, the bits of so many of them."""
    return np.array([(1 << (8 * length)) - 1 for length in range(_PIECE + 1)], np.uint64)


@functools.cache
def _byte_kinds() -> bytes:
    kinds = np.full(256, _JOINED, np.uint8)
    kinds[:128] = _kinds_of(np.arange(128))
    return kinds.tobytes()


def _kinds_of(codes: np.ndarray) -> np.ndarray:
    """The kind of each code point. The few that texts have are looked up once."""
    known = _known_kinds()
    kinds = known[codes]
    is_new = kinds == _UNKNOWN
    if not is_new.any():
        return kinds
    new = np.unique(codes[is_new])
    known[new] = [_kind(chr(code)) for code in new.tolist()]
    return known[codes]


@functools.cache
def _known_kinds() -> np.ndarray:
    return np.full(sys.maxunicode + 1, _UNKNOWN, np.uint8)


def _kind(character: str) -> int:
    for letters, kind in _KINDS:
        if regex.match(letters, character, regex.V1):
            return kind
    return _OUTSIDE
