"""What `distill verify` finds and what `distill gc` removes, on runs whose damage the tests
know."""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
import uuid

import pytest
from conftest import statuses

from engine import pipeline
from engine.errors import SpecError, StageError
from engine.job.jobfile import dump_job
from engine.rows.records import Completion, completion_schema
from engine.rows.tables import parquet_bytes, read_tables, to_table, write_parquet
from engine.run import parts
from engine.run.gc import gc
from engine.run.identity import identity_hash
from engine.run.lock import run_lock
from engine.run.manifests import Counts, load_manifest, publish
from engine.run.verify import verify


def commit(folder, epoch, prompt_id):
    """One row as a part and its record, by hand: the format that verify holds the engine to."""
    unique = f"{epoch:05d}-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
    row = Completion(
        prompt_id, "t", 0, "train", 0, "ok", text="yes", prompt_tokens=2, completion_tokens=3
    )
    data = parquet_bytes(to_table([row], completion_schema())).to_pybytes()
    (folder / f"data/part-{unique}.parquet").write_bytes(data)
    (folder / f"commits/record-{unique}.json").write_text(
        json.dumps(
            {
                "file": f"data/part-{unique}.parquet",
                "epoch": epoch,
                "teacher": "t",
                "size_bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "prompt_id": [prompt_id],
                "sample_index": [0],
                "status": ["ok"],
                "tokens_in": [2],
                "tokens_out": [3],
            }
        )
    )


def records_of(folder):
    return {
        path: json.loads(path.read_text()) for path in sorted((folder / "commits").glob("record-*"))
    }


@pytest.fixture
def finished(fake_job, answer_here, tmp_path):
    """generate's folder of a finished run: 40 training prompts twice, 8 validation prompts once, in
    parts of `part_rows`."""

    def build(part_rows=8, **generate):
        job = fake_job(
            generate={
                "part_rows": part_rows,
                "sampling": {"temperature": 0.0, "samples": 2},
                **generate,
            }
        )
        return answer_here(job, tmp_path / "runs")

    return build


def test_a_finished_run_is_in_order(finished):
    report = verify(finished().parent)
    assert report.problems == []
    assert report.unnamed == []
    assert re.search(
        r"2-generate-\w+: 88 rows in \d+ files, \d+ commit records: ok", "\n".join(report.lines)
    )


def test_a_flipped_byte_is_found_in_each_of_100_part_files(finished):
    folder, draw = finished(), random.Random(7)
    published = sorted((folder / "data").glob("part-*"))
    unfinished = folder.with_name("2-generate-00000000")  # as after a kill: records, no manifest
    epoch = parts.open_epoch(unfinished)
    for number in range(100 - len(published)):
        commit(unfinished, epoch, number)
    files = [*published, *sorted((unfinished / "data").glob("part-*"))]
    assert verify(folder.parent).problems == []
    for number, path in enumerate(files):
        content = bytearray(path.read_bytes())
        content[number * (len(content) - 1) // (len(files) - 1)] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
    problems = verify(folder.parent).problems
    assert len(problems) == 100
    for path in files:
        assert any(
            problem.startswith(f"{path}: has another sha256; delete its record commits/record-")
            for problem in problems
        )


def test_a_damaged_record_is_found_wherever_its_byte_is(finished):
    folder, draw = finished(part_rows=44), random.Random(3)
    path, record = next(iter(records_of(folder).items()))
    good = path.read_bytes()
    for _ in range(100):
        bad = bytearray(good)
        bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(7)
        path.write_bytes(bad)
        try:
            same = json.loads(bad) == record
        except ValueError:
            same = False
        assert same or any(
            path.stem.removeprefix("record-") in problem
            for problem in verify(folder.parent).problems
        ), bad
    path.write_bytes(good)
    assert verify(folder.parent).problems == []


def test_the_remedy_for_a_damaged_part_makes_only_its_rows_again(finished, fake_job, tmp_path):
    calls = tmp_path / "calls"
    folder = finished(
        teachers=[{"name": "t", "kind": "fake", "model": "fake", "fake": {"calls": str(calls)}}]
    )
    victim, record = next((path, record) for path, record in records_of(folder).items())
    part = folder / record["file"]
    part.write_bytes(part.read_bytes()[:-1])
    (problem,) = verify(folder.parent).problems
    assert problem.startswith(
        f"{part}: has {record['size_bytes'] - 1} bytes instead of {record['size_bytes']}"
    )
    assert (
        f"delete its record commits/{victim.name} and manifest*.json of its stage and run the job"
        " again" in problem
    )
    victim.unlink()
    (folder / "manifest.json").unlink()
    before = calls.read_text().count(" start")
    finished(
        teachers=[{"name": "t", "kind": "fake", "model": "fake", "fake": {"calls": str(calls)}}]
    )
    assert calls.read_text().count(" start") - before == len(record["prompt_id"])
    report = verify(folder.parent)
    assert (report.problems, report.unnamed) == ([], [part])


def republish(folder, files, **info):
    """A manifest that is right about its files and wrong about what it answers."""
    manifest = load_manifest(folder)
    (folder / "manifest.json").unlink()
    rows = sum(files.values())
    publish(
        folder,
        "generate",
        manifest.identity,
        Counts(rows, rows, files, info=manifest.info.model_copy(update=info)),
        0.0,
    )


def test_missing_duplicated_and_foreign_rows_are_counted(finished):
    folder = finished()
    name = min(load_manifest(folder).files)
    files = {name: entry.rows for name, entry in load_manifest(folder).files.items()}
    (table,) = read_tables([folder / name])
    foreign = table.slice(2, 1).set_column(0, table.schema.field(0), [[17]])
    for number, rows in enumerate(
        (table.slice(1), table.slice(1, 1), foreign)
    ):  # without its first; its second again; an id of nobody
        write_parquet(rows, folder / f"data/kept-{number}.parquet")
        files[f"data/kept-{number}.parquet"] = len(rows)
    del files[name]
    republish(folder, files)
    problems = "\n".join(verify(folder.parent).problems)
    assert (
        f"{folder}: rows missing 1, duplicated 1, foreign 1; delete {folder}/manifest*.json and run"
        " the job again" in problems
    )
    assert "rows_out" not in problems
    assert "status is {'ok': 88} in the manifest and {'ok': 89} in the files" in problems


def test_sums_of_the_manifest_are_those_of_the_rows(finished):
    folder = finished()
    republish(
        folder,
        {name: entry.rows for name, entry in load_manifest(folder).files.items()},
        tokens_out=1,
    )
    (problem,) = verify(folder.parent).problems
    assert re.search(r"tokens_out is 1 in the manifest and \d+ in the files", problem)


def test_routed_prompts_belong_to_one_teacher_each(finished):
    teachers = [{"name": name, "kind": "fake", "model": "fake"} for name in "ab"]
    folder = finished(teachers=teachers)
    manifest = load_manifest(folder)
    assert (verify(folder.parent).problems, manifest.rows_out) == ([], 176)
    identity = manifest.identity
    identity["blocks"]["generate"]["route"] = "split"
    routed = folder.with_name(f"2-generate-{identity_hash(identity)}")
    folder.rename(routed)
    (routed / "manifest.json").write_text(
        manifest.model_copy(update={"identity": identity}).model_dump_json()
    )
    assert any(
        "missing 0, duplicated 48, foreign 0" in problem
        for problem in verify(routed.parent).problems
    )


def test_a_missing_file_of_any_stage_is_named(finished, tmp_path):
    folder = finished()
    (prompts,) = folder.parent.glob("1-prompts-*")
    (prompts / "data/train-00000.parquet").unlink()
    assert any(
        "train-00000.parquet: is missing; restore it, or make the stage again with --only prompts"
        " --force" in problem
        for problem in verify(folder.parent).problems
    )


def test_a_run_folder_of_another_job_is_refused(finished, fake_job, tmp_path):
    run = finished().parent
    (tmp_path / "runs/other").mkdir()
    (tmp_path / "runs/other/job.yaml").write_text(dump_job(fake_job()))
    message = (
        "other is the run folder of job 'fake' .*, not of 'other'; rename it, or use another --runs"
    )
    with pytest.raises(SpecError, match=message):
        verify(tmp_path / "runs/other")
    with pytest.raises(SpecError, match=message):
        gc(tmp_path / "runs/other")
    with pytest.raises(SpecError, match=message):
        pipeline.run(fake_job(name="other"), tmp_path / "runs", until="prompts")
    assert verify(run).problems == []


def litter(folder):
    """What kills leave behind in a stage's folder."""
    left = [
        folder / "data/part-00001-00000000000000000001-aaaaaaaa.parquet",
        folder / "data/kept-x.parquet",
        folder / "commits/.record-x.json.abcd_123",
        folder.parent / ".job.yaml.abcd_123",
    ]
    for path in left:
        path.write_bytes(b"12345")
    return left


def test_gc_removes_what_nothing_names_and_nothing_else(finished, tmp_path):
    folder = finished()
    epoch = parts.open_epoch(folder)
    commit(
        folder, 1, 5
    )  # a late writer of an older epoch: it does not count, yet a record names it
    receipts = set((folder / "receipts").iterdir())
    assert receipts
    batch = folder / "batches/1.json"  # of before the manifest: all its rows are in parts
    batch.parent.mkdir()
    batch.touch()
    os.utime(batch, (0, 0))
    (folder / "batches/2.json").touch()  # of a run that tries failed rows again
    left = {*litter(folder), *(folder / "attempts").iterdir(), *receipts, batch}
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.parquet").write_bytes(b"1")
    (folder / "data/link.parquet").symlink_to(outside / "precious.parquet")
    folder.with_name("3-curate-00000000").symlink_to(outside)
    before = {path for path in folder.parent.rglob("*") if path.is_file()}
    assert {path for path, _ in gc(folder.parent, dry_run=True)} == left
    assert {path for path in folder.parent.rglob("*") if path.is_file()} == before
    removed = gc(folder.parent)
    assert {path for path, _ in removed} == left
    assert before - {path for path in folder.parent.rglob("*") if path.is_file()} == left
    assert sum(size for _, size in removed) == 20
    assert (outside / "precious.parquet").read_bytes() == b"1"
    assert verify(folder.parent).problems == []
    commit(
        folder, epoch, 6
    )  # a writer that lived on while gc ran: its file may be gone, so it must not count
    assert ("t", 6, 0) not in statuses(folder)


def test_gc_refuses_while_a_driver_runs(finished):
    folder = finished()
    left = litter(folder)
    with run_lock(folder.parent), pytest.raises(StageError, match="another process"):
        gc(folder.parent)
    assert all(path.exists() for path in left)


def test_gc_leaves_an_unfinished_stage_its_attempts(finished):
    folder = finished()
    (folder / "manifest.json").unlink()
    parts.begin_attempt(folder, 1, "t-000-0000000", [(1, 0)])
    attempts = list((folder / "attempts").iterdir())
    assert attempts
    gc(folder.parent)
    assert all(path.exists() for path in attempts)


def test_reading_a_part_leaves_nothing_that_aborts_the_process_as_it_ends(finished):
    part = next(finished().glob("data/*.parquet"))
    command = [
        sys.executable,
        "-c",
        "import pathlib; from engine.run.verify import _content;"
        f" _content(pathlib.Path({str(part)!r}))",
    ]
    for _ in range(5):  # with Python's bytes in Arrow's threads two of three such processes aborted
        assert subprocess.run(command, capture_output=True, text=True).stderr == ""


def test_a_record_that_the_epoch_lists_and_nobody_finds_is_named_and_its_part_stays(finished):
    folder = finished(part_rows=11)
    epoch = parts.open_epoch(folder)
    victim, record = next(iter(records_of(folder).items()))
    victim.unlink()
    (problem,) = [problem for problem in verify(folder.parent).problems if "is missing" in problem]
    assert problem.startswith(
        f"{victim}: is missing, but epoch {epoch} lists it; restore it, or delete manifest*.json of"
        " its stage"
    )
    gc(folder.parent)
    assert (folder / record["file"]).exists()


def test_a_record_of_another_epoch_than_its_name_says_is_named(finished):
    folder = finished()
    path, record = next(iter(records_of(folder).items()))
    path.write_text(json.dumps(record | {"epoch": 77}))
    assert any(
        problem.startswith(f"{path}: damaged (it names epoch 77)")
        for problem in verify(folder.parent).problems
    )


def test_ids_that_do_not_belong_to_their_messages_are_named(finished):
    folder = next(path for path in finished().parent.iterdir() if "-prompts-" in path.name)
    manifest = load_manifest(folder)
    name = next(name for name in manifest.files if name.startswith("data/train"))
    (table,) = read_tables([folder / name])
    ids = table["prompt_id"].to_pylist()
    write_parquet(
        table.set_column(
            table.column_names.index("prompt_id"), "prompt_id", [[ids[1], ids[0], *ids[2:]]]
        ),
        folder / name,
    )
    (folder / "manifest.json").unlink()
    files = {name: entry.rows for name, entry in manifest.files.items()}
    publish(
        folder,
        "prompts",
        manifest.identity,
        Counts(len(ids), len(ids), files, info=manifest.info),
        0.0,
    )
    assert any(
        problem.startswith(f"{folder / name}: ids that do not belong")
        for problem in verify(folder.parent).problems
    )
