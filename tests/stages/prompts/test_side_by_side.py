"""Large sources are read by processes: the same files, whatever the workers."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.backends.processes import here
from engine.job.spec import PromptsSpec
from engine.run.context import Context
from engine.stages import prompts
from engine.stages.prompts import side_by_side
from tests.doubles.made_up_texts import sentence

CTX = Context(job="t", task="qa", seed=0)


@pytest.fixture
def small_is_large(monkeypatch):
    monkeypatch.setattr(side_by_side, "LARGE_BYTES", 1)
    monkeypatch.setattr(side_by_side, "PART_BYTES", 2000)


def sources(tmp_path):
    """Every kind of part: lines in ranges, row groups, a file read whole; bad and repeated rows."""
    lines = []
    for number in range(120):
        lines.append(json.dumps({"prompt": f"What is {number % 100} + 1?", "topic": number % 7}))
    lines[13] = "{"
    lines[77] = ""
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    rows = [f"Who was number {number}?" for number in range(90)]
    rows[50:52] = [f"{sentence('a long question')} {end}" for end in ("yes", "no")]
    pq.write_table(pa.table({"prompt": rows}), tmp_path / "b.parquet", row_group_size=20)
    (tmp_path / "c.csv").write_text("prompt\n" + "".join(f"Where is {n}?\n" for n in range(40)))
    return [str(tmp_path / name) for name in ("a.jsonl", "b.parquet", "c.csv")]


def files_of(tmp_path, name, **spec):
    out = tmp_path / name
    out.mkdir()
    counts = prompts.run(PromptsSpec(shard_rows=50, **spec), {}, out, CTX)
    files = {path: (out / path).read_bytes() for path in counts.files}
    assert not (out / "read").exists()
    return counts, files


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="one pass"),
        pytest.param(
            {"near_duplicates": 0.8, "split_by": "near_duplicates", "decontaminate": {}},
            id="compared",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_write_the_bytes_of_one(tmp_path, small_is_large, more):
    spec = {"train": sources(tmp_path), "validation_fraction": 0.2, **more}
    counts, alone = files_of(tmp_path, "one", workers=1, **spec)
    other, together = files_of(tmp_path, "two", workers=2, **spec)
    assert counts.rows_in == 249
    assert counts.dropped["duplicate"] == 19
    assert counts.dropped["broken_json"] == 1
    assert counts.dropped["near_duplicate"] == bool(more)
    assert alone == together
    assert other.dropped == counts.dropped


@pytest.mark.parametrize(
    ("size", "workers", "alone"), [(10, 8, True), (100, 8, False), (100, 1, True)]
)
def test_no_process_is_started_for_little(tmp_path, monkeypatch, size, workers, alone):
    monkeypatch.setattr(side_by_side, "LARGE_BYTES", 50)
    (tmp_path / "a.jsonl").write_bytes(b"x" * size)
    spec = PromptsSpec(train="a.jsonl", workers=workers)
    with side_by_side.spread_for(spec, {"train": [tmp_path / "a.jsonl"]}) as spread:
        assert (spread is here) == alone
