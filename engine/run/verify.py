"""Is a run what its manifests and commit records say?

`verify` recomputes every checksum, id and count. It changes nothing, calls no teacher, and reads
the commit records through ledger.py and not through parts.py, so that a mistake there shows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import StageError
from engine.job.jobfile import load_run
from engine.rows.ids import prompt_hash, prompt_id_of
from engine.rows.tables import read_tables
from engine.run.facts import GenerateInfo
from engine.run.ledger import (
    RECORD_COLUMNS,
    Commits,
    RawRecord,
    data_places,
    read_manifests,
    stage_folders,
    unnamed_files,
)
from engine.run.manifests import Manifest, manifest_paths, read_manifest
from engine.run.verify_curate import curate_problems
from engine.store.files import file_sha256
from engine.store.paths import Folder, read_buffer

_LIGHT = ("prompt_id", "sample_index", "teacher", "status", "prompt_tokens", "completion_tokens")
_SPLITS = ("data/train", "data/validation")  # how names of files of prompts to answer begin


@dataclass
class Findings:
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


_Contents = dict[str, _Content]  # by the file's name in its folder; each file is read once


def verify(run: Folder) -> Findings:
    """Look at every byte of every stage. SpecError where `run` is no run folder, or another
    job's."""
    load_run(run)
    findings = Findings()
    for folder in stage_folders(run):
        stage = _verify_stage(run, folder)
        findings.lines += stage.lines
        findings.problems += stage.problems
        findings.unnamed += stage.unnamed
    if findings.unnamed:
        findings.lines.append(
            f"{len(findings.unnamed):,} files are unnamed, which is no error; `distill gc` removes"
            f" them, first {findings.unnamed[0]}"
        )
    return findings


def _verify_stage(run: Folder, folder: Folder) -> Findings:
    contents: _Contents = {}
    manifests, problems = read_manifests(folder)
    findings = Findings(problems=problems)
    counted = 0
    for place in data_places(folder):
        commits = Commits(place)
        counted += len(commits.counting)
        # Names in `contents` are relative to the stage's folder; those of answers/ are not.
        known = contents if place == folder else {}
        findings.problems += _commit_problems(commits, known, finished=bool(manifests))
        findings.unnamed += unnamed_files(place, commits, manifests)
    for manifest in manifests:
        findings.problems += _untold(findings, _file_problems(folder, manifest, contents))
        if manifest.stage == "generate":
            findings.problems += _row_problems(run, folder, manifest, contents)
        if manifest.stage == "prompts" and not findings.problems:
            findings.problems += _id_problems(folder, manifest)
        if manifest.stage == "curate" and not findings.problems:
            findings.problems += curate_problems(folder, manifest)
    findings.lines.append(_summary(folder, manifests, counted, len(findings.problems)))
    return findings


def _untold(findings: Findings, problems: Iterator[str]) -> list[str]:
    """Problems of files of which nothing is told yet: a part's record, or an older manifest, may
    have told it with a better remedy."""
    told = set(map(_file_of, findings.problems))
    return [problem for problem in problems if _file_of(problem) not in told]


def _file_of(problem: str) -> str:
    return problem.partition(": ")[0]


def _summary(folder: Folder, manifests: list[Manifest], counted: int, problems: int) -> str:
    state = "unfinished"
    if manifests:
        newest = manifests[-1]
        state = f"{newest.rows_out:,} rows in {len(newest.files):,} files"
    verdict = f"{problems} problems" if problems else "ok"
    return f"{folder.name}: {state}, {counted:,} commit records: {verdict}"


def _content(path: Folder) -> _Content:
    """A Parquet file is read whole, so that every page's checksum is looked at; other files may be
    larger than memory."""
    if path.suffix != ".parquet":
        return _Content(path.stat().st_size, file_sha256(path))
    data = read_buffer(path)
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        return _Content(data.size, sha256, error=str(error))
    light = [name for name in _LIGHT if name in table.column_names]
    return _Content(data.size, sha256, table.select(light))


def _differences(
    folder: Folder,
    name: str,
    size_bytes: int,
    sha256: str,
    contents: _Contents,
) -> Iterator[str]:
    """What is wrong with one file, against what a manifest or record says of it."""
    if name not in contents:
        try:
            contents[name] = _content(folder / name)
        except FileNotFoundError:
            yield "is missing"
            return
    content = contents[name]
    if content.size_bytes != size_bytes:
        yield f"has {content.size_bytes} bytes instead of {size_bytes}"
    elif content.sha256 != sha256:
        yield "has another sha256"
    elif content.error:
        yield f"cannot be read ({content.error})"


def _commit_problems(commits: Commits, contents: _Contents, *, finished: bool) -> Iterator[str]:
    # A finished stage is not run again; only without its manifests is the loss made good.
    also = " and manifest*.json of its stage" if finished else ""
    yield from _damaged_records(commits, also)
    yield from _absent_records(commits, finished=finished)
    yield from _damaged_parts(commits, contents, also)


def _damaged_records(commits: Commits, also: str) -> Iterator[str]:
    for name, problem in commits.problems.items():
        loss = "its rows alone"
        if name.startswith("epoch-"):
            loss = "the rows committed since it was written"
        yield (
            f"{commits.folder / 'commits' / name}: damaged ({problem}); delete it{also} and run the"
            f" job again: {loss} are made again"
        )


def _absent_records(commits: Commits, *, finished: bool) -> Iterator[str]:
    way_out = "delete manifest*.json of its stage and run" if finished else "run"
    for name in commits.absent:
        yield (
            f"{commits.folder / 'commits' / name}: is missing, but epoch {commits.newest} lists it;"
            f" restore it, or {way_out} the job again: its rows alone are made again"
        )


def _damaged_parts(commits: Commits, contents: _Contents, also: str) -> Iterator[str]:
    for name, record in commits.counting.items():
        file = record["file"]
        said = (record["size_bytes"], record["sha256"])
        wrong = list(_differences(commits.folder, file, *said, contents))
        if file in contents:
            wrong += _contradictions(contents[file].rows, record)
        for text in wrong:
            yield (
                f"{commits.folder / file}: {text}; delete its record commits/{name}{also} and run"
                f" the job again: its {len(record['prompt_id']):,} rows alone are made again"
            )


def _contradictions(rows: pa.Table | None, record: RawRecord) -> Iterator[str]:
    """Where a part's rows are not those of its record."""
    if rows is None:
        return
    for name, column in RECORD_COLUMNS.items():
        if rows[column].to_pylist() != record[name]:
            yield f"holds other values of {column} than its record"
    teachers = set(rows["teacher"].to_pylist())
    if teachers - {record["teacher"]}:
        yield f"holds rows of another teacher than '{record['teacher']}'"


def _file_problems(folder: Folder, manifest: Manifest, contents: _Contents) -> Iterator[str]:
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
        for text in wrong:
            yield f"{folder / name}: {text}; restore it, or {again}"


def _row_problems(
    run: Folder, folder: Folder, manifest: Manifest, contents: _Contents
) -> Iterator[str]:
    """Every prompt x teacher x sample exactly once, and the manifest's sums."""
    tables = []
    for name in manifest.files:
        content = contents.get(name)
        if content is None or content.rows is None:
            return  # a file that is missing or damaged is named already
        tables.append(content.rows)
    rows = pa.table({name: [] for name in _LIGHT})
    if tables:
        rows = pa.concat_tables(tables)
    remedy = f"delete {folder}/manifest*.json and run the job again"
    for wrong in _wrong_sums(manifest, rows):
        yield f"{folder}: {wrong}; {remedy}"
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
    assert isinstance(manifest.info, GenerateInfo)
    ids, validation = _asked(*prompts, manifest.info.limit)
    counts = _count_keys(manifest.identity["blocks"]["generate"], ids, validation, rows)
    if any(counts.values()):
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        yield f"{folder}: rows {told}; {remedy}"


def _wrong_sums(manifest: Manifest, rows: pa.Table) -> Iterator[str]:
    info = manifest.info
    assert isinstance(info, GenerateInfo)
    said: dict[str, Any] = {
        "rows_out": manifest.rows_out,
        "status": info.status,
        "tokens_in": info.tokens_in,
        "tokens_out": info.tokens_out,
    }
    held = {
        "rows_out": len(rows),
        "status": dict(Counter(rows["status"].to_pylist())),
        "tokens_in": _known_sum(rows["prompt_tokens"]),
        "tokens_out": _known_sum(rows["completion_tokens"]),
    }
    for name, value in held.items():
        if said[name] != value:
            yield f"{name} is {said[name]} in the manifest and {value} in the files"


def _known_sum(tokens: pa.ChunkedArray) -> int:
    return sum(filter(None, tokens.to_pylist()))


def _id_problems(folder: Folder, manifest: Manifest) -> Iterator[str]:
    """Each prompt's hash and id, from its messages and tools."""
    for name in _split_files(manifest):
        columns = ["prompt_id", "prompt_sha256", "messages", "tools"]
        (table,) = read_tables([folder / name], columns, optional=["tools"])
        said = table.to_pydict()
        tools = said.get("tools", [None] * len(table))
        hashes = list(map(prompt_hash, said["messages"], tools))
        ids = list(map(prompt_id_of, hashes))
        if hashes != said["prompt_sha256"] or ids != said["prompt_id"]:
            yield (
                f"{folder / name}: ids that do not belong to their messages; make the stage again"
                " with --only prompts --force"
            )


def _split_files(manifest: Manifest) -> list[str]:
    """The prompts stage's files of prompts to answer; its quarantine is beside them."""
    return [name for name in manifest.files if name.startswith(_SPLITS)]


def _asked(
    ids: np.ndarray, validation: np.ndarray, limit: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Those of a pilot's first `limit` training prompts and of all validation prompts, ascending
    by id."""
    asked = np.ones(len(ids), bool)
    if limit is not None:
        asked = validation | (np.cumsum(~validation) <= limit)
    order = np.argsort(ids[asked])
    return ids[asked][order], validation[asked][order]


def _prompts(run: Folder, manifest_sha256: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Ids (n,) in the order in which they are asked and which are of the validation split (n,), of
    the prompts stage with this manifest."""
    for path in _prompts_manifests(run):
        if file_sha256(path) == manifest_sha256:
            files = [path.parent / name for name in sorted(_split_files(read_manifest(path)))]
            tables = read_tables(files, ["prompt_id", "split"])
            table = pa.concat_tables(tables)
            split = np.asarray(table["split"].to_pylist())
            return table["prompt_id"].to_numpy(), split == "validation"
    return None


def _prompts_manifests(run: Folder) -> Iterator[Folder]:
    for folder in stage_folders(run):
        if "-prompts-" in folder.name:
            yield from manifest_paths(folder)


def _count_keys(
    spec: dict[str, Any],
    ids: np.ndarray,
    validation: np.ndarray,
    rows: pa.Table,
) -> dict[str, int]:
    """How many wanted keys are missing, duplicated or foreign; `spec` is generate's identity.

    Routed prompts belong to one teacher each: the one that answered.
    """
    prompt = rows["prompt_id"].to_numpy()
    sample = rows["sample_index"].to_numpy()
    teacher = np.asarray(rows["teacher"].to_pylist(), object)
    is_routed = spec.get("route", "all") != "all"
    last = len(ids) - 1
    at = np.searchsorted(ids, prompt).clip(max=last)
    is_known = ids[at] == prompt
    teachers_of = np.zeros(len(ids), int)  # how many teachers each prompt belongs to
    missing = duplicated = wanted = 0
    for each in spec["teachers"]:
        samples = (each.get("sampling") or spec["sampling"])["samples"]
        limit = np.where(validation, 1, samples)
        is_sample = (sample >= 0) & (sample < limit[at])
        is_wanted = is_known & (teacher == each["name"]) & is_sample
        answered = at[is_wanted]
        is_there = np.zeros(len(ids) * samples, bool)
        is_there[answered * samples + sample[is_wanted]] = True
        keys = np.count_nonzero(is_there)
        mine = np.ones(len(ids), bool)
        if is_routed:
            mine = np.isin(np.arange(len(ids)), answered)
        teachers_of += mine
        wanted += len(answered)
        missing += limit[mine].sum() - keys
        duplicated += len(answered) - keys
    if is_routed:
        missing += (teachers_of == 0).sum()
        duplicated += (teachers_of - 1).clip(min=0).sum()
    return {
        "missing": int(missing),
        "duplicated": int(duplicated),
        "foreign": int(len(rows) - wanted),
    }
