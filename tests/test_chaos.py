"""The checker finds what is planted in hand-made folders, and a small version of benchmarks/chaos
holds on real replicas."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.chaos import checker, faults
from benchmarks.chaos.checker import Death, check

PROMPTS = {11: "a b c", 12: "d e f", 13: "g h i", 14: "j k l"}
CLEAN = checker.Verdict(
    4,
    0,
    0,
    0,
    0,
    calls=4,
    regenerated=0,
    in_flight=0,
    regenerated_committed=0,
    regenerated_old=0,
    unlisted_records=0,
)


def entry(path: Path, rows: int) -> dict:
    return {
        "rows": rows,
        "size_bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


class Folder:
    """A finished run as its formats define it, written by hand: two parts of two rows, one epoch,
    answered by pid 7."""

    def __init__(self, root: Path) -> None:
        self.prompts, self.generate, self.calls = (
            root / "prompts",
            root / "generate",
            root / "calls.txt",
        )
        for folder in (self.prompts / "data", self.generate / "data", self.generate / "commits"):
            folder.mkdir(parents=True)
        table = pa.table(
            {
                "prompt_id": list(PROMPTS),
                "split": ["train", "train", "train", "validation"],
                "messages": [[{"role": "user", "content": text}] for text in PROMPTS.values()],
            }
        )
        pq.write_table(table, self.prompts / "data/train-0.parquet")
        (self.prompts / "manifest.json").write_text(
            json.dumps({"files": {"data/train-0.parquet": {}}})
        )
        self.files: dict[str, dict] = {}
        self.epoch(1, [])
        self.part("a", [11, 12], time_s=100.0)
        self.part("b", [13, 14], time_s=102.0)
        self.publish()
        for number, prompt in enumerate(PROMPTS):
            self.call(prompt, pid=7, start=90 + number, end=95 + number)

    def epoch(self, number: int, accepted: list[str]) -> None:
        (self.generate / f"commits/epoch-{number:05d}-x.json").write_text(
            json.dumps({"accepted": accepted})
        )

    def part(
        self, name: str, prompts: list[int], *, time_s: float, epoch: int = 1, listed: bool = True
    ) -> Path:
        path = self.generate / f"data/part-{name}.parquet"
        pq.write_table(
            pa.table(
                {
                    "prompt_id": prompts,
                    "teacher": ["t"] * len(prompts),
                    "sample_index": [0] * len(prompts),
                    "seed": [5] * len(prompts),
                    "split": ["validation" if prompt == 14 else "train" for prompt in prompts],
                    "status": ["ok"] * len(prompts),
                    "text": [" ".join(PROMPTS[prompt].split()[::-1]) for prompt in prompts],
                }
            ),
            path,
            write_page_checksum=True,
        )
        about = entry(path, len(prompts))
        record = {
            "file": f"data/{path.name}",
            "epoch": epoch,
            "prompt_id": prompts,
            "sample_index": [0] * len(prompts),
        }
        record |= {"status": ["ok"] * len(prompts)} | about
        file = self.generate / f"commits/record-{epoch:05d}-{name}.json"
        file.write_text(json.dumps(record))
        os.utime(file, (time_s, time_s))
        if listed:
            self.files[f"data/{path.name}"] = about
        return path

    def publish(self, name: str = "manifest.json") -> None:
        (self.generate / name).write_text(
            json.dumps({"files": self.files, "info": {"teachers": [{"name": "t"}]}})
        )

    def call(self, prompt: int, *, pid: int, start: float, end: float | None = None) -> None:
        digest, seed = (
            hashlib.sha256(PROMPTS[prompt].encode()).hexdigest(),
            None if prompt == 14 else 5,
        )
        with self.calls.open("a") as file:
            for time, event in ((start, "start"), (end, "end")):
                if time is not None:
                    file.write(f"{time} {pid} {digest} {seed} {event}\n")

    def check(self, *deaths: Death) -> checker.Verdict:
        return check(self.generate, self.prompts, [self.calls], deaths=deaths)


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


def test_a_clean_run_has_nothing_to_report(folder):
    assert folder.check() == CLEAN


def test_a_part_that_the_manifest_does_not_name_is_lost(folder):
    del folder.files["data/part-b.parquet"]
    folder.publish()
    assert folder.check() == replace(CLEAN, lost=2)


def test_the_newest_manifest_counts(folder):
    del folder.files["data/part-b.parquet"]
    folder.publish("manifest-0002.json")
    assert folder.check().lost == 2


def test_rows_in_two_published_files_are_duplicated(folder):
    folder.part("c", [12], time_s=103)
    folder.publish()
    assert folder.check() == replace(CLEAN, duplicated=1)


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[: len(b) // 2], lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:], lambda b: b""],
)
def test_a_published_file_with_other_bytes_is_torn_and_so_is_its_record(folder, damage):
    path = folder.generate / "data/part-b.parquet"
    path.write_bytes(damage(path.read_bytes()))
    assert folder.check().torn == 2
    assert folder.check().lost == 2


def test_a_half_written_record_is_torn(folder):
    path = folder.generate / "commits/record-00001-b.json"
    path.write_text(path.read_text()[:50])
    assert folder.check().torn == 1


def test_a_file_without_a_record_does_not_exist(folder):
    (folder.generate / "data/part-half.parquet").write_bytes(b"PAR1 half")
    assert folder.check() == CLEAN


def test_an_answer_to_another_prompt_is_wrong(folder, monkeypatch):
    monkeypatch.setitem(PROMPTS, 11, "x y z")
    folder.part("a", [11, 12], time_s=100)
    folder.publish()
    monkeypatch.undo()
    assert folder.check() == replace(CLEAN, wrong=1)


def test_rows_in_flight_at_a_death_may_be_asked_again_and_committed_ones_may_not(folder):
    folder.call(13, pid=8, start=101.5, end=101.8)  # pid 7 died at 101 with 13 and 14 in flight
    folder.call(11, pid=8, start=101.6, end=101.9)  # 11 had been committed at 100
    seen = folder.check(Death(7, 101))
    assert seen == replace(CLEAN, calls=6, regenerated=2, in_flight=2, regenerated_committed=1)


def test_a_row_that_ended_long_before_a_kill_is_not_asked_again(folder):
    folder.call(12, pid=8, start=200)
    assert folder.check(Death(7, 160)).regenerated_old == 1  # it had ended at 96
    assert folder.check(Death(7, 150)).regenerated_old == 0
    assert (
        folder.check(Death(9, 160)).regenerated_old == 0
    )  # the kill of another process cost it nothing


def test_a_late_record_of_an_older_epoch_is_counted_apart(folder):
    folder.epoch(2, ["record-00001-a.json", "record-00001-b.json"])
    folder.part("late", [11], time_s=120, listed=False)
    assert folder.check() == replace(CLEAN, unlisted_records=1)


def test_a_call_cut_short_by_a_kill_is_left_out_and_any_other_bad_line_is_an_error(folder):
    with folder.calls.open("a") as file:
        file.write("104.5 7 abc")
    assert folder.check() == CLEAN
    with folder.calls.open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match="unpack"):
        folder.check()


BEFORE_AND_AFTER = ("before_part", "after_record")  # between these two lie the others


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "name"),
    [
        pytest.param(seed, name, marks=[pytest.mark.proof] * (name in BEFORE_AND_AFTER))
        for seed, name in enumerate(faults.CRASH_POINTS)
    ],
)
def test_a_replica_that_dies_in_its_writer_loses_and_doubles_nothing(
    ray_cluster, tmp_path, name, seed
):
    holds(faults.crash_point(tmp_path / "run", name=name, seed=seed, rows=400))


@pytest.mark.slow
def test_killed_replicas_cost_what_they_had_in_flight(ray_cluster, tmp_path):
    holds(
        faults.replica_kills(
            tmp_path / "run", seed=0, rows=600, kills=2, latency_s=0.5, gap_s=(3.0, 5.0)
        )
    )


@pytest.mark.proof
def test_killed_drivers_cost_what_was_in_flight(ray_cluster, tmp_path):
    """One killed driver is in tests/test_pipeline.py."""
    import ray

    address = ray.get_runtime_context().gcs_address
    holds(
        faults.driver_kills(
            tmp_path / "run", seed=0, rows=1200, kills=1, latency_s=0.2, address=address
        )
    )


def holds(outcome: faults.Outcome) -> None:
    """No row lost, doubled, torn or wrong; nothing paid for twice but what was in flight; a second
    run asks nothing."""
    seen = outcome.verdict
    assert (seen.lost, seen.duplicated, seen.torn, seen.wrong, outcome.second_run_calls) == (
        0,
    ) * 5, outcome
    assert (seen.regenerated_committed, seen.regenerated_old) == (0, 0), outcome
    assert seen.in_flight > 0, outcome
    assert seen.regenerated <= 1.1 * seen.in_flight, outcome
