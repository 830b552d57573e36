"""One driver at a time in a run folder."""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Generator
from contextlib import contextmanager

from engine.errors import SpecError, StageError
from engine.store.paths import Folder, StorePath


def is_running(root: Folder) -> bool:
    """Whether a process holds the run's lock now. Nobody knows in an object store."""
    if isinstance(root, StorePath):
        return False
    try:
        with (root / ".lock").open("r+") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def run_lock(root: Folder) -> Generator[None]:
    """One driver per run folder: the kernel drops the lock when its process ends, however it ends.

    An object store has no locks: what this writes there says who started last, and the epochs of
    parts.py fence.
    """
    holder = f"pid {os.getpid()} on {platform.node()}"
    if isinstance(root, StorePath):
        try:
            (root / ".lock").write_text(holder)
        except OSError as error:
            raise SpecError(
                f"--runs {root.parent}: {error}; correct the bucket, the endpoint or the"
                " credentials (AWS_…)"
            ) from None
        yield
        return
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            other = handle.read().strip() or "unknown"
            raise StageError(
                f"another process ({other}) is running this job in"
                f" {root}; wait for it, or use another --runs"
            ) from None
        handle.truncate(0)
        handle.write(holder)
        handle.flush()
        yield
