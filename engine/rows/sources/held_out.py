"""Test data that a job names, so that it is not learnt: any file that prompts read -> a text per
row.

Such files have columns of their own, so a row's text is that of the first columns below which it
has, after those that the job itself reads: what is asked, without the answer, since a question that
leaked is a leak whatever is answered. Of a conversation it is all turns but the system's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.rows.sources.columns import columns_of
from engine.rows.sources.readers import read_rows, source_files
from engine.rows.sources.source_row import BadRow, Columns

USUAL = (
    ("messages",),
    ("conversations",),
    ("turns",),
    ("prompt",),
    ("question",),
    ("problem",),
    ("instruction", "input"),
    ("instruction",),
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("query",),
    ("input",),
    ("text",),
    ("article",),
    ("document",),
    ("dialogue",),
    ("source",),
)
_SAID = ("content", "value", "utterance", "text")  # where a turn's words stand
_SPEAKER = ("role", "from", "speaker")


def held_out_texts(
    field: str,
    against: Sequence[str],
    columns: Sequence[Sequence[str]] = (),
    *,
    most_rows: int | None = None,
) -> dict[str, list[str | None]]:
    """File -> its texts: that of line n (rows of Parquet count from 1) is number n - 1, None where
    a line has none. `columns` are looked for first: groups of which a row has all. Of each file no
    more than `most_rows` are read.

    InputError, which names `field`, for a file that cannot be read or has no readable text.
    """
    texts: dict[str, list[str | None]] = {}
    wanted = (*map(tuple, columns), *USUAL)
    for path in source_files(field, against, []):
        texts[str(path)] = _texts_of(field, path, wanted, most_rows)
    return texts


def _texts_of(
    field: str, path: Path, wanted: Sequence[Sequence[str]], most_rows: int | None
) -> list[str | None]:
    texts: list[str | None] = []
    found: dict[str, None] = {}  # names of columns, in their order
    has_text = False
    for line, values in islice(_columns(path), most_rows):
        text = _text_of_row(values, wanted)
        has_text = has_text or text is not None
        found |= dict.fromkeys(values)
        texts += [None] * (line - 1 - len(texts))
        texts.append(text)
    if not has_text:
        shown = ", ".join(map(repr, found)) or "none"
        allowed = ", ".join(dict.fromkeys(" and ".join(names) for names in wanted))
        raise InputError(
            f"{field}: {path} holds no text that could be looked for: of {len(texts):,} lines none"
            f" has one of the columns {allowed}, with words in it; columns found: {shown}. Rename"
            " its column, or take the file out"
        )
    return texts


def _columns(path: Path) -> Iterator[tuple[int, Columns]]:
    """What can be read; a broken line has no columns, and counts as one without text."""
    for line, row in read_rows(path):
        try:
            yield line, columns_of(row)
        except (BadRow, ValueError, RecursionError):
            yield line, {}


def _text_of_row(values: Columns, wanted: Sequence[Sequence[str]]) -> str | None:
    """The text of the first columns of `wanted` that are all there and hold words."""
    for names in wanted:
        parts = [_text_of(values.get(name)) for name in names]
        if all(parts):
            return "\n".join(filter(None, parts))
    return None


def _text_of(value: Any) -> str | None:
    """A text, the sentences of a list, or the turns of a conversation; None without a letter or
    digit."""
    text = ""
    if isinstance(value, str):
        text = _of_json(value) or value
    elif isinstance(value, list):
        parts = [_of_part(part) for part in value]
        text = "\n".join(filter(None, parts))
    if any(map(str.isalnum, text)):
        return text
    return None


def _of_json(value: str) -> str | None:
    """Of a conversation that CSV holds as text."""
    if not value.startswith("[{"):
        return None
    try:
        return _text_of(json.loads(value))
    except (ValueError, RecursionError):
        return None


def _of_part(part: Any) -> str | None:
    """A sentence, or what a turn says."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return None
    if any(part.get(name) == "system" for name in _SPEAKER):
        return None
    for name in _SAID:
        if isinstance(part.get(name), str):
            return part[name]
    return None
