"""How far a stage is: a rich bar on a terminal, plain lines elsewhere, and a small file that
`distill status` reads.

Stages call `Progress.update` with a count and a few figures; they never print.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from engine.run.manifests import PROGRESS
from engine.store.files import write_atomic
from engine.store.paths import Folder, StorePath

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

PLAIN_SECONDS = 10.0
FILE_SECONDS, STORE_SECONDS = 1.0, 10.0  # each write to a store is a paid request


def figures_text(values: dict[str, Any]) -> str:
    """Named figures in one line: `loss 0.25  tok/s 1,234`."""
    return "  ".join(f"{name} {_short(value)}" for name, value in values.items())


def state_text(state: dict[str, Any]) -> str:
    """What a progress file says, in one line: `40/90 rows  tok/s 1,234  ETA 12 s`."""
    total = f"{state['total']:,}" if state["total"] else "?"
    figures = figures_text(state.get("figures", {}))
    return f"{state['done']:,}/{total} {state['unit']}  {figures}{_eta_text(state)}"


def _eta_text(state: dict[str, Any]) -> str:
    """At the rate since the start; empty where nothing is done yet, or nothing is left."""
    done, total = state["done"], state["total"]
    elapsed_s = state["updated"] - state["started"]
    # What an earlier run had done took none of this run's time.
    new = done - state.get("first", 0)
    if not total or new <= 0 or done >= total:
        return ""
    return f"  ETA {elapsed_s / new * (total - done):,.0f} s"


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.4g}"


@dataclass
class Progress:
    """Progress of one stage. `console=None` keeps it silent (tests, library use); the file is
    written all the same."""

    console: Console | None = None
    _stage: str = ""
    _file: Folder | None = None
    _bar: RichProgress | None = None
    _task: Any = None
    _state: dict[str, Any] = field(default_factory=dict)
    _last_line: float = 0.0
    _last_file: float = 0.0

    @property
    def name(self) -> str:
        """The stage that is shown now."""
        return self._stage

    @contextmanager
    def stage(self, name: str, folder: Folder) -> Generator[None]:
        """Show one stage while the block runs."""
        self._stage = name
        self._file = folder / PROGRESS
        self._state = {
            "stage": name,
            "done": 0,
            "total": None,
            "unit": "rows",
            "started": time.time(),
        }
        self._last_line = time.monotonic()
        self._last_file = 0.0
        try:
            with self._live(name, "stage"):
                yield
        finally:
            self._write(force=True)

    @contextmanager
    def waiting(self, what: str) -> Generator[None]:
        """Say what is waited for while the block runs: with its seconds and the newest note on a
        terminal, once elsewhere."""
        self._state.setdefault("started", time.time())
        if self._bar or not self._is_on_terminal:
            self.say(what)
            yield
        else:
            with self._live(what, "waiting"):
                yield
        self._state.pop("note", None)  # nobody waits for that any more

    @property
    def _is_on_terminal(self) -> bool:
        return bool(self.console and self.console.is_terminal)

    @contextmanager
    def _live(self, name: str, kind: Literal["stage", "waiting"]) -> Generator[None]:
        """On a terminal, a bar that goes when the block ends (a line says what came of it).

        It leaves alone what libraries print meanwhile: that is the log's.
        """
        if not self._is_on_terminal:
            yield
            return
        from engine.run.bars import stage_bar, waiting_bar

        build = stage_bar if kind == "stage" else waiting_bar
        with build(self.console) as self._bar:
            self._task = self._bar.add_task(name, total=None, figures="")
            try:
                yield
            finally:
                self._bar = None

    def say(self, line: str) -> None:
        """One line for people."""
        if self.console:
            self.console.print(line, highlight=False)

    def update(
        self,
        done: int | None = None,
        total: int | None = None,
        note: str | None = None,
        unit: str | None = None,
        **figures: Any,
    ) -> None:
        """Units done so far, their total, and figures worth showing (tokens/s, loss, …); None
        leaves a value as it is."""
        if done is not None and self._state.get("done", 0) == 0:
            self._state |= {"first": done, "started": time.time()}  # start-up is no part of the ETA
        announce = note is not None and note != self._state.get("note")
        changes = {"done": done, "total": total, "note": note, "unit": unit}
        self._state |= {key: value for key, value in changes.items() if value is not None}
        self._state["figures"] = self._state.get("figures", {}) | figures
        self._show(announce)
        self._write()

    def _show(self, announce: bool) -> None:
        if self.console is None:
            return
        text = figures_text(self._state["figures"])
        if self._bar:
            note = self._state.get("note", "")
            self._bar.update(
                self._task,
                completed=self._state.get("done"),
                total=self._state.get("total"),
                figures=text or note,
            )
            return
        now = time.monotonic()
        if announce or now - self._last_line >= PLAIN_SECONDS:
            self._last_line = now
            line = self._state["note"] if announce else self._line(text)
            self.say(f"{self._stage:<9} {line}".lstrip())

    def _line(self, text: str) -> str:
        if not self._state.get("total"):
            seconds = f"{time.time() - self._state['started']:,.0f} s"
            return "  ".join(part for part in (self._state.get("note", ""), text, seconds) if part)
        return state_text(self._state | {"updated": time.time()})

    def _write(self, force: bool = False) -> None:
        now = time.monotonic()
        due = STORE_SECONDS if isinstance(self._file, StorePath) else FILE_SECONDS
        if self._file and (force or now - self._last_file >= due) and self._file.parent.exists():
            self._last_file = now
            write_atomic(self._file, json.dumps(self._state | {"updated": time.time()}))
