"""A run on disk or in an object store: stage folders named by identity, manifests written last,
files that appear whole.

A stage is done where its folder has a manifest; of several (`--retry failed`) the newest counts.
Readers trust its file list, never a glob. This module knows paths and hashes; what the files mean
is the stages' business.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from engine.errors import StageError
from engine.run.identity import git_commit, identity_hash, versions
from engine.store.files import file_sha256, write_atomic
from engine.store.paths import Folder, file_sizes

MANIFEST = "manifest.json"
STAGE_FOLDER = re.compile(r"(\d+)-([a-z]+)-([0-9a-f]{8})(-\d+)?")
PROGRESS = "progress.json"


@dataclass(frozen=True)
class Counts:
    """What a stage did: rows in = rows out + dropped, and the files (relative to its folder) with
    their rows."""

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


def stage_folder(
    root: Folder, order: int, stage: str, identity: Mapping[str, Any], *, force: bool = False
) -> Folder:
    """The newest folder of this identity; with `force`, a new one with the suffix -2, -3, … if that
    one is finished."""
    base = root / f"{order}-{stage}-{identity_hash(identity)}"
    newest, number = base, 2
    while (following := base.with_name(f"{base.name}-{number}")).exists():
        newest, number = following, number + 1
    return following if force and (newest / MANIFEST).exists() else newest


def manifest_paths(folder: Folder) -> list[Folder]:
    """The manifests of a stage, the newest last: manifest.json, manifest-0002.json, …"""
    return sorted(folder.glob("manifest*.json"), key=lambda path: (len(path.name), path.name))


def read_manifest(path: Folder) -> Manifest:
    """One manifest. StageError where it is damaged, or its folder's name says that it belongs
    elsewhere."""
    try:
        manifest = Manifest.model_validate_json(path.read_text())
    except ValueError as error:
        raise StageError(
            f"{path} is damaged ({str(error).splitlines()[0]}); restore it, or delete it and run"
            " the job again: the stage is made again"
        ) from None
    if (named := STAGE_FOLDER.fullmatch(path.parent.name)) and named[3] != identity_hash(
        manifest.identity
    ):
        raise StageError(
            f"{path} is of another identity ({identity_hash(manifest.identity)}) than its folder:"
            " it was copied from another job or"
            " changed by hand; move the folder away and run the job again"
        )
    return manifest


def load_manifest(folder: Folder) -> Manifest | None:
    """The newest manifest of a finished stage, or None. A listed file that is missing or has
    another size is an error."""
    paths = manifest_paths(folder)
    if not paths:
        return None
    manifest = read_manifest(paths[-1])
    sizes = file_sizes(folder, manifest.files)
    for name, entry in manifest.files.items():
        if (size := sizes.get(name)) != entry.size_bytes:
            state = (
                "is missing" if size is None else f"has {size} bytes instead of {entry.size_bytes}"
            )
            raise StageError(
                f"{manifest.stage}: {folder / name} {state}; restore it, or make the stage again"
                f" with --only {manifest.stage} --force"
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
    """`model` and `revision` of student or baseline: a folder of the finished train stage, or the
    hub model it started from."""
    manifest = load_manifest(train)
    if manifest is None or name not in manifest.info:
        raise StageError(
            f"{train} has no {name}; finish training first: distill run JOB --until train"
        )
    folder = train / str(manifest.info[name])
    if folder.exists():
        return {"model": str(folder), "revision": None}
    return {"model": str(manifest.info[name]), "revision": manifest.info.get(f"{name}_revision")}


def publish(
    folder: Folder,
    stage: str,
    identity: dict[str, Any],
    counts: Counts,
    seconds: float,
    *,
    supersede: bool = False,
) -> Manifest:
    """Hash the files and write the manifest last: from here on the stage is done. `supersede`
    writes the next one."""
    lost = counts.rows_in - counts.rows_out - sum(counts.dropped.values())
    assert lost == 0, (
        f"{stage}: rows in {counts.rows_in} != out {counts.rows_out} + dropped"
        f" {dict(counts.dropped)}"
    )
    files = {
        name: FileEntry(
            rows=rows, size_bytes=(folder / name).stat().st_size, sha256=file_sha256(folder / name)
        )
        for name, rows in counts.files.items()
    }
    manifest = Manifest(
        stage=stage,
        identity=identity,
        rows_in=counts.rows_in,
        rows_out=counts.rows_out,
        dropped=dict(counts.dropped),
        seconds=round(seconds, 3),
        finished_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        versions=versions(),
        git_commit=git_commit(),
        files=files,
        info=dict(counts.info),
    )
    older = manifest_paths(folder) if supersede else []
    for path in older:
        changed = [
            name
            for name, entry in read_manifest(path).files.items()
            if files.get(name, entry) != entry
        ]
        assert not changed, (
            f"{stage}: files that {path.name} published were written again: {changed}"
        )
    write_atomic(
        folder / (f"manifest-{len(older) + 1:04d}.json" if older else MANIFEST),
        manifest.model_dump_json(indent=1),
    )
    return manifest
