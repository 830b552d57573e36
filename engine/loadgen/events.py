"""The framing of server-sent events: parts of a body -> events, and back to when each had come.

What is inside of an event is chunks.py's.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_BLANK_LINE, _LINE = b"\n\n", b"\n"
_BOM = b"\xef\xbb\xbf"
_FIELDS = {b"data", b"event", b"id", b"retry"}


@dataclass(frozen=True)
class Event:
    """One event, read. `stray` counts lines that are no field of an event."""

    name: str
    data: bytes | None  # None: it has none, as a comment
    stray: int = 0


class Frames:
    """The events of a body, and the moment at which the last byte of each was there."""

    def __init__(self, parts: Sequence[bytes], arrived: Sequence[float]) -> None:
        body = b"".join(parts)
        if b"\r" in body:
            parts = _with_plain_ends(parts)
            body = b"".join(parts)
        self.separator = _separator(body)
        self.events = body.split(self.separator)
        self._size = len(body)
        self._parts = parts
        self._arrived = arrived

    def moment(self, number: int) -> float:
        """Of time.perf_counter: this event had come."""
        apart = len(self.separator)
        after = len(self.events) - number - 1
        if number < after:  # the first and the last events matter, so the nearer end counts
            end = sum(map(len, self.events[: number + 1])) + number * apart
        else:
            end = self._size - sum(map(len, self.events[number + 1 :])) - after * apart
        return self._arrived[_part_with(self._parts, end, self._size)]

    @property
    def has_no_blank_lines(self) -> bool:
        """Whether a line stands for an event."""
        return self.separator == _LINE


def _part_with(parts: Sequence[bytes], end: int, size: int) -> int:
    """The number of the part that holds the last of the first `end` bytes of `size`."""
    if 2 * end < size:
        for number, part in enumerate(parts):
            end -= len(part)
            if end <= 0:
                return number
    last = len(parts) - 1
    for number in range(last, -1, -1):
        size -= len(parts[number])
        if size < end:
            return number
    return last


def _separator(body: bytes) -> bytes:
    """A blank line; a line's end for a server that forgets blank lines, whose answer would be one
    event otherwise."""
    if 0 <= body.find(_BLANK_LINE) < len(body) - len(_BLANK_LINE):
        return _BLANK_LINE
    return _LINE if b"\ndata:" in body else _BLANK_LINE


def _with_plain_ends(parts: Iterable[bytes]) -> list[bytes]:
    """Each part with its lines ended by LF. A CR may be the last byte of a part whose LF begins the
    next one."""
    plain = []
    after_cr = False
    for part in parts:
        ends_in_cr = part.endswith(b"\r")
        if after_cr and part.startswith(b"\n"):
            part = part[1:]
        after_cr = ends_in_cr
        plain.append(part.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
    return plain


def read_event(event: bytes) -> Event:
    """The fields of one event, as the standard has them; a line of bare JSON is taken as data."""
    name = ""
    data: list[bytes] = []
    stray = 0
    for line in event.removeprefix(_BOM).split(_LINE):
        key, _, value = line.partition(b":")
        if not key:  # a comment, or nothing
            continue
        value = value.removeprefix(b" ")
        if key == b"data":
            data.append(value)
        elif key == b"event":
            name = value.decode(errors="replace").strip().lower()
        elif key not in _FIELDS:
            stray += 1
            if line.startswith(b"{"):
                data.append(line)
    joined = _LINE.join(data) if data else None
    return Event(name, joined, stray)


def inflated(parts: Iterable[bytes]) -> list[bytes] | None:
    """Parts of a body that a server packed although it was asked not to (gzip, deflate), each as
    far as it goes; None: they are something else."""
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # either, by its head
    try:
        return [unpacker.decompress(part) for part in parts]
    except zlib.error:
        return None
