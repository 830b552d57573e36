"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from engine.store.paths import Folder, StorePath


def file_sha256(path: Folder) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_atomic(path: Folder, text: str) -> None:
    """The text file appears whole, flushed to the disk, or not at all."""
    publish_durable(path, text.encode())


def publish_durable(path: Folder, data: bytes | memoryview) -> None:
    """The file appears whole, flushed to the disk with its folder's entry, or not at all."""
    if isinstance(path, StorePath):
        path.write_bytes(data)
        return
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        _sync_entry(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _sync_entry(path: Path) -> None:
    """After a power cut the name is there, not only the bytes."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
