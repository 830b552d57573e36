"""A row as its reader gives it -> its columns by name, as Python values."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import numpy as np
import pyarrow as pa

from engine.rows.sources.source_row import BadRow, Columns, Row


def columns_of(row: Row, text: str | None = None) -> Columns:
    """A row's columns by name; of Arrow, numbers in the column `text` as text. BadRow, or
    ValueError where it is no JSON."""
    if isinstance(row, BadRow):
        raise row
    if isinstance(row, pa.RecordBatch):
        return _columns_of_arrow(row, text)
    if not isinstance(row, bytes):
        return row
    values = json.loads(row.decode("utf-8-sig"))
    if not isinstance(values, dict):
        raise BadRow("wrong_type")
    return values


def _columns_of_arrow(row: pa.RecordBatch, text: str | None) -> Columns:
    values: Columns = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        values[name.strip()] = _python(column[0])
    if text in values and not isinstance(values[text], str | list | dict):
        values[text] = scalar(values[text])
    return values


def _python(value: pa.Scalar) -> Any:
    """As Python has it, or as text where Python has no such value: a date beyond the year 9999,
    bytes that are no UTF-8."""
    try:
        if pa.types.is_float32(value.type) and value.is_valid:
            return float(str(np.float32(value.as_py())))  # 0.1 and not 0.10000000149011612
        return value.as_py()
    except (OverflowError, ValueError):
        with contextlib.suppress(pa.ArrowException, ValueError):
            return value.cast(pa.string()).as_py()
        if isinstance(value, pa.StringScalar | pa.LargeStringScalar):
            # where it is read it costs the row
            return value.as_buffer().to_pybytes().decode(errors="surrogateescape")
        return f"a {value.type} that Python cannot hold"


def scalar(value: Any) -> str | None:
    """A text or number as text; None, blank text and what is no number (NaN) are None."""
    if isinstance(value, list | dict):
        raise BadRow("several_values")
    if isinstance(value, bytes):
        return scalar(value.decode())
    if not isinstance(value, str | int | float | None):
        return str(value)  # a date or a decimal of Parquet
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value)
    if not text.strip():
        return None
    return text
