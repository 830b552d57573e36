"""Ctrl-C and SIGTERM, for stages that must not drop what they have in hand."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def asked_once(ask: Callable[[], None]) -> Generator[None]:
    """While the block runs, the first of these signals calls `ask` in its place; the next one ends
    at once, as without the block."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's business
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def first(number: int, frame: Any) -> None:
        restore()
        ask()

    for number in SIGNALS:
        signal.signal(number, first)
    try:
        yield
    finally:
        restore()
