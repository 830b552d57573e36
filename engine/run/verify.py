"""Is a run what its manifests and commit records say, and what lies in it that none of them names?

`verify` recomputes every checksum, id and count; `gc` removes what nothing names. Both read the
commit records here and not through parts.py, so that a mistake there shows. Neither calls a
teacher.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import StageError
from engine.job.jobfile import load_run
from engine.rows.ids import prompt_hash, prompt_id_of
from engine.rows.tables import read_tables
from engine.run import parts
from engine.run.lock import run_lock
from engine.run.manifests import STAGE_FOLDER, Manifest, manifest_paths, read_manifest
from engine.store.files import file_sha256
from engine.store.paths import Folder, StorePath, files_in, read_buffer, remove_tree, tree_bytes

_LIGHT = ("prompt_id", "sample_index", "teacher", "status", "prompt_tokens", "completion_tokens")
_OF_RECORD = {
    "prompt_id": "prompt_id",
    "sample_index": "sample_index",
    "status": "status",
    "tokens_in": "prompt_tokens",
    "tokens_out": "completion_tokens",
}  # field of the record -> column of its part
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")  # as rundir.write_atomic names them


@dataclass
class Report:
    """What was looked at, one line per stage; what is wrong, each with its remedy; and the files
    that nothing names."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unnamed: list[Folder] = field(default_factory=list)


@dataclass(frozen=True)
class _Content:
    """What a file really holds; `rows` are the light columns of a Parquet file."""

    size_bytes: int
    sha256: str
    rows: pa.Table | None = None
    error: str | None = None


class _Commits:
    """The commit records of a folder: those that count, and the files that any of them names."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self.problems = folder, dict[str, str]()
        names = sorted(files_in(folder / "commits"))
        epochs = [name for name in names if name.startswith("epoch-")]
        self.newest = max((int(name.split("-")[1]) for name in epochs), default=0)
        listed: set[str] = set()
        for name in epochs:
            if int(name.split("-")[1]) == self.newest:
                listed |= set(self._load(name).get("accepted", []))
        records = {name: self._load(name) for name in names if name.startswith("record-")}
        for name, record in records.items():
            if record and record["epoch"] != int(name.split("-")[1]):
                self.problems[name] = f"it names epoch {record['epoch']}"
        self.absent = sorted(listed - records.keys())
        self.counting = {
            name: record
            for name, record in records.items()
            if record and (name in listed or int(name.split("-")[1]) == self.newest)
        }
        # A record that cannot be read still names its part: both carry the same unique name.
        self.files = {str(record.get("file")) for record in records.values()}
        self.files |= {
            f"data/part-{name.removeprefix('record-').removesuffix('.json')}.parquet"
            for name in records.keys() | listed
        }

    def _load(self, name: str) -> dict[str, Any]:
        try:
            loaded = json.loads((self.folder / "commits" / name).read_text())
            wanted = (
                {"accepted"}
                if name.startswith("epoch-")
                else {*_OF_RECORD, "file", "epoch", "teacher", "size_bytes", "sha256"}
            )
            if missing := wanted - loaded.keys():
                raise ValueError(f"without {sorted(missing)}")
            return loaded
        except (OSError, ValueError, AttributeError) as error:
            self.problems[name] = str(error)
            return {}


def verify(run: Folder) -> Report:
    """Look at every byte of every stage. SpecError where `run` is no run folder, or another
    job's."""
    load_run(run)
    report = Report()
    for folder in _stage_folders(run):
        before, contents = len(report.problems), dict[str, _Content]()
        manifests = list(_manifests(folder, report))
        counted = 0
        for place in _places(folder):
            commits = _Commits(place)
            counted += len(commits.counting)
            report.problems += _commit_problems(
                commits, contents if place == folder else {}, finished=bool(manifests)
            )
            report.unnamed += _unnamed(place, commits, manifests)
        for manifest in manifests:
            told = {
                problem.partition(": ")[0] for problem in report.problems
            }  # by the record of the same part, or an older manifest
            report.problems += [
                each
                for each in _file_problems(folder, manifest, contents)
                if each.partition(": ")[0] not in told
            ]
            if manifest.stage == "generate":
                report.problems += _row_problems(run, folder, manifest, contents)
            if manifest.stage == "prompts" and len(report.problems) == before:
                report.problems += _id_problems(folder, manifest)
        state = (
            f"{manifests[-1].rows_out:,} rows in {len(manifests[-1].files):,} files"
            if manifests
            else "unfinished"
        )
        found = len(report.problems) - before
        report.lines.append(
            f"{folder.name}: {state}, {counted:,} commit records:"
            f" {f'{found} problems' if found else 'ok'}"
        )
    if report.unnamed:
        first = f"first {report.unnamed[0]}"
        report.lines.append(
            f"{len(report.unnamed):,} files are unnamed, which is no error; `distill gc` removes"
            f" them, {first}"
        )
    return report


def _stage_folders(run: Folder) -> list[Folder]:
    return sorted(
        path for path in run.iterdir() if STAGE_FOLDER.fullmatch(path.name) and path.is_dir()
    )


def _places(folder: Folder) -> list[Folder]:
    """Where a stage has data and commits: in its folder, and where evaluate keeps its models'
    answers."""
    return [folder, folder / "answers"]


def _manifests(folder: Folder, report: Report) -> Iterator[Manifest]:
    for path in manifest_paths(folder):
        try:
            yield read_manifest(path)
        except StageError as error:
            report.problems.append(str(error))


def _content(path: Folder) -> _Content:
    """A Parquet file is read whole, so that every page's checksum is looked at; other files may be
    larger than memory."""
    if path.suffix != ".parquet":
        return _Content(path.stat().st_size, file_sha256(path))
    data = read_buffer(path)
    size, sha256 = data.size, hashlib.sha256(data).hexdigest()
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        return _Content(size, sha256, error=str(error))
    return _Content(
        size, sha256, table.select([name for name in _LIGHT if name in table.column_names])
    )


def _differences(
    folder: Folder, name: str, size_bytes: int, sha256: str, contents: dict[str, _Content]
) -> Iterator[str]:
    """What is wrong with one file, against what a manifest or record says of it."""
    if name not in contents:
        try:
            contents[name] = _content(folder / name)
        except FileNotFoundError:
            yield "is missing"
            return
    found = contents[name]
    if found.size_bytes != size_bytes:
        yield f"has {found.size_bytes} bytes instead of {size_bytes}"
    elif found.sha256 != sha256:
        yield "has another sha256"
    elif found.error:
        yield f"cannot be read ({found.error})"


def _commit_problems(
    commits: _Commits, contents: dict[str, _Content], *, finished: bool
) -> Iterator[str]:
    also = " and manifest*.json of its stage" if finished else ""
    for name, problem in commits.problems.items():
        loss = (
            "the rows committed since it was written"
            if name.startswith("epoch-")
            else "its rows alone"
        )
        yield (
            f"{commits.folder / 'commits' / name}: damaged ({problem}); delete it{also} and run the"
            f" job again: {loss} are made again"
        )
    for name in commits.absent:
        way_out = "delete manifest*.json of its stage and run" if finished else "run"
        yield (
            f"{commits.folder / 'commits' / name}: is missing, but epoch {commits.newest} lists it;"
            f" restore it, or {way_out} the job again:"
            " its rows alone are made again"
        )
    for name, record in commits.counting.items():
        wrong = list(
            _differences(
                commits.folder, record["file"], record["size_bytes"], record["sha256"], contents
            )
        )
        content = contents.get(record["file"])
        if content and content.rows is not None:
            for mine, column in _OF_RECORD.items():
                if content.rows[column].to_pylist() != record[mine]:
                    wrong.append(f"holds other values of {column} than its record")
            if set(content.rows["teacher"].to_pylist()) - {record["teacher"]}:
                wrong.append(f"holds rows of another teacher than '{record['teacher']}'")
        for text in wrong:
            yield (
                f"{commits.folder / record['file']}: {text}; delete its record commits/{name}{also}"
                " and run the job again:"
                f" its {len(record['prompt_id']):,} rows alone are made again"
            )


def _file_problems(
    folder: Folder, manifest: Manifest, contents: dict[str, _Content]
) -> Iterator[str]:
    again = f"make the stage again with --only {manifest.stage} --force"
    if (folder / "commits").is_dir():
        again = (
            "delete manifest*.json beside it, and the record that names it if there is one, and run"
            " the job again"
        )
    for name, entry in manifest.files.items():
        wrong = list(_differences(folder, name, entry.size_bytes, entry.sha256, contents))
        rows = contents[name].rows if name in contents else None
        if not wrong and rows is not None and len(rows) != entry.rows:
            wrong = [f"has {len(rows)} rows instead of {entry.rows}"]
        yield from (f"{folder / name}: {text}; restore it, or {again}" for text in wrong)


def _row_problems(
    run: Folder, folder: Folder, manifest: Manifest, contents: dict[str, _Content]
) -> Iterator[str]:
    """Every prompt x teacher x sample exactly once, and the manifest's sums."""
    tables = [
        found.rows
        for name in manifest.files
        if (found := contents.get(name)) and found.rows is not None
    ]
    if len(tables) < len(manifest.files):
        return  # a file that is missing or damaged is named already
    remedy = f"delete {folder}/manifest*.json and run the job again"
    rows = pa.concat_tables(tables) if tables else pa.table({name: [] for name in _LIGHT})
    sums = {
        "rows_out": (manifest.rows_out, len(rows)),
        "status": (manifest.info.get("status"), dict(Counter(rows["status"].to_pylist()))),
        "tokens_in": (
            manifest.info.get("tokens_in"),
            sum(filter(None, rows["prompt_tokens"].to_pylist())),
        ),
        "tokens_out": (
            manifest.info.get("tokens_out"),
            sum(filter(None, rows["completion_tokens"].to_pylist())),
        ),
    }
    for name, (said, held) in sums.items():
        if said != held:
            yield f"{folder}: {name} is {said} in the manifest and {held} in the files; {remedy}"
    try:
        prompts = _prompts(run, manifest.identity["upstream"]["prompts"])
    except StageError:
        return  # their damage is named with their own stage
    if prompts is None:
        yield (
            f"{folder}: the prompts that it answers are not in {run}; copy their 1-prompts-… folder"
            " back"
        )
        return
    found = _count_keys(manifest.identity["blocks"]["generate"], *prompts, rows)
    if any(found.values()):
        yield (
            f"{folder}: rows {', '.join(f'{name} {count}' for name, count in found.items())};"
            f" {remedy}"
        )


def _id_problems(folder: Folder, manifest: Manifest) -> Iterator[str]:
    """Each prompt's hash and id, from its messages."""
    for name in (
        name for name in manifest.files if name.startswith(("data/train", "data/validation"))
    ):
        (table,) = read_tables([folder / name], ["prompt_id", "prompt_sha256", "messages"])
        sha256 = [prompt_hash(messages) for messages in table["messages"].to_pylist()]
        if (
            sha256 != table["prompt_sha256"].to_pylist()
            or [prompt_id_of(hash_) for hash_ in sha256] != table["prompt_id"].to_pylist()
        ):
            yield (
                f"{folder / name}: ids that do not belong to their messages; make the stage again"
                " with --only prompts --force"
            )


def _prompts(run: Folder, manifest_sha256: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Ids (n,) in ascending order and which are of the validation split (n,), of the prompts stage
    with this manifest."""
    for path in (
        path
        for folder in _stage_folders(run)
        if "-prompts-" in folder.name
        for path in manifest_paths(folder)
    ):
        if file_sha256(path) == manifest_sha256:
            names = [
                name
                for name in read_manifest(path).files
                if name.startswith(("data/train", "data/validation"))
            ]
            table = pa.concat_tables(
                read_tables([path.parent / name for name in names], ["prompt_id", "split"])
            ).sort_by("prompt_id")
            return table["prompt_id"].to_numpy(), np.asarray(
                table["split"].to_pylist()
            ) == "validation"
    return None


def _count_keys(
    spec: dict[str, Any], ids: np.ndarray, validation: np.ndarray, rows: pa.Table
) -> dict[str, int]:
    """How many wanted keys are missing, duplicated or foreign; `spec` is generate's identity.

    Routed prompts belong to one teacher each: the one that answered.
    """
    prompt, sample = rows["prompt_id"].to_numpy(), rows["sample_index"].to_numpy()
    teacher = np.asarray(rows["teacher"].to_pylist(), object)
    at = np.searchsorted(ids, prompt).clip(max=len(ids) - 1)
    known, taken = ids[at] == prompt, np.zeros(len(ids), int)
    missing = duplicated = wanted = 0
    for each in spec["teachers"]:
        samples = (each.get("sampling") or spec["sampling"])["samples"]
        limit = np.where(validation, 1, samples)
        good = known & (teacher == each["name"]) & (sample >= 0) & (sample < limit[at])
        keys = np.unique(at[good] * samples + sample[good])
        mine = (
            np.isin(np.arange(len(ids)), at[good])
            if spec.get("route", "all") != "all"
            else np.ones(len(ids), bool)
        )
        taken += mine
        wanted += good.sum()
        missing += limit[mine].sum() - len(keys)
        duplicated += good.sum() - len(keys)
    if spec.get("route", "all") != "all":
        missing += (taken == 0).sum()
        duplicated += (taken - 1).clip(min=0).sum()
    return {
        "missing": int(missing),
        "duplicated": int(duplicated),
        "foreign": int(len(rows) - wanted),
    }


def _unnamed(place: Folder, commits: _Commits, manifests: list[Manifest]) -> list[Folder]:
    """Files in data/ that neither a record nor a manifest names; without either, nobody can say
    yet."""
    if not manifests and not commits.newest:
        return []
    named = commits.files | {name for manifest in manifests for name in manifest.files}
    return [
        place / "data" / name
        for name in sorted(files_in(place / "data"))
        if f"data/{name}" not in named
    ]


def gc(run: Folder, *, dry_run: bool = False) -> list[tuple[Folder, int]]:
    """Remove (or with `dry_run` only find) what no record and no manifest names; returns files and
    their bytes.

    Data without a record, temporary files, attempts of finished stages. StageError while a driver
    runs here. Before a part of the newest epoch goes, a new epoch shuts out a writer that may still
    live. An object store cannot tell whether a driver runs, so there such parts stay until a later
    run has opened an epoch.
    """
    load_run(run)
    with run_lock(run):
        removed = list(_garbage(run, shut_out=not dry_run))
        for path, _ in removed if not dry_run else ():
            path.unlink(missing_ok=True)
    return removed


def superseded(
    run: Folder, is_old: Callable[[Folder], bool], *, remove: bool
) -> list[tuple[Folder, int]]:
    """Stage folders that `is_old` names, with their bytes; `remove` deletes them.

    StageError while a driver runs here.
    """
    load_run(run)
    with run_lock(run):
        old = [
            (folder, tree_bytes(folder))
            for folder in _stage_folders(run)
            if not _is_link(folder) and is_old(folder)
        ]
        for folder, _ in old if remove else ():
            remove_tree(folder)
    return old


def _is_link(folder: Folder) -> bool:
    return isinstance(folder, Path) and folder.is_symlink()


def _garbage(run: Folder, *, shut_out: bool) -> Iterator[tuple[Folder, int]]:
    yield from _temporary(run)
    for folder in _stage_folders(run):
        if _is_link(folder):
            continue
        report = Report()
        manifests = list(_manifests(folder, report))
        if report.problems:
            raise StageError(f"nothing was removed: {report.problems[0]}")
        for place in _places(folder):
            commits = _Commits(place)
            unnamed = _unnamed(place, commits, manifests)
            if unnamed and commits.newest and isinstance(place, StorePath):
                unnamed = [
                    path
                    for path in unnamed
                    if path.name.startswith("part-")
                    and int(path.name.split("-")[1]) < commits.newest
                ]
            elif unnamed and commits.newest and shut_out:
                parts.open_epoch(place)
                unnamed = _unnamed(place, _Commits(place), manifests)
            yield from ((path, path.stat().st_size) for path in unnamed)
            if manifests:
                done = manifest_paths(folder)[-1].stat().st_mtime
                for below in (place / "attempts", place / "receipts"):
                    yield from (
                        (below / name, stat.st_size)
                        for name, stat in files_in(below).items()
                        if stat.st_mtime <= done
                    )
            for below in (place, place / "data", place / "commits", place / "attempts"):
                yield from _temporary(below)


def _temporary(folder: Folder) -> Iterator[tuple[Folder, int]]:
    yield from (
        (folder / name, stat.st_size)
        for name, stat in files_in(folder).items()
        if _TEMPORARY.fullmatch(name)
    )
