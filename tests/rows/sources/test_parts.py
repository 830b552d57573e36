"""A file read in parts has the rows and lines of the file read whole."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import InputError
from engine.rows.sources.parts import Part, parts_of, read_part
from engine.rows.sources.readers import read_rows

TEXTS = ["one", "", "two two", " ", "three", "é" * 30, "", "", "last"]


def as_parts(path, part_bytes):
    parts = parts_of(path, part_bytes)
    rows = []
    for part in parts:
        rows += read_part(part)
    return parts, rows


@pytest.mark.parametrize("part_bytes", [1, 7, 20, 64, 10_000])
@pytest.mark.parametrize("end", ["\n", ""])
def test_lines_of_jsonl_keep_their_numbers_in_parts_of_any_size(tmp_path, part_bytes, end):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"prompt": text}) if text.strip() else text for text in TEXTS]
    path.write_text("\n".join(lines) + end)
    parts, rows = as_parts(path, part_bytes)
    assert rows == list(read_rows(path))
    assert [line for line, _ in rows] == [1, 3, 5, 6, 9]
    assert (len(parts) > 1) == (part_bytes < path.stat().st_size)


def test_row_groups_of_parquet_keep_their_numbers(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": [f"q{n}" for n in range(10)]}), path, row_group_size=3)
    parts, rows = as_parts(path, 1)
    assert len(parts) == 4
    assert [line for line, _ in rows] == list(range(1, 11))
    assert [row.column("prompt")[0].as_py() for _, row in rows] == [f"q{n}" for n in range(10)]


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.jsonl.gz"])
def test_other_kinds_are_one_part(tmp_path, name):
    (tmp_path / name).write_bytes(b"x" * 100)
    assert parts_of(tmp_path / name, 10) == [Part(tmp_path / name)]


def test_utf16_is_one_part_and_read_as_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"prompt": "a"}\n{"prompt": "b"}\n'.encode("utf-16"))
    parts, rows = as_parts(path, 8)
    assert len(parts) == 1
    assert [json.loads(row) for _, row in rows] == [{"prompt": "a"}, {"prompt": "b"}]


def test_an_array_behind_the_name_of_lines_is_refused_in_parts_too(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('[\n{"prompt": "a"},\n{"prompt": "b"}]\n')
    with pytest.raises(InputError, match="one JSON array"):
        as_parts(path, 4)
