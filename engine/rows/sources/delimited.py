"""CSV and TSV as people and spreadsheets write them -> rows with their line numbers.

A broken record costs itself: what it has swallowed of the lines behind it is read again.
"""

from __future__ import annotations

import csv
import io
from itertools import islice
from pathlib import Path

from engine.rows.sources.source_row import BadRow, NumberedRows, require_unique

_DELIMITERS = ",;\t|"
MOST_LINES = 10_000  # of one record of CSV; a quote that is never closed would swallow the file


def read_delimited(text: io.TextIOWrapper, path: Path, kind: str) -> NumberedRows:
    """Each row with the line in which it starts. InputError for a header that names a column
    twice."""
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is shorter than a long prompt
    lines = _Lines(text)
    delimiter, spaced = _form_of(lines, kind)
    header: list[str] | None = None
    while True:
        line = lines.number + 1
        try:
            cells = _next_record(lines, delimiter, spaced)
        except csv.Error:
            lines.give_back()
            yield line, BadRow("broken_csv")
            continue
        if cells is None:
            return
        if header is None:
            header = [name.strip() for name in cells]
            require_unique(filter(None, header), f"{path}:1")
        elif cells and len(cells) != len(header):
            lines.give_back()  # a quote that closes in a later line has swallowed rows
            yield line, BadRow("wrong_column_count")
        elif cells:  # not a blank line
            columns = dict(zip(header, cells, strict=True))
            columns.pop("", None)  # spreadsheets leave empty columns
            yield line, columns


def _next_record(lines: _Lines, delimiter: str, spaced: bool) -> list[str] | None:
    """The cells of the next record, which may span lines; none for a blank line, None at the
    end."""
    lines.record = []
    # a reader of its own for each record: after an error, or lines given back, one would go on in
    # the middle of a cell
    reader = csv.reader(lines, strict=True, delimiter=delimiter, skipinitialspace=spaced)
    return next(reader, None)


def _form_of(lines: _Lines, kind: str) -> tuple[str, bool]:
    """The delimiter, and whether a space follows it; takes off blank lines and Excel's `sep=;`
    before the header.

    It is the one by which most of the next lines have as many cells as the header; of several, the
    one that is most often there.
    """
    told = _told_delimiter(lines)
    header, *following = lines.peek(20) or [""]
    if told is None and kind == ".tsv" and "\t" in header:
        told = "\t"
    if told is None:
        told = max(_DELIMITERS, key=lambda delimiter: _agreement(delimiter, header, following))
    return told, f"{told} " in header


def _told_delimiter(lines: _Lines) -> str | None:
    """What `sep=` says; it and blank lines are taken off."""
    told = None
    while ahead := lines.peek(1):
        line = ahead[0].strip()
        is_told = ahead[0].lower().startswith("sep=")
        if line and not is_told:
            break
        told = line[4:5] or told
        next(lines)
        lines.record = []
    return told


def _agreement(delimiter: str, header: str, following: list[str]) -> tuple[int, int]:
    """How many lines have as many cells as the header, -1 where it has one; and how often the
    header has the delimiter."""
    cells = [len(row) for row in csv.reader([header, *following], delimiter=delimiter)]
    agreeing = -1
    if cells and cells[0] > 1:
        agreeing = cells[1:].count(cells[0])
    return agreeing, header.count(delimiter)


class _Lines:
    """Lines of a text, which can be given back; remembers those of the record that is being
    read."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._ahead: list[str] = []  # the next one last
        self.number = 0
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
        further = list(islice(self._text, count - len(self._ahead)))
        self._ahead = further[::-1] + self._ahead
        return self._ahead[::-1][:count]

    def give_back(self) -> None:
        """All lines of the record but its first are read again."""
        again = self.record[1:]
        self._ahead += reversed(again)
        self.number -= len(again)
