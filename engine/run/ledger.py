"""What a run's folder says of itself: its stages, their manifests, and their commit records.

`verify` and `gc` read the commit records here and not through parts.py, so that a mistake there
shows. Nothing here writes, and nothing here looks into the data.
"""

from __future__ import annotations

import json
from typing import Any

from engine.errors import StageError
from engine.run.manifests import STAGE_FOLDER, Manifest, manifest_paths, read_manifest
from engine.store.paths import Folder, files_in

# Field of the record -> column of its part.
RECORD_COLUMNS = {
    "prompt_id": "prompt_id",
    "sample_index": "sample_index",
    "status": "status",
    "tokens_in": "prompt_tokens",
    "tokens_out": "completion_tokens",
}
RawRecord = dict[str, Any]  # as its file holds it; {} where that cannot be read
_EPOCH_FIELDS = {"accepted"}
_RECORD_FIELDS = {*RECORD_COLUMNS, "file", "epoch", "teacher", "size_bytes", "sha256"}


class Commits:
    """The commit records of a folder: those that count, and the files that any of them names."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.problems: dict[str, str] = {}  # of a file in commits/
        names = sorted(files_in(folder / "commits"))
        epochs = [name for name in names if name.startswith("epoch-")]
        numbers = map(epoch_in, epochs)
        self.newest = max(numbers, default=0)
        listed = self._listed(epochs)
        records = self._records(names)
        self.absent = sorted(listed - records.keys())
        # A record of an older epoch that the newest does not list came after it: its writer was
        # shut out, and its rows are made again by somebody else.
        self.counting: dict[str, RawRecord] = {}
        for name, record in records.items():
            if not record:
                continue
            if name in listed or epoch_in(name) == self.newest:
                self.counting[name] = record
        self.files: set[str] = set()
        for record in records.values():
            file = record.get("file")
            self.files.add(str(file))
        # A record that cannot be read still names its part: both carry the same unique name.
        for name in records.keys() | listed:
            unique = name.removeprefix("record-").removesuffix(".json")
            self.files.add(f"data/part-{unique}.parquet")

    def _listed(self, epochs: list[str]) -> set[str]:
        """The records that the newest epoch accepts."""
        listed: set[str] = set()
        for name in epochs:
            if epoch_in(name) == self.newest:
                epoch = self._load(name)
                listed.update(epoch.get("accepted", []))
        return listed

    def _records(self, names: list[str]) -> dict[str, RawRecord]:
        """Every record, by its file's name."""
        records: dict[str, RawRecord] = {}
        for name in names:
            if name.startswith("record-"):
                records[name] = self._load(name)
        for name, record in records.items():
            if not record:
                continue
            told = record["epoch"]
            if told != epoch_in(name):
                self.problems[name] = f"it names epoch {told}"
        return records

    def _load(self, name: str) -> RawRecord:
        path = self.folder / "commits" / name
        wanted = _RECORD_FIELDS
        if name.startswith("epoch-"):
            wanted = _EPOCH_FIELDS
        try:
            loaded = json.loads(path.read_text())
            missing = wanted - loaded.keys()
            if missing:
                raise ValueError(f"without {sorted(missing)}")
            return loaded
        except (OSError, ValueError, AttributeError) as error:
            self.problems[name] = str(error)
            return {}


def epoch_in(name: str) -> int:
    """The epoch that the name of an epoch file, a record or a part carries."""
    number = name.split("-")[1]
    return int(number)


def stage_folders(run: Folder) -> list[Folder]:
    """The folders of all stages, the first stage first."""
    folders: list[Folder] = []
    for path in run.iterdir():
        is_stage = STAGE_FOLDER.fullmatch(path.name)
        if is_stage and path.is_dir():
            folders.append(path)
    return sorted(folders)


def data_places(folder: Folder) -> list[Folder]:
    """Where a stage has data and commits: in its folder, and where evaluate keeps its models'
    answers and its judge's replies."""
    return [folder, folder / "answers", folder / "judge"]


def read_manifests(folder: Folder) -> tuple[list[Manifest], list[str]]:
    """The manifests of a stage that can be read, the newest last, and what is wrong with the
    others."""
    manifests: list[Manifest] = []
    problems: list[str] = []
    for path in manifest_paths(folder):
        try:
            manifests.append(read_manifest(path))
        except StageError as error:
            problems.append(str(error))
    return manifests, problems


def unnamed_files(place: Folder, commits: Commits, manifests: list[Manifest]) -> list[Folder]:
    """Files in data/ that neither a record nor a manifest names; without either, nobody can say
    yet."""
    if not manifests and not commits.newest:
        return []
    named = set(commits.files)
    for manifest in manifests:
        named |= manifest.files.keys()
    data = place / "data"
    names = sorted(files_in(data))
    return [data / name for name in names if f"data/{name}" not in named]
