import asyncio

import pytest
from conftest import statuses

from engine.errors import StageError
from engine.rows.records import Completion, completion_schema
from engine.rows.tables import read_tables, to_table
from engine.run import parts
from engine.run.part_writer import PartWriter


def table_of(teacher):
    def finish(items):
        rows = [
            Completion(
                i, teacher, s, "train", 0, status, text=status, prompt_tokens=2, completion_tokens=3
            )
            for i, s, status in items
        ]
        return to_table(rows, completion_schema(), {"top_k": 0})

    return finish


def commit(folder, epoch, rows, teacher="t"):
    """Commit (prompt_id, sample, status) rows as one part."""

    async def work():
        writer = PartWriter(
            folder,
            epoch,
            teacher,
            table_of(teacher),
            max_rows=1000,
            max_seconds=60,
        )
        for row in rows:
            await writer.add(row)
        await writer.commit()

    asyncio.run(work())


def rows_of(folder, settled):
    rows = [
        row
        for table in read_tables([folder / name for name in settled.files])
        for row in table.to_pylist()
    ]
    return [(row["prompt_id"], row["sample_index"], row["status"]) for row in rows]


def test_a_file_without_a_record_does_not_exist(tmp_path):
    epoch = parts.open_epoch(tmp_path)
    commit(tmp_path, epoch, [(1, 0, "ok"), (2, 0, "ok")])
    commit(tmp_path, epoch, [(3, 0, "ok")])
    last = sorted((tmp_path / "commits").glob("record-*"))[-1]
    last.unlink()
    assert set(statuses(tmp_path)) == {("t", 1, 0), ("t", 2, 0)}
    assert parts.final_files(tmp_path).total("rows") == 2


def test_a_late_writer_of_an_older_epoch_is_ignored_for_ever(tmp_path):
    old = parts.open_epoch(tmp_path)
    commit(tmp_path, old, [(1, 0, "ok")])
    new = parts.open_epoch(tmp_path)
    commit(tmp_path, old, [(2, 0, "ok")])
    commit(tmp_path, new, [(3, 0, "ok")])
    assert set(statuses(tmp_path)) == {("t", 1, 0), ("t", 3, 0)}
    parts.open_epoch(tmp_path)
    assert set(statuses(tmp_path)) == {("t", 1, 0), ("t", 3, 0)}


def test_what_a_manifest_may_name_is_not_written_again(tmp_path):
    epoch = parts.open_epoch(tmp_path)
    commit(tmp_path, epoch, [(1, 0, "ok"), (2, 0, "ok")])
    commit(tmp_path, epoch, [(2, 0, "ok"), (3, 0, "ok")])
    (kept,) = [name for name in parts.final_files(tmp_path).files if "kept-" in name]
    before = (tmp_path / kept).stat()
    assert kept in parts.final_files(tmp_path).files
    after = (tmp_path / kept).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_driver_stops_when_another_claimed_its_epoch(tmp_path):
    epoch = parts.open_epoch(tmp_path)
    with pytest.raises(StageError, match=f"two drivers opened epoch {epoch}"):
        parts.claim_epoch(tmp_path / "commits", epoch, [])


def test_a_row_answered_twice_counts_once_and_the_part_is_rewritten(tmp_path):
    epoch = parts.open_epoch(tmp_path)
    commit(tmp_path, epoch, [(1, 0, "ok"), (2, 0, "ok")])
    commit(tmp_path, epoch, [(2, 0, "ok"), (3, 0, "truncated")])
    settled = parts.final_files(tmp_path)
    assert sorted(rows_of(tmp_path, settled)) == [(1, 0, "ok"), (2, 0, "ok"), (3, 0, "truncated")]
    assert settled.status == {"ok": 2, "truncated": 1}
    assert (settled.total("tokens_in"), settled.total("tokens_out")) == (6, 9)


def test_an_answer_supersedes_an_error_and_an_error_never_an_answer(tmp_path):
    epoch = parts.open_epoch(tmp_path)
    commit(tmp_path, epoch, [(1, 0, "error"), (2, 0, "ok")])
    commit(tmp_path, epoch, [(1, 0, "ok"), (2, 0, "error")])
    settled = parts.final_files(tmp_path)
    assert sorted(rows_of(tmp_path, settled)) == [(1, 0, "ok"), (2, 0, "ok")]
    assert settled.failed == 0


def test_an_unreadable_record_is_named(tmp_path):
    epoch = parts.open_epoch(tmp_path)
    commit(tmp_path, epoch, [(1, 0, "ok")])
    record = next((tmp_path / "commits").glob("record-*"))
    record.write_text(record.read_text()[:20])
    with pytest.raises(StageError, match=record.name):
        statuses(tmp_path)


def test_a_commit_that_fails_keeps_its_rows_for_the_next_one(tmp_path):
    epoch = parts.open_epoch(tmp_path)
    (tmp_path / "data").rmdir()

    async def work():
        writer = PartWriter(
            tmp_path,
            epoch,
            "t",
            table_of("t"),
            max_rows=1000,
            max_seconds=60,
        )
        await writer.add((1, 0, "ok"))
        with pytest.raises(OSError):  # noqa: PT011
            await writer.commit()
        (tmp_path / "data").mkdir()
        await writer.add((2, 0, "ok"))
        await writer.commit()

    asyncio.run(work())
    assert set(statuses(tmp_path)) == {("t", 1, 0), ("t", 2, 0)}


def test_a_replica_that_dies_before_it_asks_anything_does_not_make_committed_rows_missing(tmp_path):
    epoch = parts.open_epoch(tmp_path)
    assert parts.resume_shard(tmp_path, epoch, "s", "t", [1, 2]) == (set(), {})
    parts.begin_attempt(tmp_path, epoch, "s", [(1, 0), (2, 0)])
    commit(tmp_path, epoch, [(1, 0, "ok")])
    for _ in range(2):  # also with no attempt since the last death
        assert parts.resume_shard(tmp_path, epoch, "s", "t", [1, 2]) == (
            {(1, 0)},
            {(1, 0): 1, (2, 0): 1},
        )
    assert parts.resume_shard(tmp_path, parts.open_epoch(tmp_path), "s", "t", [1, 2]) == (
        set(),
        {},
    ), "a new driver blames no row"


def test_a_shard_that_ray_has_made_again_after_its_receipt_asks_for_nothing(tmp_path):
    epoch = parts.open_epoch(tmp_path)
    parts.begin_attempt(tmp_path, epoch, "s", [(1, 0), (2, 0)])
    commit(tmp_path, epoch, [(1, 0, "ok"), (2, 0, "ok")])
    parts.end_attempts(tmp_path, epoch, "s")
    assert parts.resume_shard(tmp_path, epoch, "s", "t", [1, 2]) == ({(1, 0), (2, 0)}, {})
    assert parts.resume_shard(tmp_path, epoch, "other", "t", [1, 2]) == (set(), {}), (
        "the records are read where there is a reason"
    )
