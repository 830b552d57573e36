"""A run on disk or in an object store: stage folders named by identity, manifests written last,
files that appear whole.

A stage is done where its folder has a manifest; of several (`--retry failed`) the newest counts.
Readers trust its file list, never a glob. This module knows paths and hashes; what the files mean
is the stages' business.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializeAsAny, model_validator

from engine.errors import StageError
from engine.run.facts import INFO, Info
from engine.run.identity import git_commit, identity_hash, versions
from engine.store.files import file_sha256, write_atomic
from engine.store.paths import Folder, file_sizes

MANIFEST = "manifest.json"
STAGE_FOLDER = re.compile(r"(\d+)-([a-z]+)-([0-9a-f]{8})(-\d+)?")
PROGRESS = "progress.json"
FORMAT = 2  # of manifests and of what names a run's folders (CHANGELOG.md)
QUARANTINE = "data/quarantine.parquet"  # lines of sources that are no rows


class FileEntry(BaseModel):
    """One published file."""

    rows: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Counts:
    """What a stage did: rows in = rows out + dropped, and the files (relative to its folder) with
    their rows, or all that is known of them where the stage knows it."""

    rows_in: int
    rows_out: int
    files: Mapping[str, int | FileEntry]
    dropped: Mapping[str, int] = field(default_factory=dict)
    info: Info = field(default_factory=Info)

    def rows_of_files(self) -> dict[str, int]:
        """File -> rows."""
        rows = {}
        for name, known in self.files.items():
            rows[name] = known.rows if isinstance(known, FileEntry) else known
        return rows


class Manifest(BaseModel):
    """What a finished stage publishes; `info` is of the stage's own type (facts.py)."""

    model_config = ConfigDict(defer_build=True)

    schema_version: int = FORMAT
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
    info: SerializeAsAny[Info]

    def rows_of_files(self) -> dict[str, int]:
        """File -> rows."""
        return {name: entry.rows for name, entry in self.files.items()}

    @model_validator(mode="before")
    @classmethod
    def _info_is_the_stages(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("info"), dict):
            kind = INFO.get(str(data.get("stage")), Info)
            return data | {"info": kind.model_validate(data["info"])}
        return data


@dataclass(frozen=True)
class Finished:
    """A stage that is done: its folder, and the manifest that says what is in it."""

    folder: Folder
    manifest: Manifest

    def files(self, split: str | None = None) -> list[Folder]:
        """Its rows, one split's or all, in order; what lies in quarantine is none."""
        prefix = "data/" if split is None else f"data/{split}-"
        names = [name for name in sorted(self.manifest.files) if name.startswith(prefix)]
        return [self.folder / name for name in names if name != QUARANTINE]

    @property
    def quarantined(self) -> int:
        """Lines that were no rows."""
        entry = self.manifest.files.get(QUARANTINE)
        return entry.rows if entry else 0

    @functools.cached_property
    def sha256(self) -> str:
        """Its identity for the stages behind it."""
        return manifest_sha256(self.folder)


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
    """One manifest. StageError where it is damaged or of an older format, or its folder's name says
    that it belongs elsewhere."""
    try:
        data = json.loads(path.read_text())
        written = data.get("schema_version")
        if written != FORMAT:
            raise StageError(
                f"{path} is of format {written}, and this version reads {FORMAT}: move"
                f" {path.parent}"
                " away, or give the job another name, and run it again"
            )
        manifest = Manifest.model_validate(data)
    except (ValueError, AttributeError) as error:
        raise StageError(
            f"{path} is damaged ({str(error).splitlines()[0]}); restore it, or delete it and run"
            " the job again: the stage is made again"
        ) from None
    named = STAGE_FOLDER.fullmatch(path.parent.name)
    if named and named[3] != identity_hash(manifest.identity):
        raise StageError(
            f"{path} is of another identity ({identity_hash(manifest.identity)}) than its folder:"
            " it"
            " was copied from another job or changed by hand; move the folder away and run the job"
            " again"
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


def finished(folder: Folder) -> Finished:
    """The finished stage in `folder`. StageError if it is not."""
    manifest = load_manifest(folder)
    if manifest is None:
        raise StageError(f"{folder.name} is not finished; run the job without --only to finish it")
    return Finished(folder, manifest)


def publish(
    folder: Folder,
    stage: str,
    identity: dict[str, Any],
    counts: Counts,
    seconds: float,
    *,
    supersede: bool = False,
) -> Manifest:
    """Write the manifest last: from here on the stage is done. Files of which only the rows are
    known are hashed here. `supersede` writes the next manifest."""
    lost = counts.rows_in - counts.rows_out - sum(counts.dropped.values())
    assert lost == 0, (
        f"{stage}: rows in {counts.rows_in} != out {counts.rows_out} + dropped"
        f" {dict(counts.dropped)}"
    )
    info = INFO.get(stage, Info).model_validate(counts.info.model_dump(exclude_unset=True))
    files = {name: _entry(folder / name, known) for name, known in counts.files.items()}
    manifest = Manifest(
        schema_version=FORMAT,
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
        info=info,
    )
    older = manifest_paths(folder) if supersede else []
    for path in older:
        published = read_manifest(path).files
        changed = [name for name, entry in published.items() if files.get(name, entry) != entry]
        assert not changed, (
            f"{stage}: files that {path.name} published were written again: {changed}"
        )
    name = f"manifest-{len(older) + 1:04d}.json" if older else MANIFEST
    # What a stage did not say stays unsaid: report.json shows it as it stands here.
    write_atomic(folder / name, manifest.model_dump_json(indent=1, exclude_unset=True))
    return manifest


def _entry(path: Folder, known: int | FileEntry) -> FileEntry:
    if isinstance(known, FileEntry):
        return known
    return FileEntry(rows=known, size_bytes=path.stat().st_size, sha256=file_sha256(path))
