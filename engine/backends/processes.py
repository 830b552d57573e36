"""Pure functions over many orders, in processes of this machine. The results and their order are
those of one process that does all of it."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import IO, Any

from engine.errors import StageError

Work = Callable[[Any], Any]  # a module-level function, or a partial of one: it is pickled
# The result of each order, in order. Orders are taken as they are needed, a few ahead.
Spread = Callable[[Work, Iterable[Any]], Iterator[Any]]
AHEAD = 2  # orders for each worker: none waits for the next one
_WORKER = "engine.backends.process_worker"
_LENGTH = struct.Struct("!Q")


def here(work: Work, orders: Iterable[Any]) -> Iterator[Any]:
    """One after the other in this process."""
    return map(work, orders)


class Processes:
    """A `Spread` over so many processes, which start with the first call and end with the block:
    a process takes a second to import what it needs.

    What a function raises is raised here; StageError where a process dies. After a call that was
    not heard to its end the next one has new processes.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._all: list[_Process] = []
        self._free: SimpleQueue[_Process] = SimpleQueue()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def __call__(self, work: Work, orders: Iterable[Any]) -> Iterator[Any]:
        """The result of each order."""
        if not self._all:
            self._start()
        free = self._free
        pickled = pickle.dumps(work)

        def ask(order: Any) -> Any:
            process = free.get()
            try:
                return process.ask(pickled, order)
            finally:
                free.put(process)

        threads = ThreadPoolExecutor(self._workers)
        submit = partial(threads.submit, ask)
        is_over = False
        try:
            for future in a_few_ahead(submit, orders, AHEAD * self._workers):
                yield future.result()
            is_over = True
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            if not is_over:  # they work on what nobody waits for
                self._end()
            threads.shutdown()

    def _start(self) -> None:
        self._free = SimpleQueue()
        for _ in range(self._workers):
            process = _Process()
            self._all.append(process)
            self._free.put(process)

    def _end(self) -> None:
        for process in self._all:
            process.end()
        self._all = []


def a_few_ahead(start: Callable[[Any], Any], orders: Iterable[Any], most: int) -> Iterator[Any]:
    """What `start` gives for each order, in order; it is called at most so many orders ahead."""
    started: deque[Any] = deque()
    for order in orders:
        if len(started) == most:
            yield started.popleft()
        started.append(start(order))
    yield from started


class _Process:
    """A process that does one piece of work after the other."""

    def __init__(self) -> None:
        self._work = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is this process's to answer
        )

    def ask(self, work: bytes, order: Any) -> Any:
        """What the work, pickled, makes of an order; it is sent where it is not the last one's."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            new_work = work if work is not self._work else None
            self._work = work
            send(self._process.stdin, pickle.dumps((new_work, order)))
            answer = received(self._process.stdout)
        except (OSError, EOFError):
            raise StageError(
                "a process that worked beside this one died with status"
                f" {self._process.wait()}; is memory full? Run the same command again, with fewer"
                " workers: what is finished is kept"
            ) from None
        is_error, result = pickle.loads(answer)
        if is_error:
            raise result
        return result

    def end(self) -> None:
        """What it works on is nobody's any more."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:  # it was not told all of an order
                continue


def send(pipe: IO[bytes], message: bytes) -> None:
    """Write a message behind its length."""
    pipe.write(_LENGTH.pack(len(message)) + message)
    pipe.flush()


def received(pipe: IO[bytes]) -> bytes:
    """The next message. EOFError where the other side ended."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    message = pipe.read(length)
    if len(message) < length:
        raise EOFError
    return message
