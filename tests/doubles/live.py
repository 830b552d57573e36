"""An application that is served by a thread of this process."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn


@contextlib.contextmanager
def served(app: Any, listener: socket.socket) -> Iterator[None]:
    """It answers on the listener; the thread ends by itself a moment after the block, for which
    seventy tests need not wait."""
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    live = uvicorn.Server(config)
    thread = threading.Thread(target=live.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not live.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield
    finally:
        live.should_exit = True
