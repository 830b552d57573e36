"""A process of processes.py: reads orders, each with the function it is for where that is another
than before, and answers each with its result."""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from typing import Any

from engine.backends.processes import received, send


def main() -> None:
    """Until the other side closes the pipe. What the work prints goes where errors go."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        work = None
        while True:
            new_work, order = pickle.loads(received(sys.stdin.buffer))
            if new_work is not None:
                work = pickle.loads(new_work)
            send(answers, _answer(work, order))
    except EOFError:
        return


def _answer(work: Any, order: Any) -> bytes:
    try:
        return pickle.dumps((False, work(order)))
    except Exception as error:  # noqa: BLE001 - raised again by whoever asked
        error.add_note(traceback.format_exc())  # whose frames do not travel
        return pickle.dumps((True, error))


if __name__ == "__main__":
    main()
