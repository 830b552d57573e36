"""Source files -> rows with their line numbers, whatever they are written in. One bad line costs
itself, not those behind it.

A kind of file is one function and one line in READERS; `.gz` and `.zst` behind a name are taken off
first.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import InputError
from engine.job.spec import PromptsSpec

_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
_DELIMITERS = ",;\t|"
_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}  # the longer first
MOST_LINES = 10_000  # of one record of CSV; a quote that is never closed would swallow the file


class BadRow(Exception):
    """A line that cannot be used; its text is the reason. Readers yield it, so that the next line
    is still read."""


Row = (
    dict[str, Any] | bytes | pa.RecordBatch | BadRow
)  # columns, a line of JSON, one row of Arrow, or what is wrong


def source_files(spec: PromptsSpec, split: str, skipped: list[Path]) -> list[Path]:
    """The data files of a split in order, folders expanded. InputError for what is missing, empty
    or of another kind.

    All other files of a folder go to `skipped` (see `data_files`).
    """
    source = getattr(spec, split) or []
    files = []
    for path in map(Path, [source] if isinstance(source, str) else source):
        if path.is_dir():
            found, left = data_files(path)
            skipped += left
            files += found or [path]
        else:
            files.append(path)
    for path in files:
        if not path.exists():
            raise InputError(f"prompts.{split}: {path} does not exist; correct the path")
        if kind_of(path) not in READERS:
            raise InputError(
                f"prompts.{split}: {path} is not one of {', '.join(READERS)} and holds none;"
                " convert or rename it"
            )
        if path.stat().st_size == 0:
            raise InputError(
                f"prompts.{split}: {path}:1: the file is empty; fill it, or take it out of"
                f" prompts.{split}"
            )
    return files


def data_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files below a folder that hold rows, and all others: hidden names and caches (of editors,
    notebooks, file systems, libraries), empty files, other kinds, JSON that holds no rows, and what
    a `datasets` folder does not list.

    InputError for a folder of several splits: which of them is meant cannot be guessed.
    """
    every = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in every:
        if path.name == "dataset_dict.json":
            splits = ", ".join(
                str(path.parent / name) for name in json.loads(path.read_text()).get("splits", [])
            )
            raise InputError(
                f"{path.parent} holds several splits; name one in its place, e.g. of {splits}"
            )
    found: list[Path] = []
    left: list[Path] = []
    for path in every:
        (left if _is_foreign(path, folder) else found).append(path)
    return found, left


def _is_foreign(path: Path, folder: Path) -> bool:
    if any(
        part[0] in "._" or part.lower() in ("cache", "__macosx")
        for part in path.relative_to(folder).parts
    ):
        return True
    if kind_of(path) not in READERS or not path.stat().st_size:
        return True
    if kind_of(path) == ".arrow" and path.name.startswith(
        "cache-"
    ):  # what `map` left in a `datasets` folder
        return True
    if kind_of(path) != ".json":
        return False
    with _opened(path) as file:  # such as dataset_info.json and state.json of a `datasets` folder
        return not file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def kind_of(path: Path) -> str:
    """The ending that says how a file is written, in small letters, without that of a
    compression."""
    return (Path(path.stem).suffix if path.suffix.lower() in _COMPRESSED else path.suffix).lower()


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Each row of a file with its line (rows of Parquet and Arrow, and items of a JSON array, count
    from 1).

    InputError for a file that is cut or is not written as its name says.
    """
    try:
        yield from READERS[kind_of(path)](path)
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
        for column in _parquet_schema(path) if kind_of(path) == ".parquet" else ():
            kind = _kind(column.type)
            first, place = (
                seen.setdefault(column.name, (kind, path)) if kind != "null" else (kind, path)
            )
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
    return next((name for name, is_kind in kinds if is_kind(column)), str(column))


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """The file's bytes, decompressed; UTF-16 with a mark comes out as UTF-8."""
    with path.open("rb") as raw:
        compression = _COMPRESSED.get(path.suffix.lower())
        data = (
            io.BufferedReader(pa.input_stream(raw, compression=compression)) if compression else raw
        )
        head = data.peek(64)[:64]
        encoding = next(
            (encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), None
        )
        if (
            encoding is None
            and len(head) > 3
            and max(head[::2].count(0), head[1::2].count(0)) > len(head) / 4
        ):
            raise InputError(
                f"{path}: looks like UTF-16 or UTF-32 without its mark; save it as UTF-8"
            )
        if encoding:
            data = io.BufferedReader(
                _Recoded(io.TextIOWrapper(data, encoding, errors="replace", newline=""))
            )
        yield data


class _Recoded(io.RawIOBase):
    """Text as UTF-8 bytes."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self._left = text, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            self._left = self._text.read(len(buffer)).encode(errors="replace")
        taken = self._left[: len(buffer)]
        buffer[: len(taken)] = taken
        self._left = self._left[len(taken) :]
        return len(taken)


def _read_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    with _opened(path) as lines:
        for line, text in enumerate(lines, 1):
            if line == 1 and text.strip().removeprefix(b"\xef\xbb\xbf").startswith(b"["):
                raise InputError(
                    f"{path}:1: this is one JSON array and not a line per row; name it .json, or"
                    " write a line per row"
                )
            if text.strip():
                yield line, text


def _read_json(path: Path) -> Iterator[tuple[int, Row]]:
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
    yield from (
        (number, row if isinstance(row, dict) else BadRow("wrong_type"))
        for number, row in enumerate(rows, 1)
    )


class _Lines:
    """Lines of a text, which can be given back; remembers those of the record that is being
    read."""

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

    def peek(self, count: int) -> list[str]:
        """The next lines, fewer at the end, which are read again."""
        self._ahead = [*reversed(list(islice(self._text, count - len(self._ahead)))), *self._ahead]
        return self._ahead[::-1][:count]

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
        delimiter, spaced = _form_of(lines, kind_of(path))
        while True:
            lines.record, line = [], lines.number + 1
            try:
                cells = next(
                    csv.reader(lines, strict=True, delimiter=delimiter, skipinitialspace=spaced),
                    None,
                )
            except csv.Error:
                lines.give_back()
                yield line, BadRow("broken_csv")
                continue
            if cells is None:
                return
            if header is None:
                header = [name.strip() for name in cells]
                if twice := [name for name, count in Counter(header).items() if name and count > 1]:
                    raise InputError(
                        f"{path}:1: the column {twice[0]!r} is there twice; rename one of them"
                    )
            elif cells and len(cells) != len(header):
                lines.give_back()  # a quote that closes in a later line has swallowed rows
                yield line, BadRow("wrong_column_count")
            elif cells:  # not a blank line
                yield (
                    line,
                    {name: cell for name, cell in zip(header, cells, strict=True) if name},
                )  # spreadsheets leave empty columns


def _form_of(lines: _Lines, kind: str) -> tuple[str, bool]:
    """The delimiter, and whether a space follows it; takes off blank lines and Excel's `sep=;`
    before the header.

    It is the one by which most of the next lines have as many cells as the header; of several, the
    one that is most often there.
    """
    told = None
    while (ahead := lines.peek(1)) and (
        not ahead[0].strip() or ahead[0].lower().startswith("sep=")
    ):
        told = ahead[0].strip()[4:5] or told
        next(lines)
        lines.record = []
    header, *following = lines.peek(20) or [""]
    if told or (kind == ".tsv" and "\t" in header):
        delimiter = told or "\t"
    else:

        def agreeing(delimiter: str) -> tuple[int, int]:
            cells = [len(row) for row in csv.reader([header, *following], delimiter=delimiter)]
            return (
                sum(count == cells[0] for count in cells[1:]) if cells and cells[0] > 1 else -1
            ), header.count(delimiter)

        delimiter = max(_DELIMITERS, key=agreeing)
    return delimiter, f"{delimiter} " in header


def _read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    names = Counter(name.strip() for name in _parquet_schema(path).names)
    if twice := [name for name, count in names.items() if count > 1]:
        raise InputError(f"{path}: the column {twice[0]!r} is there twice; rename one of them")
    with _readable(path):
        yield from enumerate(
            (
                batch.slice(row, 1)
                for batch in pq.ParquetFile(path).iter_batches()
                for row in range(len(batch))
            ),
            1,
        )


def _read_arrow(path: Path) -> Iterator[tuple[int, Row]]:
    """A file of a `datasets` folder that was saved to disk, which is an Arrow stream, or one in
    Arrow's file format."""
    with _readable(path), pa.memory_map(str(path)) as source:
        if source.read(6) == b"ARROW1":
            file = pa.ipc.open_file(source)
            batches: Iterator[pa.RecordBatch] = (
                file.get_batch(number) for number in range(file.num_record_batches)
            )
        else:
            source.seek(0)
            batches = iter(pa.ipc.open_stream(source))
        yield from enumerate(
            (batch.slice(row, 1) for batch in batches for row in range(len(batch))), 1
        )


def _parquet_schema(path: Path) -> pa.Schema:
    with _readable(path):
        return pq.read_schema(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        kind = "Arrow" if path.suffix == ".arrow" else "Parquet"
        raise InputError(
            f"{path}: unreadable {kind} ({error}); copy or write the file again"
        ) from None


READERS: dict[str, Callable[[Path], Iterator[tuple[int, Row]]]] = {
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".json": _read_json,
    ".arrow": _read_arrow,
    ".ndjson": _read_jsonl,
}
