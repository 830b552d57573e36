"""What people see and what goes to a log: everything that libraries print ends in a file."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import EngineError
from engine.store.paths import run_folder

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def quiet(log: Path, name: str = "") -> Generator[Console]:
    """Send everything that libraries and their processes print to `log`; yields a console on the
    real terminal.

    `name` is whose output it is, and is said. The log begins with the command and ends with what
    stopped it, so that it can be read alone.
    """
    from rich.console import Console

    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    sink = log.open("ab")
    with sink, os.fdopen(os.dup(saved[0]), "w", buffering=1) as terminal:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        command = re.sub(r"//[^/@\s]+@", "//***@", shlex.join(sys.argv))  # a password in an address
        logging.info("distill-engine %s: %s", importlib.metadata.version("distill-engine"), command)
        try:
            console = Console(file=terminal, width=None if os.isatty(saved[0]) else 130)
            if name:
                console.print(
                    f"{name}: third-party output goes to {log}", highlight=False, soft_wrap=True
                )
            yield console
        except EngineError as error:
            logging.error("%s: %s", type(error).__name__, error)
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, stream)
                os.close(copy)


def log_path(name: str, runs: str, what: str) -> Path:
    """Beside the run; a log cannot grow in an object store, so there it stays here, under runs/."""
    folder = run_folder(runs)
    folder = folder if isinstance(folder, Path) else Path("runs").resolve()
    return folder / name / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{what}.log"
