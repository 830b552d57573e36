"""A stream's events, read in one go when it is over: what they told, and when the ones that matter
had come.

The events of a stream differ mostly in one text. One that is new is read as JSON (chunks.py); where
it said nothing but a text, the bytes around that text are kept, and an event with the same bytes
around its text is known to say the same with another text. That takes two comparisons.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from engine.loadgen.chunks import Told, decoded, take
from engine.loadgen.events import Frames

_TEXT = re.compile(rb'"(?:content|reasoning|reasoning_content|text)"\s*:\s*"([^"\\]+)"')


# Of a kind of events: what stands before and after the text, how long that is (the latter below
# 0), whether the text is content.
_Kind = tuple[bytes, bytes, int, int, bool]
_NONE: _Kind = (b"\n\n", b"", 2, 0, False)  # no event begins so: they are split there
_DONE = b"data: [DONE]"
SLICE = 500  # events; half a millisecond


def _is_plain(text: bytes) -> bool:
    """Whether nothing in a JSON string is to be undone, and whether it is one."""
    return b"\\" not in text and b'"' not in text and b"\n" not in text


class Stream:
    """The events of one answer, read. Moments are None where there was no such event."""

    def __init__(
        self,
        parts: Sequence[bytes],
        arrived: Sequence[float],
        *,
        is_whole: bool,
        oddities: Counter[str],
    ) -> None:
        self.told = Told(oddities=oddities)
        self.with_text = 0  # events
        self._kind = _NONE  # that was read last
        self._first: int | None = None  # event with text, by number; the others, too
        self._last: int | None = None
        self._finished: int | None = None
        self._done: int | None = None
        self._frames = Frames(parts, arrived)
        if self._frames.has_no_blank_lines:
            self.told.note("no_blank_lines")
        # what follows the last blank line of a stream that was cut is half an event
        self._events = self._frames.events if is_whole else self._frames.events[:-1]

    def steps(self) -> Iterator[None]:
        """Read all events; between two slices of a long stream, others may have a turn."""
        for begin in range(0, len(self._events), SLICE):
            if begin:
                yield
            self._read(begin, self._events[begin : begin + SLICE])
            if self.told.is_done:
                return

    @property
    def first(self) -> float | None:
        """The first event with text; of an answer without text: its finish."""
        return self._moment(self._finished if self._first is None else self._first)

    @property
    def last(self) -> float | None:
        """The last event with text; of an answer without text: its finish."""
        return self._moment(self._finished if self._last is None else self._last)

    @property
    def done(self) -> float | None:
        """The event that says that it is over."""
        return self._moment(self._done)

    def _moment(self, number: int | None) -> float | None:
        return None if number is None else self._frames.moment(number)

    def _read(self, begin: int, events: Sequence[bytes]) -> None:
        """These, from event number `begin` on. This loop is what an event costs beside its way
        through the socket: those of the kind that came last are only taken apart."""
        before, after, start, stop, is_content = self._kind
        texts: list[bytes] = []  # of a run of that kind, which ends before this event
        for number, event in enumerate(events, begin):
            if event[:start] == before and event[stop:] == after:
                text = event[start:stop]
                if text:
                    texts.append(text)
                    continue
            if texts:
                self._add(texts, is_content, number)
                texts = []
            if event == _DONE:
                self.told.is_done = True
            elif event:
                self._take(event, number)
            if self.told.is_done:
                self._end(number)
                return
            before, after, start, stop, is_content = self._kind
        self._add(texts, is_content, begin + len(events))

    def _add(self, texts: Sequence[bytes], is_content: bool, end: int) -> None:
        """What the events of one kind say that came one after the other, before event number `end`.
        One whose text is not what its bytes are is read as if it were new."""
        whole = b"".join(texts)
        if not _is_plain(whole):
            for number, text in enumerate(texts, end - len(texts)):
                if _is_plain(text):
                    self._add([text], is_content, number + 1)
                else:
                    self._take(self._events[number], number)
        elif texts:
            self.told.say(decoded(self.told, whole), is_content=is_content)
            self.told.chunks += len(texts)
            self._had_text(end - len(texts), end - 1, len(texts))

    def _end(self, number: int) -> None:
        self._done = number
        after = [event for event in self._events[number + 1 :] if event.strip()]
        if after:
            self.told.oddities["after_done"] += len(after)

    def _take(self, event: bytes, number: int) -> None:
        told = self.told
        noted, finished = told.noted, len(told.finish_reasons)
        texts, contents = len(told.texts), len(told.content)
        take(told, event)
        if len(told.texts) > texts:
            self._had_text(number, number)
        if len(told.finish_reasons) > finished:
            self._finished = number
        elif len(told.texts) == texts + 1 and told.noted == noted:
            self._keep(event, told.texts[-1], len(told.content) > contents)

    def _had_text(self, first: int, last: int, count: int = 1) -> None:
        self.with_text += count
        self._last = last
        if self._first is None:
            self._first = first

    def _keep(self, event: bytes, text: str, is_content: bool) -> None:
        """What surrounds this text, if it stands in the event once and as it is. Reading the event
        again would change nothing but the text: counts of tokens and choices that are in it stay
        the same."""
        found = list(_TEXT.finditer(event))
        if len(found) == 1 and found[0][1] == text.encode(errors="replace"):
            start, end = found[0].span(1)
            self._kind = (event[:start], event[end:], start, end - len(event), is_content)
