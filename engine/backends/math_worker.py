"""The process in which math-verify runs: `python math_worker.py FD DEADLINE_S MEMORY_BYTES`.

It is started by its path and imports nothing of the engine. A first process imports the library and
forks a second, which reads pairs from the socket FD and answers each with one byte. What a pair can
do wrong ends with the second process: an alarm kills it from outside Python at the deadline, which
is in seconds of its own processor time, and its memory is bounded. The first then answers for it
and forks the next. Both end with the socket, so nothing is left behind when whoever asked is gone.

A request is two texts, each behind its length in four bytes.
"""

import functools
import importlib
import logging
import mmap
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

READY, SAME, DIFFERENT, UNTOLD, ENDED = b"r", b"1", b"0", b"?", b"x"
_LENGTH = struct.Struct("!I")
# What the second process is at, in memory that both see; the first learns from it what to answer.
IDLE, READING, COMPARING = range(3)
_SPENT = 1  # exit status
_REMEMBERED = 256  # texts as the library reads them: a gold answer meets many answers
_NEAR_LIMIT = 0.8  # of the memory: what failed there failed for want of it


def main() -> int:
    """Serve pairs until the socket is closed."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    deadline_s = float(sys.argv[2])
    memory_bytes = int(sys.argv[3])
    logging.disable(logging.CRITICAL)
    library: Any = importlib.import_module("math_verify")

    @functools.lru_cache(maxsize=_REMEMBERED)
    def parse(text: str) -> list:
        boxed = rf"\boxed{{{text}}}"
        return library.parse(boxed, parsing_timeout=None, fallback_mode="no_fallback")

    def is_same(wanted: str, said: str) -> bytes:
        return _compared(parse, library.verify, wanted, said)

    is_same(r"\frac{1}{2}", "0.5")  # what the library loads when it is first used
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # parsers complain there
    connection.sendall(READY)
    state = mmap.mmap(-1, 1)
    while True:
        child = os.fork()
        if not child:
            _bound(memory_bytes)
            _answer(connection, is_same, deadline_s, memory_bytes, state)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not status or state[0] == READING:  # half a request is lost, and the rest with it
            return 0
        if state[0] == COMPARING and not _sent(connection, ENDED):
            return 0
        state[0] = IDLE


def _sent(connection: socket.socket, byte: bytes) -> bool:
    try:
        connection.sendall(byte)
    except OSError:
        return False
    return True


def _bound(memory_bytes: int) -> None:
    used = _virtual_bytes("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (used + memory_bytes, used + memory_bytes))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # also where one long operation holds Python


def _answer(
    connection: socket.socket,
    is_same: Callable[[str, str], bytes],
    deadline_s: float,
    memory_bytes: int,
    state: mmap.mmap,
) -> None:
    """One byte for each pair, until there are no more."""
    scarce = resource.getrlimit(resource.RLIMIT_AS)[0] - (1 - _NEAR_LIMIT) * memory_bytes
    while True:
        connection.recv(1, socket.MSG_PEEK)
        state[0] = READING
        wanted = _text(connection)
        said = _text(connection)
        if wanted is None or said is None:
            return
        state[0] = COMPARING
        signal.setitimer(signal.ITIMER_PROF, deadline_s)  # its own time, whoever works beside it
        verdict = is_same(wanted, said)
        signal.setitimer(signal.ITIMER_PROF, 0)
        is_spent = verdict != SAME and _virtual_bytes("VmPeak") > scarce
        if is_spent:
            verdict = UNTOLD
        if not _sent(connection, verdict):
            return
        state[0] = IDLE
        if is_spent:
            os._exit(_SPENT)  # its peak would speak against every later pair


def _compared(
    parse: Callable[[str], list], verify: Callable[..., bool], wanted: str, said: str
) -> bytes:
    """The library's opinion, without its own alarms, which reach no long operation."""
    try:
        gold = parse(wanted)
        if not gold:
            return UNTOLD
        if verify(gold, parse(said), timeout_seconds=None, raise_on_error=True):
            return SAME
    except (MemoryError, RecursionError):
        return UNTOLD
    except Exception:  # noqa: BLE001  what the library cannot compare, it calls different
        return DIFFERENT
    return DIFFERENT


def _virtual_bytes(name: str) -> int:
    with open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0


def _text(connection: socket.socket) -> str | None:
    """Exactly one text, so that what follows is there for the next process; None at the end."""
    head = _exactly(connection, _LENGTH.size)
    if head is None:
        return None
    body = _exactly(connection, _LENGTH.unpack(head)[0])
    return None if body is None else body.decode(errors="replace")


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    pieces = []
    while size:
        piece = connection.recv(size)
        if not piece:
            return None
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


if __name__ == "__main__":
    sys.exit(main())
