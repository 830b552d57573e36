"""Rows as Arrow tables and Parquet files, with page checksums and JSON metadata."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import StageError
from engine.store.paths import Folder, parquet_place

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Row = TypeVar("_Row", bound="DataclassInstance")


def to_table(
    rows: Sequence[Any],
    schema: pa.Schema,
    metadata: Mapping[str, Any] | None = None,
) -> pa.Table:
    """Rows (dataclasses of records.py) as one table; `metadata` becomes JSON values in the
    schema's metadata."""

    encoded = {}
    for key, value in (metadata or {}).items():
        encoded[key] = json.dumps(value)
    columns = [_column(rows, field) for field in schema]
    described = schema.with_metadata(encoded)
    return pa.Table.from_arrays(columns, schema=described)


def _column(rows: Sequence[Any], field: pa.Field) -> pa.Array:
    values = [getattr(row, field.name) for row in rows]
    kind = field.type
    # Arrow makes half precision of np.float16, not of the np.float32 that signals come in.
    if pa.types.is_list(kind) and pa.types.is_float16(kind.value_type):
        values = [np.asarray(value, np.float16) for value in values]
    return pa.array(values, type=kind)


def parquet_bytes(table: pa.Table) -> pa.Buffer:
    """A Parquet file with page checksums, in memory."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        write_page_checksum=True,
    )
    return sink.getvalue()


def write_parquet(table: pa.Table, path: Folder) -> None:
    """Write with page checksums; the caller decides when the file becomes visible."""
    with path.open("wb") as file:
        file.write(parquet_bytes(table))


def read_tables(
    paths: Iterable[Folder],
    columns: Sequence[str] | None = None,
    *,
    optional: Sequence[str] = (),
) -> Iterator[pa.Table]:
    """The tables of `paths` one by one, page checksums verified. StageError names a file that is
    damaged. Of `columns` those in `optional` are left out where a file, of an older version, lacks
    them."""
    for path in paths:
        where, store = parquet_place(path)
        try:
            wanted = list(columns) if columns else None
            if wanted and optional:
                there = pq.read_schema(where, filesystem=store).names
                wanted = [name for name in wanted if name in there or name not in optional]
            table = pq.read_table(
                where,
                columns=wanted,
                filesystem=store,
                page_checksum_verification=True,
            )
        except (OSError, pa.ArrowException) as error:
            raise StageError(
                f"{path} is missing or damaged ({error}); `distill verify RUN` says what to do"
            ) from error
        yield table


def completed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table's columns of the schema; those that a file of an older version lacks are null."""
    for column in schema:
        if column.name not in table.column_names:
            nothing = pa.nulls(len(table), column.type)
            table = table.append_column(column.name, nothing)
    return table.select(schema.names)


def to_rows(table: pa.Table, row: type[_Row]) -> list[_Row]:
    """A table back as dataclasses; lists stay Python lists."""
    there = table.column_names
    names = []
    for field in dataclasses.fields(row):
        if field.name in there:
            names.append(field.name)
    wanted = table.select(names)
    return [row(**values) for values in wanted.to_pylist()]


def file_metadata(path: Folder) -> dict[str, Any]:
    """The JSON metadata that `to_table` stored, of a Parquet file that is not read."""
    where, store = parquet_place(path)
    schema = pq.read_schema(where, filesystem=store)
    return _metadata(schema)


def metadata_of(table: pa.Table) -> dict[str, Any]:
    """The same, of a table that was read: its file is not opened again."""
    return _metadata(table.schema)


def _metadata(schema: pa.Schema) -> dict[str, Any]:
    metadata = {}
    for key, value in (schema.metadata or {}).items():
        if not key.startswith(b"ARROW:"):
            metadata[key.decode()] = json.loads(value)
    return metadata
