"""Source files -> rows with their line numbers, whatever they are written in. One bad line costs itself, not those behind it.

A kind of file is one function and one line in READERS; `.gz` and `.zst` behind a name are taken off first.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import InputError
from engine.spec import PromptsSpec

_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
_DELIMITERS = ",;\t|"
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # the two marks of UTF-16
MOST_LINES = 10_000  # of one record of CSV; a quote that is never closed would swallow the file


class BadRow(Exception):
    """A line that cannot be used; its text is the reason. Readers yield it, so that the next line is still read."""


Row = dict[str, Any] | bytes | pa.RecordBatch | BadRow  # columns, a line of JSON, one row of Arrow, or what is wrong


def source_files(spec: PromptsSpec, split: str, skipped: list[Path]) -> list[Path]:
    """The data files of a split in order, folders expanded. InputError for what is missing, empty or of another kind.

    Foreign files of a folder go to `skipped`: hidden names (of editors, notebooks, file systems and caches), and JSON that holds no rows.
    """
    source = getattr(spec, split) or []
    files = []
    for path in map(Path, [source] if isinstance(source, str) else source):
        below = sorted(p for p in path.rglob("*") if kind_of(p) in READERS and p.is_file()) if path.is_dir() else [path]
        foreign = {p for p in below if path.is_dir() and _is_foreign(p, path)}
        skipped += sorted(foreign)
        files += [p for p in below if p not in foreign] or [path]
    for path in files:
        if not path.exists():
            raise InputError(f"prompts.{split}: {path} does not exist; correct the path")
        if kind_of(path) not in READERS:
            raise InputError(f"prompts.{split}: {path} is not one of {', '.join(READERS)} and holds none; convert or rename it")
        if path.stat().st_size == 0:
            raise InputError(f"prompts.{split}: {path}:1: the file is empty; fill it, or take it out of prompts.{split}")
    return files


def _is_foreign(path: Path, folder: Path) -> bool:
    if any(part[0] in "._" for part in path.relative_to(folder).parts):
        return True
    if kind_of(path) != ".json":
        return False
    with _opened(path) as file:  # such as dataset_info.json and state.json of a `datasets` folder
        return not file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def kind_of(path: Path) -> str:
    """The ending that says how a file is written, without that of a compression."""
    return Path(path.stem).suffix if path.suffix in _COMPRESSED else path.suffix


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Each row of a file with its line (rows of Parquet and Arrow, and items of a JSON array, count from 1)."""
    return READERS[kind_of(path)](path)


def require_one_schema(files: list[Path]) -> None:
    """InputError where a column has another type in one Parquet file of a split than in an earlier one."""
    seen: dict[str, tuple[str, Path]] = {}
    for path in files:
        for column in _parquet_schema(path) if path.suffix == ".parquet" else ():
            kind = _kind(column.type)
            first, place = seen.setdefault(column.name, (kind, path)) if kind != "null" else (kind, path)
            if first != kind:
                raise InputError(f"{place} and {path}: column {column.name!r} is {first} in one and {kind} in the other; give it one type")


def _kind(column: pa.DataType) -> str:
    """What a type means, whatever its width and encoding."""
    if pa.types.is_dictionary(column):
        return _kind(column.value_type)
    if pa.types.is_list(column) or pa.types.is_large_list(column):
        return f"list of {_kind(column.value_type)}"
    kinds = (  # the fields of a message's struct are checked row by row
        ("integer", pa.types.is_integer), ("float", pa.types.is_floating), ("struct", pa.types.is_struct),
        ("string", pa.types.is_string), ("string", pa.types.is_large_string), ("string", pa.types.is_string_view),
    )
    return next((name for name, is_kind in kinds if is_kind(column)), str(column))


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """The file's bytes, decompressed; UTF-16 with a mark comes out as UTF-8."""
    with path.open("rb") as raw:
        packed = pa.input_stream(raw, compression=_COMPRESSED[path.suffix]) if path.suffix in _COMPRESSED else None
        data = io.BufferedReader(packed) if packed else raw
        if encoding := _MARKS.get(data.peek(2)[:2]):
            data = io.BufferedReader(_Recoded(io.TextIOWrapper(data, encoding, errors="surrogatepass", newline="")))
        yield data


class _Recoded(io.RawIOBase):
    """Text as UTF-8 bytes."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self._left = text, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            self._left = self._text.read(len(buffer)).encode(errors="surrogatepass")
        taken = self._left[: len(buffer)]
        buffer[: len(taken)] = taken
        self._left = self._left[len(taken) :]
        return len(taken)


def _read_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    with _opened(path) as lines:
        for line, text in enumerate(lines, 1):
            if line == 1 and text.strip().removeprefix(b"\xef\xbb\xbf") == b"[":
                raise InputError(f"{path}:1: this is one JSON array and not a line per row; name it .json, or write a line per row")
            if text.strip():
                yield line, text


def _read_json(path: Path) -> Iterator[tuple[int, Row]]:
    with _opened(path) as file:
        try:
            rows = json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not valid JSON ({error}); correct it, or name it .jsonl if it has a row per line") from None
    if not isinstance(rows, list):
        kind = type(rows).__name__
        raise InputError(f"{path}: a JSON {kind} in place of an array of rows; write [{{…}}, …], or a row per line in .jsonl")
    yield from ((number, row if isinstance(row, dict) else BadRow("wrong_type")) for number, row in enumerate(rows, 1))


class _Lines:
    """Lines of a text, which can be given back; remembers those of the record that is being read."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self._ahead, self.number = text, list[str](), 0
        self.record: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if len(self.record) >= MOST_LINES:
            raise csv.Error("a quote is not closed")
        line = self._ahead.pop() if self._ahead else next(self._text)
        self.record.append(line)
        self.number += 1
        return line

    def peek(self) -> str:
        """The next line, which is read again; "" at the end."""
        if not self._ahead and (line := next(self._text, "")):
            self._ahead.append(line)
        return self._ahead[-1] if self._ahead else ""

    def give_back(self) -> None:
        """All lines of the record but its first are read again."""
        again = self.record[1:]
        self._ahead += reversed(again)
        self.number -= len(again)


def _read_csv(path: Path) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is shorter than a long prompt
    with _opened(path) as data:
        lines = _Lines(io.TextIOWrapper(data, "utf-8-sig", errors="surrogateescape", newline=""))
        header: list[str] | None = None
        delimiter = ","
        while True:
            lines.record, line = [], lines.number + 1
            try:
                if header is None:
                    delimiter = _delimiter_of(lines.peek())
                cells = next(csv.reader(lines, strict=True, delimiter=delimiter, skipinitialspace=True), None)
            except csv.Error:
                lines.give_back()
                yield line, BadRow("broken_csv")
                continue
            if cells is None:
                return
            if header is None:
                header = [name.strip() for name in cells]
                if twice := [name for name, count in Counter(header).items() if count > 1]:
                    raise InputError(f"{path}:1: the column {twice[0]!r} is there twice; rename one of them")
            elif cells and len(cells) != len(header):
                lines.give_back()  # a quote that closes in a later line has swallowed rows
                yield line, BadRow("wrong_column_count")
            elif cells:  # not a blank line
                yield line, dict(zip(header, cells, strict=True))


def _delimiter_of(header: str) -> str:
    """The one that is most often in the header; a comma where there is none."""
    return max(_DELIMITERS, key=header.count)


def _read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    with _readable(path):
        yield from enumerate((batch.slice(row, 1) for batch in pq.ParquetFile(path).iter_batches() for row in range(len(batch))), 1)


def _read_arrow(path: Path) -> Iterator[tuple[int, Row]]:
    """A file of a `datasets` folder that was saved to disk: an Arrow stream."""
    with _readable(path), pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as batches:
        yield from enumerate((batch.slice(row, 1) for batch in batches for row in range(len(batch))), 1)


def _parquet_schema(path: Path) -> pa.Schema:
    with _readable(path):
        return pq.read_schema(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        kind = "Arrow" if path.suffix == ".arrow" else "Parquet"
        raise InputError(f"{path}: unreadable {kind} ({error}); copy or write the file again") from None


READERS: dict[str, Callable[[Path], Iterator[tuple[int, Row]]]] = {
    ".jsonl": _read_jsonl, ".parquet": _read_parquet, ".csv": _read_csv, ".tsv": _read_csv, ".json": _read_json, ".arrow": _read_arrow,
}
