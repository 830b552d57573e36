"""The command itself, killed for good (SIGKILL) in each pass of curate, on eight samples of two
teachers."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter

import pytest
from conftest import REPOSITORY, distill
from doubles.curated import key, verdicts_in

from engine import pipeline
from engine.job.jobfile import dump_job
from engine.rows.records import COMPLETION_KEY
from engine.rows.tables import file_metadata, read_tables
from engine.run.gc import gc
from engine.run.manifests import MANIFEST, finished
from engine.run.verify import verify

LONG = (
    "The shop opens at nine, sells lamps and chairs until noon, closes for an hour, and then goes"
    " on until the last guest has paid, so all in all we count 17"
)
ITEM = (
    "Seven grey herons stood along the frozen canal while the miller's youngest daughter counted"
    " broken sledges behind the chapel and nobody remembered who had rung its only bell"
)
# kind of prompt: its words, which both teachers say in any order where one has no reply of its own
PROMPTS = {
    "sum": "{n} and {m} makes {s}",
    "vote": "{n} or {m}",
    "easy": "it comes to {s}",
    "hard": "{n} {m} 3001 3002 3003 3004 3005 3006 3007 3008 3009 {s}",
    "mail": "93.184.216.34 {n} and {m} makes {s}",
    "long": "and {m} " * 60 + "{s}",
    "twin": "{n} has {m}",
    "refuse": "{n} makes {s}",
    "repeat": "{n} makes {s}",
    "spanish": "{n} makes {s}",
    "leak": "{n} makes {s}",
    "short": "{n} makes {s}",
    "empty": "{n} makes {s}",
}
REPLIES = {
    "twin": LONG,
    "refuse": "I'm sorry, but I can't help with that.",
    "repeat": "one two three four five six seven " * 8,
    "spanish": "La tienda abre a las nueve y vende sillas hasta que se va el último cliente.",
    "leak": ITEM,
    "short": "7",
    "empty": "",
}
CURATE = {
    "min_tokens": 4,
    "verify": {"math": "rules"},
    "languages": ["en"],
    "repetition": 0.5,
    "refusals": "drop",
    "pii": {"action": "redact"},
    "majority": {"min_agreement": 0.5},
    "difficulty": {"keep": [0.1, 0.9]},
    "select": {"per_prompt": 3, "across": "teachers"},
    "near_duplicates": {"of": "answer"},
    "balance": {"by": "length", "most": 25},
}
REASONS = {
    *("empty", "truncated", "too_few_tokens", "language", "repetition", "refusal"),
    *("contaminated", "wrong_answer", "minority_answer", "no_majority", "too_easy", "too_hard"),
    *("duplicate_answer", "lower_score", "near_duplicate", "over_cap"),
}
# in the order in which they appear: of each pass a file that is whole before the death, and the
# one that is not
DEATHS = [
    ("work/judged/00000.parquet", "work/keys/00000.parquet"),
    ("work/pairs/band_06.parquet", "work/pairs/band_07.parquet"),
    ("work/receipts/verified/00000.json", "verdicts/00000.parquet"),
    ("data/train-00000.parquet", "data/train-00001.parquet"),
    ("data/train-00001.parquet", MANIFEST),
]


def write_rows(path, of_each):
    rows = []
    for number in range(100, 100 + of_each):
        for kind, words in PROMPTS.items():
            said = words.format(n=number, m=number + 1, s=2 * number + 1)
            row = {"prompt": f"{kind} {said}"}
            if kind == "twin":
                row["reference"] = "17"
            elif kind != "vote":
                row["reference"] = str(2 * number + 1)
            rows.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def answered(fake_job, answer_here, tmp_path):
    """A job of which both teachers have answered all prompts, some two thousand times; and its
    runs."""
    write_rows(tmp_path / "asked.jsonl", 12)
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": ITEM}) + "\n")
    against = {"against": [str(tmp_path / "test.jsonl")]}
    a = {"name": "a", "kind": "fake", "model": "a", "fake": {"replies": REPLIES}}
    b = {"name": "b", "kind": "fake", "model": "b"}
    job = fake_job(
        prompts={"train": str(tmp_path / "asked.jsonl")},
        generate={
            "teachers": [a, b],
            "sampling": {"temperature": 1.0, "samples": 8, "max_tokens": 400},
            "capture": {"top_k": 2},
            "rows_in_flight": 1024,
        },
        curate=CURATE | {"decontaminate": against},
    )
    answer_here(job, tmp_path / "runs")
    return job, tmp_path / "runs"


def curated_in(runs):
    (folder,) = (runs / "fake").glob("3-curate-*")
    return folder


def killed_before(ending, arguments):
    driver = [sys.executable, str(REPOSITORY / "tests/drivers/killed_command.py"), ending]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [*driver, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_kills_in_each_pass_change_no_byte_and_neither_does_another_run(answered, tmp_path):
    job, runs = answered
    shutil.copytree(runs, tmp_path / "undisturbed")
    pipeline.run(job, tmp_path / "undisturbed", only="curate")
    (tmp_path / "job.yaml").write_text(dump_job(job))
    command = ["run", str(tmp_path / "job.yaml"), "--runs", str(runs), "--only", "curate"]
    for whole, missing in DEATHS:
        killed = killed_before(f"/{missing}", command)
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
        assert (curated_in(runs) / whole).exists()
        assert not (curated_in(runs) / missing).exists()
    said = distill(*command)
    assert said.returncode == 0, said.stderr
    wanted = published_in(curated_in(tmp_path / "undisturbed"))
    assert published_in(curated_in(runs)) == wanted

    before = files_below(runs / "fake")
    again = distill(*command)
    assert "curate    reused" in again.stdout
    assert files_below(runs / "fake") == before

    assert verify(runs / "fake").problems == []
    folder = curated_in(runs)
    gc(runs / "fake")
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {MANIFEST, "progress.json", *wanted[1]}, "what was half written is gone"


def published_in(folder):
    """What the manifest says but for the time, and the bytes of the files that it names."""
    manifest = finished(folder).manifest
    said = manifest.model_dump(exclude={"seconds", "finished_at"})
    return said, {name: (folder / name).read_bytes() for name in manifest.files}


def files_below(run):
    """When each file of each stage was written, and what it holds."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for folder in run.glob("[0-9]-*")
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_funnel_adds_up_at_every_filter_and_verify_sees_each_byte(answered):
    job, runs = answered
    done = pipeline.run(job, runs, only="curate")
    folder = done.folders["curate"]
    manifest = done.manifests["curate"]
    assert manifest.dropped.keys() >= REASONS

    rows = verdicts_in(folder)
    asked = []
    for table in read_tables(done.stages["generate"].files(), COMPLETION_KEY):
        asked += map(key, table.to_pylist())
    assert sorted(map(key, rows)) == sorted(asked)
    train = [row for row in rows if row["split"] == "train"]
    assert len(train) == manifest.rows_in == 12 * len(PROMPTS) * 8 * 2
    assert Counter(row["reason"] for row in train if row["reason"]) == manifest.dropped
    left = len(train)
    for name, kept in manifest.info.funnel[1:]:
        reasons = Counter(row["reason"] for row in train if row["filter"] == name)
        assert reasons == manifest.info.dropped_by.get(name, {}), name
        left -= reasons.total()
        assert kept == left, name
    examples = read_tables(done.stages["curate"].files("train"), COMPLETION_KEY)
    kept = [key(row) for table in examples for row in table.to_pylist()]
    assert left == manifest.rows_out == len(kept) > 0
    assert sorted(kept) == sorted(key(row) for row in train if row["reason"] is None)
    fingerprints = set()
    for path in done.stages["curate"].files("train"):
        fingerprints.add(file_metadata(path)["tokenizer_fingerprint"] is None)
    assert fingerprints == {True, False}, "redacted examples and others"

    assert verify(runs / "fake").problems == []
    for name in ("verdicts/00000.parquet", "data/train-00000.parquet"):
        whole = (folder / name).read_bytes()
        middle = len(whole) // 2
        changed = bytes([whole[middle] ^ 1])
        (folder / name).write_bytes(whole[:middle] + changed + whole[middle + 1 :])
        (problem,) = verify(runs / "fake").problems
        assert problem.startswith(f"{folder / name}: has another sha256")
        (folder / name).write_bytes(whole)
