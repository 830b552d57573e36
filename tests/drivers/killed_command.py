"""The command as a user types it, which dies (SIGKILL) where it is about to publish a file: its
bytes are on the disk under a temporary name, and its own name is not there yet.

python killed_command.py ENDING ARGUMENTS...   ENDING: of the path of the first such file
"""

from __future__ import annotations

import os
import signal
import sys

from engine.cli import main


def die_before(ending: str) -> None:
    """From now on."""

    def look(event: str, arguments: tuple) -> None:
        if event == "os.rename" and str(arguments[1]).endswith(ending):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


if __name__ == "__main__":
    _, told, *typed = sys.argv
    die_before(told)
    main(typed)
