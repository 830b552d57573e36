"""Rows as Arrow tables and Parquet files, with page checksums and JSON metadata."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import StageError
from engine.store.paths import Folder, parquet_place


def to_table(
    rows: Sequence[Any], schema: pa.Schema, metadata: Mapping[str, Any] | None = None
) -> pa.Table:
    """Rows (dataclasses of this module) as one table; `metadata` becomes JSON values in the
    schema's metadata."""

    def column(f: pa.Field) -> pa.Array:
        values = [getattr(row, f.name) for row in rows]
        if pa.types.is_list(f.type) and pa.types.is_float16(f.type.value_type):
            values = [np.asarray(v, np.float16) for v in values]
        return pa.array(values, type=f.type)

    encoded = {key: json.dumps(value) for key, value in (metadata or {}).items()}
    return pa.Table.from_arrays([column(f) for f in schema], schema=schema.with_metadata(encoded))


def parquet_bytes(table: pa.Table) -> pa.Buffer:
    """A Parquet file with page checksums, in memory."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def write_parquet(table: pa.Table, path: Folder) -> None:
    """Write with page checksums; the caller decides when the file becomes visible."""
    with path.open("wb") as file:
        file.write(parquet_bytes(table))


def read_tables(
    paths: Iterable[Folder], columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """The tables of `paths` one by one, page checksums verified. StageError names a file that is
    damaged."""
    for path in paths:
        where, store = parquet_place(path)
        try:
            table = pq.read_table(
                where,
                columns=list(columns) if columns else None,
                filesystem=store,
                page_checksum_verification=True,
            )
        except (OSError, pa.ArrowException) as error:
            raise StageError(
                f"{path} is missing or damaged ({error}); `distill verify RUN` says what to do"
            ) from error
        yield table


def to_rows(table: pa.Table, row: type) -> list[Any]:
    """A table back as dataclasses; lists stay Python lists."""
    names = {f.name for f in dataclasses.fields(row)}
    return [row(**{k: v for k, v in item.items() if k in names}) for item in table.to_pylist()]


def file_metadata(path: Folder) -> dict[str, Any]:
    """The JSON metadata that `to_table` stored, of a Parquet file."""
    where, store = parquet_place(path)
    raw = pq.read_schema(where, filesystem=store).metadata or {}
    return {
        key.decode(): json.loads(value)
        for key, value in raw.items()
        if not key.startswith(b"ARROW:")
    }
