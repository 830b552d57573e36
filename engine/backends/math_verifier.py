"""math-verify as an opinion on two answers, in processes that can be killed: pairs that never end
or take all memory get no verdict, and nothing else suffers.

What happens in such a process is in math_worker.py. The pool starts with the first pair, because
the library takes a second to load.
"""

from __future__ import annotations

import importlib.util
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from engine.backends.math_worker import DIFFERENT, READY, SAME
from engine.errors import SpecError, StageError
from engine.job.spec import VerifySpec
from engine.rows.final_answer import Algebra, Judged, Pair, Verdict, settle

DEADLINE_S = 2.0
MEMORY_BYTES = 2 * 2**30
MOST_CHARACTERS = 2000  # of both texts: no answer is longer, and parsers are quadratic
_WORKER = Path(__file__).with_name("math_worker.py")
_PAIRS_PER_WORKER = 64  # it takes a second to start one
_IN_FLIGHT = 8  # pairs that a process has before it answers
_LEAST_SHARE = 0.1  # of a processor: as many may work beside it
_GRACE_S = 3.0  # beyond the deadline, before a process that says nothing is killed from here
_START_S = 120.0
_VERDICTS = {SAME[0]: True, DIFFERENT[0]: False}
# Gives an algebra system whose processes end with the block; told how long one pair may take.
OpenAlgebra = Callable[..., AbstractContextManager[Algebra]]


@contextmanager
def opened(
    workers: int | None = None,
    deadline_s: float = DEADLINE_S,
    memory_bytes: int = MEMORY_BYTES,
) -> Generator[Algebra]:
    """An `Algebra` of as many processes as there are processors, which end with the block.
    SpecError at the first pair if math-verify is not installed."""
    pool = _Pool(workers or len(os.sched_getaffinity(0)), deadline_s, memory_bytes)
    try:
        yield pool.verdicts
    finally:
        pool.close()


def algebra_for(
    spec: VerifySpec, open_algebra: OpenAlgebra = opened
) -> AbstractContextManager[Algebra | None]:
    """What the job asks besides rules: nothing, where they are to decide alone."""
    if spec.math == "rules":
        return nullcontext()
    return open_algebra(deadline_s=spec.timeout_s)


def settled(
    judged: Sequence[Judged], spec: VerifySpec, open_algebra: OpenAlgebra = opened
) -> list[Verdict | None]:
    """Verdicts, as the job wants them to be reached."""
    with algebra_for(spec, open_algebra) as algebra:
        return settle(judged, algebra)


class _Pool:
    """Workers that share the pairs of each call; they live across calls."""

    def __init__(self, workers: int, deadline_s: float, memory_bytes: int) -> None:
        self._most = workers
        self._deadline_s = deadline_s
        self._memory_bytes = memory_bytes
        self._workers: list[_Worker] = []

    def verdicts(self, pairs: Sequence[Pair]) -> list[bool | None]:
        """Whether the two of each pair are the same, in order."""
        found: list[bool | None] = [None] * len(pairs)
        waiting = deque(
            number for number, pair in enumerate(pairs) if sum(map(len, pair)) <= MOST_CHARACTERS
        )
        self._start(min(self._most, -(-len(waiting) // _PAIRS_PER_WORKER)))
        while waiting or any(worker.asked for worker in self._workers):
            for worker in self._workers:
                while waiting and len(worker.asked) < _IN_FLIGHT:
                    number = waiting.popleft()
                    worker.ask(number, pairs[number])
            self._collect(found, waiting)
        return found

    def _start(self, wanted: int) -> None:
        new = []
        while len(self._workers) + len(new) < wanted:
            new.append(self._worker())
        self._workers += new
        for worker in new:
            worker.await_start()

    def _worker(self) -> _Worker:
        return _Worker(self._deadline_s, self._memory_bytes)

    def _collect(self, found: list[bool | None], waiting: deque[int]) -> None:
        """Wait for answers of any worker; one that is silent too long is replaced, and what it was
        asked besides goes to others."""
        patience_s = self._deadline_s / _LEAST_SHARE + _GRACE_S
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                if worker.asked:
                    selector.register(worker.connection, selectors.EVENT_READ, worker)
            ready = [key.data for key, _ in selector.select(patience_s)]
        for worker in ready:
            for number, verdict in worker.answers():
                found[number] = verdict
        now = time.monotonic()
        for place, worker in enumerate(self._workers):
            if worker.is_gone or (worker.asked and now - worker.heard > patience_s):
                if worker.asked:
                    worker.asked.popleft()  # what it died of, or hangs in
                waiting.extendleft(reversed(worker.asked))
                worker.close()
                self._workers[place] = self._worker()
                self._workers[place].await_start()

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.close()
        self._workers.clear()


class _Worker:
    """One process with its children, and the numbers of the pairs that it has not answered yet."""

    def __init__(self, deadline_s: float, memory_bytes: int) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise SpecError(
                "curate.verify.math=rules+math_verify: math-verify is not installed; install what"
                " the lock has (make env), or set verify: {math: rules}"
            )
        self.connection, theirs = socket.socketpair()
        command = [sys.executable, "-P", str(_WORKER), str(theirs.fileno())]
        self._process = subprocess.Popen(
            [*command, str(deadline_s), str(memory_bytes)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the engine's to answer; the socket's end is theirs
        )
        theirs.close()
        self.asked: deque[int] = deque()
        self.is_gone = False
        self.heard = time.monotonic()

    def await_start(self) -> None:
        """Until the library is loaded. StageError with its own words where it cannot be."""
        self.connection.settimeout(_START_S)
        try:
            is_ready = self.connection.recv(1) == READY
        except TimeoutError:
            is_ready = False
        self.connection.settimeout(None)
        if not is_ready:
            raise StageError(
                f"math-verify did not start ({self._last_words()}); install what the lock has (make"
                " env), or set curate.verify: {math: rules}"
            )

    def _last_words(self) -> str:
        self._end()
        assert self._process.stderr is not None
        lines = self._process.stderr.read().decode(errors="replace").split("\n")
        told = [line for line in lines if line.strip()]
        return told[-1] if told else "it said nothing"

    def ask(self, number: int, pair: Pair) -> None:
        """Hand a pair over; its verdict comes in the order of asking."""
        message = b""
        for text in pair:
            encoded = text.encode(errors="replace")
            message += struct.pack("!I", len(encoded)) + encoded
        if not self.asked:
            self.heard = time.monotonic()
        self.asked.append(number)
        try:
            self.connection.sendall(message)
        except OSError:
            self.is_gone = True

    def answers(self) -> list[tuple[int, bool | None]]:
        """What came: the number of each pair with its verdict."""
        try:
            told = self.connection.recv(4096)
        except OSError:
            told = b""
        if not told:
            self.is_gone = True
            return []
        self.heard = time.monotonic()
        return [(self.asked.popleft(), _VERDICTS.get(byte)) for byte in told]

    def close(self) -> None:
        """End the process and its children."""
        self.connection.close()
        self._end()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _end(self) -> None:
        if self._process.returncode is None:  # not waited for, so the number is still its own
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
