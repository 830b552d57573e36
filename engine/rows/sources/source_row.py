"""A row of a source as its reader gives it, before anything is known of its columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from engine.errors import InputError


class BadRow(Exception):
    """A line that cannot be used; its text is the reason. Readers yield it, so that the next line
    is still read."""


Columns = dict[str, Any]  # by name
# columns, a line of JSON, one row of Arrow, or what is wrong
Row = Columns | bytes | pa.RecordBatch | BadRow
NumberedRows = Iterator[tuple[int, Row]]  # each behind its line


def require_unique(names: Iterable[str], place: str) -> None:
    """InputError where a column is there twice."""
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"{place}: the column {name!r} is there twice; rename one of them")
