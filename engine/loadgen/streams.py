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
from dataclasses import dataclass

from engine.loadgen.chunks import Told, take
from engine.loadgen.events import Frames, read_event

MAX_KNOWN = 4  # at a time: reasoning and content, several choices
_TEXT = re.compile(rb'"(?:content|reasoning|reasoning_content|text)"\s*:\s*"([^"\\]+)"')


@dataclass(frozen=True)
class _Known:
    """What stands around the text of events of one kind."""

    before: bytes
    after: bytes
    is_content: bool

    def text_of(self, event: bytes) -> str | None:
        """The event's text; None: it is of another kind, or its text has something to undo."""
        before, after = self.before, self.after
        if not (event.startswith(before) and event.endswith(after)):
            return None
        if len(event) <= len(before) + len(after):  # nothing between, or they overlap
            return None
        text = event[len(before) : -len(after)]
        if b'"' in text or b"\\" in text or b"\n" in text:
            return None
        try:
            return str(text, "utf-8")
        except UnicodeDecodeError:
            return None


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
        for number, event in enumerate(events):
            if not event or self._is_known(event, number):
                continue
            self._take(event, number)
            if self.told.is_done:
                self._done = number
                left = [each for each in events[number + 1 :] if each.strip()]
                if left:
                    self.told.oddities["after_done"] += len(left)
                return

    def _is_known(self, event: bytes, number: int) -> bool:
        for known in self._known:
            text = known.text_of(event)
            if text is not None:
                self.told.chunks += 1
                self.told.say(text, is_content=known.is_content)
                self._had_text(number)
                return True
        return False

    def _take(self, event: bytes, number: int) -> None:
        told = self.told
        odd, finished = told.oddities.total(), len(told.finish_reasons)
        texts, contents = len(told.texts), len(told.content)
        take(told, read_event(event))
        if len(told.texts) > texts:
            self._had_text(number)
        if len(told.finish_reasons) > finished:
            self._finished = number
        elif len(told.texts) == texts + 1 and told.oddities.total() == odd:
            self._keep(event, told.texts[-1], len(told.content) > contents)

    def _had_text(self, number: int) -> None:
        self.with_text += 1
        self._last = number
        if self._first is None:
            self._first = number

    def _keep(self, event: bytes, text: str, is_content: bool) -> None:
        """What surrounds this text, if it stands in the event once and as it is. Reading the event
        again would change nothing but the text: counts of tokens and choices that are in it stay
        the same."""
        found = list(_TEXT.finditer(event))
        if len(found) == 1 and found[0][1] == text.encode(errors="replace"):
            known = _Known(event[: found[0].start(1)], event[found[0].end(1) :], is_content)
            self._known = [known, *self._known][:MAX_KNOWN]
