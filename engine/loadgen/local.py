"""Shares in processes of this machine. Each says that it is ready before all are given one start.

python -m engine.loadgen.local      one of them: share, start and outcome over its pipes
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from engine.errors import StageError
from engine.loadgen.generator import Outcome, run_share
from engine.loadgen.shares import Share

HEAD_START_S = 0.2  # from the word that all are ready to the first request
MAX_WORDS = 2000  # of a process that ended
_READY = b"ready\n"
_ROOT = Path(__file__).parents[2]


class _Process:
    """A share in a process of its own."""

    def __init__(self, share: Share) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        paths = [str(_ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "engine.loadgen.local"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._into = cast("IO[bytes]", self._process.stdin)
        self._from = cast("IO[bytes]", self._process.stdout)
        self._share = share

    def prepare(self) -> None:
        """Hand the share over."""
        self._write(pickle.dumps(self._share))

    def wait_until_ready(self) -> None:
        """StageError if it ends instead."""
        if self._from.readline() != _READY:
            raise self._ended()

    def begin(self, begin_s: float) -> None:
        """At that Unix time."""
        self._write(f"{begin_s!r}\n".encode())

    def outcome(self) -> Outcome:
        """Wait for it. StageError if the process ends without."""
        try:
            return pickle.load(self._from)
        except (EOFError, pickle.UnpicklingError) as error:
            raise self._ended() from error

    def end(self) -> None:
        """It is not needed any more."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._into, self._from):
            with suppress(BrokenPipeError):  # of what was not written out
                pipe.close()
        self._errors.close()

    def _write(self, data: bytes) -> None:
        try:
            self._into.write(data)
            self._into.flush()
        except BrokenPipeError as error:
            raise self._ended() from error

    def _ended(self) -> StageError:
        status = self._process.wait()
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip()
        return StageError(
            f"loadtest: a process that makes load ended with status {status}: {words[-MAX_WORDS:]}"
        )


def spread_locally(shares: Sequence[Share]) -> list[Outcome]:
    """What each left behind. StageError if one of the processes ended early."""
    processes = [_Process(share) for share in shares]
    try:
        for process in processes:
            process.prepare()
        for process in processes:
            process.wait_until_ready()
        begin_s = time.time() + HEAD_START_S
        for process in processes:
            process.begin(begin_s)
        return [process.outcome() for process in processes]
    finally:
        for process in processes:
            process.end()


def main() -> None:
    """Run the share that comes in."""
    into = sys.stdout.buffer
    share = pickle.load(sys.stdin.buffer)
    into.write(_READY)
    into.flush()
    outcome = run_share(share, float(sys.stdin.buffer.readline()))
    pickle.dump(outcome, into)
    into.flush()


if __name__ == "__main__":
    main()
