"""Source files -> rows with their line numbers, whatever they are written in. One bad line costs
itself, not those behind it.

A kind of file is one function and one line in READERS; `.gz` and `.zst` behind a name are taken off
first.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import InputError
from engine.rows.sources.delimited import read_delimited
from engine.rows.sources.source_row import BadRow, NumberedRows, require_unique
from engine.store.hub import local_source

_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
# the longer first
_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_UTF8_MARK = b"\xef\xbb\xbf"
_CACHES = ("cache", "__macosx")


def source_files(field: str, named: str | Sequence[str] | None, skipped: list[Path]) -> list[Path]:
    """The data files that a field of the job names, in order, folders expanded. InputError for what
    is missing, empty or of another kind.

    All other files of a folder go to `skipped` (see `data_files`).
    """
    files = []
    for path in _local(named or []):
        if path.is_dir():
            data, others = data_files(path)
            skipped += others
            files += data or [path]
        else:
            files.append(path)
    for path in files:
        _require_readable(path, field)
    return files


def _local(named: str | Sequence[str]) -> list[Path]:
    if isinstance(named, str):
        return [local_source(named)]
    return list(map(local_source, named))


def _require_readable(path: Path, field: str) -> None:
    if not path.exists():
        remedy = "correct the path"
        if path.parts[0] == "hf:":
            remedy = "it is not on this machine yet: distill fetch JOB brings it"
        raise InputError(f"{field}: {path} does not exist; {remedy}")
    if kind_of(path) not in READERS:
        raise InputError(
            f"{field}: {path} is not one of {', '.join(READERS)} and holds none; convert or rename"
            " it"
        )
    if path.stat().st_size == 0:
        raise InputError(
            f"{field}: {path}:1: the file is empty; fill it, or take it out of {field}"
        )


def data_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files below a folder that hold rows, and all others: hidden names and caches (of editors,
    notebooks, file systems, libraries), empty files, other kinds, JSON that holds no rows, and what
    a `datasets` folder does not list.

    InputError for a folder of several splits: which of them is meant cannot be guessed.
    """
    every = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in every:
        if path.name == "dataset_dict.json":
            names = json.loads(path.read_text()).get("splits", [])
            splits = ", ".join(str(path.parent / name) for name in names)
            raise InputError(
                f"{path.parent} holds several splits; name one in its place, e.g. of {splits}"
            )
    data: list[Path] = []
    others: list[Path] = []
    for path in every:
        if _is_foreign(path, folder):
            others.append(path)
        else:
            data.append(path)
    return data, others


def _is_foreign(path: Path, folder: Path) -> bool:
    if any(map(_is_hidden, path.relative_to(folder).parts)):
        return True
    kind = kind_of(path)
    if kind not in READERS or not path.stat().st_size:
        return True
    if kind == ".arrow":
        return path.name.startswith("cache-")  # what `map` left in a `datasets` folder
    if kind != ".json":
        return False
    with _opened(path) as file:  # such as dataset_info.json and state.json of a `datasets` folder
        return not _opens_array(file.read(64))


def _is_hidden(name: str) -> bool:
    return name[0] in "._" or name.lower() in _CACHES


def _opens_array(text: bytes) -> bool:
    return text.removeprefix(_UTF8_MARK).lstrip().startswith(b"[")


def kind_of(path: Path) -> str:
    """The ending that says how a file is written, in small letters, without that of a
    compression."""
    ending = path.suffix.lower()
    if ending in _COMPRESSED:
        return Path(path.stem).suffix.lower()
    return ending


def read_rows(path: Path) -> NumberedRows:
    """Each row of a file with its line (rows of Parquet and Arrow, and items of a JSON array, count
    from 1).

    InputError for a file that is cut or is not written as its name says.
    """
    return told(path, READERS[kind_of(path)](path))


def told(path: Path, rows: NumberedRows) -> NumberedRows:
    """The rows, with InputError where their file cannot be read."""
    try:
        yield from rows
    except (OSError, EOFError, UnicodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); is it whole, and written as its name says? Copy or"
            " write it again"
        ) from None


def require_one_schema(files: list[Path]) -> None:
    """InputError where a column has another type in one Parquet file of a split than in an earlier
    one."""
    seen: dict[str, tuple[str, Path]] = {}
    for path in files:
        if kind_of(path) != ".parquet":
            continue
        for column in _parquet_schema(path):
            kind = _kind(column.type)
            if kind == "null":  # a file without a value of the column
                continue
            first, place = seen.setdefault(column.name, (kind, path))
            if first != kind:
                raise InputError(
                    f"{place} and {path}: column {column.name!r} is {first} in one and {kind} in"
                    " the other; give it one type"
                )


def _kind(column: pa.DataType) -> str:
    """What a type means, whatever its width and encoding."""
    if pa.types.is_dictionary(column):
        return _kind(column.value_type)
    if pa.types.is_list(column) or pa.types.is_large_list(column):
        return f"list of {_kind(column.value_type)}"
    kinds = (  # the fields of a message's struct are checked row by row
        ("integer", pa.types.is_integer),
        ("float", pa.types.is_floating),
        ("struct", pa.types.is_struct),
        ("string", pa.types.is_string),
        ("string", pa.types.is_large_string),
        ("string", pa.types.is_string_view),
    )
    for name, is_kind in kinds:
        if is_kind(column):
            return name
    return str(column)


@contextmanager
def _opened(path: Path) -> Generator[io.BufferedReader[Any]]:
    """The file's bytes, decompressed; UTF-16 with a mark comes out as UTF-8."""
    with path.open("rb") as raw:
        data: io.BufferedReader[Any] = raw
        compression = _COMPRESSED.get(path.suffix.lower())
        if compression:
            data = io.BufferedReader(pa.input_stream(raw, compression=compression))
        encoding = _marked_encoding(path, data.peek(64)[:64])
        if encoding:
            text = io.TextIOWrapper(data, encoding, errors="replace", newline="")
            data = io.BufferedReader(_Recoded(text))
        yield data


def _marked_encoding(path: Path, head: bytes) -> str | None:
    """What the file's mark says; None is UTF-8. InputError where a mark is missing."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    # every other byte of a Latin text is zero there
    most_zeros = max(head[::2].count(0), head[1::2].count(0))
    if len(head) > 3 and most_zeros > len(head) / 4:
        raise InputError(f"{path}: looks like UTF-16 or UTF-32 without its mark; save it as UTF-8")
    return None


class _Recoded(io.RawIOBase):
    """Text as UTF-8 bytes."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            self._left = self._text.read(len(buffer)).encode(errors="replace")
        taken = self._left[: len(buffer)]
        buffer[: len(taken)] = taken
        self._left = self._left[len(taken) :]
        return len(taken)


def encoding_of(path: Path) -> str | None:
    """What the mark at the beginning of a plain file says; None is UTF-8."""
    with path.open("rb") as file:
        return _marked_encoding(path, file.read(64))


def rows_of_lines(path: Path, start: int, stop: int, lines_before: int) -> NumberedRows:
    """Lines of a plain JSONL file from byte `start`, where a line begins, to byte `stop`."""
    with path.open("rb") as file:
        file.seek(start)
        yield from _numbered(path, _lines_until(file, stop - start), lines_before)


def _lines_until(file: Iterable[bytes], size_bytes: int) -> Iterator[bytes]:
    for text in file:
        if size_bytes <= 0:
            return
        size_bytes -= len(text)
        yield text


def _read_jsonl(path: Path) -> NumberedRows:
    with _opened(path) as lines:
        yield from _numbered(path, lines, 0)


def _numbered(path: Path, lines: Iterable[bytes], lines_before: int) -> NumberedRows:
    for line, text in enumerate(lines, lines_before + 1):
        if line == 1 and _opens_array(text.strip()):
            raise InputError(
                f"{path}:1: this is one JSON array and not a line per row; name it .json, or write"
                " a line per row"
            )
        if text.strip():
            yield line, text


def _read_json(path: Path) -> NumberedRows:
    with _opened(path) as file:
        try:
            rows = json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path}: not valid JSON ({error}); correct it, or name it .jsonl if it has a row"
                " per line"
            ) from None
    if not isinstance(rows, list):
        kind = type(rows).__name__
        raise InputError(
            f"{path}: a JSON {kind} in place of an array of rows; write [{{…}}, …], or a row per"
            " line in .jsonl"
        )
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict):
            yield number, row
        else:
            yield number, BadRow("wrong_type")


def _read_csv(path: Path) -> NumberedRows:
    with _opened(path) as data:
        text = io.TextIOWrapper(data, "utf-8-sig", errors="surrogateescape", newline="")
        yield from read_delimited(text, path, kind_of(path))


def _read_parquet(path: Path) -> NumberedRows:
    return rows_of_groups(path, None, 0)


def rows_of_groups(path: Path, groups: Sequence[int] | None, rows_before: int) -> NumberedRows:
    """Row groups of a Parquet file, behind so many rows; None: all of them."""
    with _readable(path):
        file = pq.ParquetFile(path)
        require_unique(map(str.strip, file.schema_arrow.names), str(path))
        batches = file.iter_batches(row_groups=groups)
        yield from enumerate(_rows_of(batches), rows_before + 1)


def _read_arrow(path: Path) -> NumberedRows:
    """A file of a `datasets` folder that was saved to disk, which is an Arrow stream, or one in
    Arrow's file format."""
    with _readable(path), pa.memory_map(str(path)) as source:
        if source.read(6) == b"ARROW1":
            file = pa.ipc.open_file(source)
            numbers = range(file.num_record_batches)
            batches: Iterable[pa.RecordBatch] = map(file.get_batch, numbers)
        else:
            source.seek(0)
            batches = pa.ipc.open_stream(source)
        yield from enumerate(_rows_of(batches), 1)


def _rows_of(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for row in range(len(batch)):
            yield batch.slice(row, 1)


def _parquet_schema(path: Path) -> pa.Schema:
    with _readable(path):
        return pq.read_schema(path)


@contextmanager
def _readable(path: Path) -> Generator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        kind = "Parquet"
        if path.suffix == ".arrow":
            kind = "Arrow"
        raise InputError(
            f"{path}: unreadable {kind} ({error}); copy or write the file again"
        ) from None


READERS: dict[str, Callable[[Path], NumberedRows]] = {
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".json": _read_json,
    ".arrow": _read_arrow,
    ".ndjson": _read_jsonl,
}
