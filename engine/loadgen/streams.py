"""A stream's events, read in one go when it is over: what they told, and when the ones that matter
had come.

The events of a stream differ mostly in one text. One that is new is read as JSON (chunks.py); where
it said nothing but a text, the bytes around that text are kept, and an event with the same bytes
around its text is known to say the same with another text. That takes two comparisons.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.loadgen.chunks import Told, decoded, take
from engine.loadgen.events import Frames, read_event

MAX_KNOWN = 4  # at a time: reasoning and content, several choices
_TEXT = re.compile(rb'"(?:content|reasoning|reasoning_content|text)"\s*:\s*"([^"\\]+)"')


# what stands before and after the text, how long that is (the latter below 0), is it content
_Known = tuple[bytes, bytes, int, int, bool]


@dataclass
class _Run:
    """Known events of one kind, one after the other: their numbers and texts."""

    is_content: bool = False
    numbers: list[int] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)


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
        self._known: list[_Known] = []
        self._first: int | None = None  # event with text, by number; the others, too
        self._last: int | None = None
        self._finished: int | None = None
        self._done: int | None = None
        self._frames = Frames(parts, arrived)
        if self._frames.has_no_blank_lines:
            self.told.note("no_blank_lines")
        # what follows the last blank line of a stream that was cut is half an event
        self._read(self._frames.events if is_whole else self._frames.events[:-1])

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

    def _read(self, events: Sequence[bytes]) -> None:
        """All of them, in order. This loop is what an event costs beside its way through the
        socket: a known event is only taken apart here."""
        run = _Run()
        for number, event in enumerate(events):
            for before, after, start, stop, is_content in self._known:
                if event[:start] == before and event[stop:] == after and event[start:stop]:
                    if is_content is not run.is_content:
                        self._add(run, events)
                        run = _Run(is_content)
                    run.texts.append(event[start:stop])
                    run.numbers.append(number)
                    break
            else:
                if not event:
                    continue
                self._add(run, events)
                run = _Run()
                self._take(event, number)
                if self.told.is_done:
                    self._end(number, events[number + 1 :])
                    return
        self._add(run, events)

    def _add(self, run: _Run, events: Sequence[bytes]) -> None:
        """What known events say that came one after the other. One whose text is not what its bytes
        are is read as if it were new."""
        if _is_plain(b"".join(run.texts)):
            self._say(run)
            return
        for number, text in zip(run.numbers, run.texts, strict=True):
            if _is_plain(text):
                self._say(_Run(run.is_content, [number], [text]))
            else:
                self._take(events[number], number)

    def _say(self, run: _Run) -> None:
        if run.texts:
            words = decoded(self.told, b"".join(run.texts))
            self.told.say(words, is_content=run.is_content)
            self.told.chunks += len(run.texts)
            self._had_text(run.numbers[0], run.numbers[-1], len(run.texts))

    def _end(self, number: int, left: Sequence[bytes]) -> None:
        self._done = number
        after = [event for event in left if event.strip()]
        if after:
            self.told.oddities["after_done"] += len(after)

    def _take(self, event: bytes, number: int) -> None:
        told = self.told
        odd, finished = told.oddities.total(), len(told.finish_reasons)
        texts, contents = len(told.texts), len(told.content)
        take(told, read_event(event))
        if len(told.texts) > texts:
            self._had_text(number, number)
        if len(told.finish_reasons) > finished:
            self._finished = number
        elif len(told.texts) == texts + 1 and told.oddities.total() == odd:
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
            known = (event[:start], event[end:], start, end - len(event), is_content)
            self._known = [known, *self._known][:MAX_KNOWN]
