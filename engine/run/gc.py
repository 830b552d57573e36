"""What of a run can go: what no commit record and no manifest names, and stages of old settings.

It removes files and calls no teacher; whether what stays is whole, verify.py tells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from engine.errors import StageError
from engine.job.jobfile import load_run
from engine.run import parts
from engine.run.ledger import (
    Commits,
    data_places,
    epoch_in,
    read_manifests,
    stage_folders,
    unnamed_files,
)
from engine.run.lock import run_lock
from engine.run.manifests import Manifest, manifest_paths
from engine.store.paths import Folder, StorePath, files_in, remove_tree, tree_bytes

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")  # as store/files.py names them
Sized = tuple[Folder, int]  # a file or folder, and its bytes


def gc(run: Folder, *, dry_run: bool = False) -> list[Sized]:
    """Remove (or with `dry_run` only find) what no record and no manifest names; returns files and
    their bytes.

    Data without a record, temporary files, attempts of finished stages. StageError while a driver
    runs here. Before a part of the newest epoch goes, a new epoch shuts out a writer that may still
    live. An object store cannot tell whether a driver runs, so there such parts stay until a later
    run has opened an epoch.
    """
    load_run(run)
    with run_lock(run):
        garbage = list(_garbage(run, shut_out=not dry_run))
        if not dry_run:
            for path, _ in garbage:
                path.unlink(missing_ok=True)
    return garbage


def superseded(
    run: Folder,
    is_old: Callable[[Folder], bool],
    *,
    remove: bool,
) -> list[Sized]:
    """Stage folders that `is_old` names, with their bytes; `remove` deletes them.

    StageError while a driver runs here.
    """
    load_run(run)
    with run_lock(run):
        old: list[Sized] = []
        for folder in stage_folders(run):
            if not _is_link(folder) and is_old(folder):
                old.append((folder, tree_bytes(folder)))
        if remove:
            for folder, _ in old:
                remove_tree(folder)
    return old


def _is_link(folder: Folder) -> bool:
    return isinstance(folder, Path) and folder.is_symlink()


def _garbage(run: Folder, *, shut_out: bool) -> Iterator[Sized]:
    yield from _temporary(run)
    for folder in stage_folders(run):
        if not _is_link(folder):  # what is behind a link is not this run's to remove
            yield from _garbage_of_stage(folder, shut_out=shut_out)


def _garbage_of_stage(folder: Folder, *, shut_out: bool) -> Iterator[Sized]:
    manifests, problems = read_manifests(folder)
    if problems:
        # A manifest that cannot be read may name any file.
        raise StageError(f"nothing was removed: {problems[0]}")
    for place in data_places(folder):
        for path in _removable_data(place, manifests, shut_out=shut_out):
            yield path, path.stat().st_size
        if manifests:
            newest = manifest_paths(folder)[-1]
            yield from _ended_attempts(place, newest.stat().st_mtime)
        yield from _temporary(place)
        for name in ("data", "verdicts", "commits", "attempts", "batches"):
            yield from _temporary(place / name)


def _removable_data(place: Folder, manifests: list[Manifest], *, shut_out: bool) -> list[Folder]:
    commits = Commits(place)
    unnamed = unnamed_files(place, commits, manifests)
    if not unnamed or not commits.newest:
        return unnamed
    # A part of the newest epoch may only be waiting for its record: its writer can outlive the
    # driver, and in a store the driver itself may be alive.
    if isinstance(place, StorePath):
        return [path for path in unnamed if _is_part_of_older_epoch(path, commits.newest)]
    if shut_out:
        parts.open_epoch(place)
        # Read again: a record that came just before the new epoch is accepted, and its part stays.
        return unnamed_files(place, Commits(place), manifests)
    return unnamed


def _is_part_of_older_epoch(path: Folder, newest: int) -> bool:
    return path.name.startswith("part-") and epoch_in(path.name) < newest


def _ended_attempts(place: Folder, finished_at: float) -> Iterator[Sized]:
    """Attempts, receipts and notes of batches from before the newest manifest. Younger ones are of
    a run that tries failed rows again, and not finished yet."""
    for below in (place / "attempts", place / "receipts", place / "batches"):
        for name, stat in files_in(below).items():
            if stat.st_mtime <= finished_at:
                yield below / name, stat.st_size


def _temporary(folder: Folder) -> Iterator[Sized]:
    for name, stat in files_in(folder).items():
        if _TEMPORARY.fullmatch(name):
            yield folder / name, stat.st_size
