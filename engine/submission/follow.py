"""Follow what was handed over: new lines of its log, until it ends or the platform is away for too
long."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from engine.errors import CapacityError, SpecError, StageError
from engine.machines.native_file import NativeFile
from engine.machines.running_cluster import LAST_WORDS
from engine.submission.request import Request
from engine.submission.tool import ToolFailed

FOLLOW_S = 5.0
PATIENCE_S = 600.0
_LAST_WORDS = re.compile(rf"{re.escape(LAST_WORDS)} (\d+)")

Log = Callable[[str], None]


@dataclass(frozen=True)
class State:
    """How far it is: `word` as the platform says it, and the exit code once it has ended."""

    word: str
    exit_code: int | None = None

    @property
    def has_ended(self) -> bool:
        return self.exit_code is not None


class Jobs(Protocol):
    """One place where jobs run. A handle is that by which the place finds a job of ours again."""

    def __init__(self, file: NativeFile) -> None: ...

    def shown(self, request: Request) -> str:
        """Exactly what would be handed over."""

    def start(self, request: Request, on_log: Log) -> str:
        """Its handle, once it is there; one that is there already is joined."""

    def follow(self, handle: str, on_log: Log) -> None:
        """Its log until it has succeeded; raises what it ended with."""

    def stop(self, handle: str) -> None:
        """Ask it to end: it saves first."""


class Asked(Protocol):
    """A place that is asked again and again how a job stands."""

    def find(self, handle: str) -> State | None:
        """How it stands there; None where there is none. ToolFailed where nobody answers."""

    def more(self, handle: str) -> str:
        """What its log has got since the last call; nothing before it runs."""


class EndOfAttempts:
    """The exit code that `distill run --no-second-start` told in place of giving it, in whatever
    pieces the log comes."""

    def __init__(self, on_log: Log) -> None:
        self.exit_code = 0
        self._on_log = on_log
        self._line = ""

    def __call__(self, text: str) -> None:
        self._on_log(text)
        heard = self._line + text
        if found := _LAST_WORDS.findall(heard):
            self.exit_code = int(found[-1])
        self._line = heard[-1000:]


def follow(asked: Asked, handle: str, on_log: Log) -> None:
    """Its log until it has succeeded; raises what it ended with. CapacityError where the place has
    not answered for PATIENCE_S, or no longer knows the job."""
    ending = EndOfAttempts(on_log)
    exit_code = _ask_on(asked, handle, ending)
    require_success(handle, exit_code or ending.exit_code)


def require_success(handle: str, exit_code: int) -> None:
    """What the command that followed ends with is the driver's own code: SpecError for 2, else
    StageError."""
    if exit_code == 0:
        return
    text = f"{handle} ended with exit code {exit_code}; the log above says why"
    if exit_code == SpecError.exit_code:
        raise SpecError(text)
    raise StageError(f"{text}, and the same command resumes it")


def _ask_on(asked: Asked, handle: str, on_log: Log) -> int:
    heard = time.monotonic()
    is_away = False
    told = ""
    while True:
        try:
            state = asked.find(handle)
            text = asked.more(handle)
        except ToolFailed as error:
            if time.monotonic() - heard > PATIENCE_S:
                raise CapacityError(
                    f"no answer for {PATIENCE_S:g} s: {error}. {handle} goes on there; distill logs"
                    " follows it again"
                ) from error
            if not is_away:  # said once, however often it is asked
                on_log(f"no answer ({error}); {handle} goes on there, and it is asked again\n")
            is_away = True
        else:
            heard = time.monotonic()
            is_away = False
            if text:
                on_log(text)
            if state is None:
                raise CapacityError(f"{handle} is not known there any more; submit it again")
            if state.exit_code is not None:
                return state.exit_code
            if state.word != told and not text:
                on_log(f"{handle}: {state.word}\n")
                told = state.word
        time.sleep(FOLLOW_S)
