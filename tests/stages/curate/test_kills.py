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
from conftest import REPOSITORY
from doubles.curated import key, verdicts_in

from engine import pipeline
from engine.job.jobfile import dump_job
from engine.rows.records import COMPLETION_KEY
from engine.rows.tables import file_metadata, read_tables
from engine.run.gc import gc
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
OF_EACH = 6  # kinds of prompts
# In the order in which they appear: of each pass a file that is whole before the death, and the
# one that is not
DEATHS = [
    ("work/judged/00000.parquet", "work/keys/00000.parquet"),
    ("work/pairs/band_06.parquet", "work/pairs/band_07.parquet"),
    ("work/receipts/verified/00000.json", "verdicts/00000.parquet"),
    ("data/train-00000.parquet", "data/train-00001.parquet"),
]


def write_rows(path):
    rows = []
    for number in range(100, 100 + OF_EACH):
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
    """A job of which both teachers have answered all prompts, some thousand times; and its
    runs."""
    write_rows(tmp_path / "asked.jsonl")
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


def lived(tmp_path, job, runs):
    """The lives of the command, as killed_command.py tells them."""
    (tmp_path / "job.yaml").write_text(dump_job(job))
    plan = {
        "typed": ["run", str(tmp_path / "job.yaml"), "--runs", str(runs), "--only", "curate"],
        "run": str(runs / "fake"),
        "lives": [*(f"/{missing}" for _, missing in DEATHS), None, None],
        "told": str(tmp_path / "told.json"),
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    driver = [sys.executable, str(REPOSITORY / "tests/drivers/killed_command.py")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([*driver, str(tmp_path / "plan.json")], env=environment, check=True)
    return json.loads((tmp_path / "told.json").read_text())


def test_kills_in_each_pass_lose_no_row_and_change_no_byte(answered, tmp_path):
    job, runs = answered
    shutil.copytree(runs, tmp_path / "undisturbed")
    whole = pipeline.run(job, tmp_path / "undisturbed", only="curate").stages["curate"]
    *killed, last, again = lived(tmp_path, job, runs)
    for (there, missing), life in zip(DEATHS, killed, strict=True):
        assert life["status"] == -signal.SIGKILL
        assert f"{whole.folder.name}/{there}" in life["files"]
        assert f"{whole.folder.name}/{missing}" not in life["files"]
    assert last["status"] == again["status"] == 0
    assert again["files"] == last["files"]

    done = pipeline.run(job, runs, only="curate")
    assert done.reused == ("curate",)
    curated = done.stages["curate"]
    unlike = {"seconds", "finished_at"}
    assert curated.manifest.model_dump(exclude=unlike) == whole.manifest.model_dump(exclude=unlike)
    assert verify(runs / "fake").problems == []
    gc(runs / "fake")
    left = {str(path.relative_to(curated.folder)) for path in curated.folder.glob("*/*")}
    assert left == curated.manifest.files.keys(), "what was half written is gone"
    adds_up(curated, done.stages["generate"])
    tells_a_changed_byte(runs / "fake", curated.folder)


def adds_up(curated, generated):
    """One verdict of each answer, and at every filter rows in = rows out + each reason's."""
    manifest = curated.manifest
    assert manifest.dropped.keys() >= REASONS
    rows = verdicts_in(curated.folder)
    assert sorted(map(key, rows)) == keys_in(generated.files())
    train = [row for row in rows if row["split"] == "train"]
    assert len(train) == manifest.rows_in == OF_EACH * len(PROMPTS) * 8 * 2
    assert Counter(row["reason"] for row in train if row["reason"]) == manifest.dropped
    left = len(train)
    for name, kept in manifest.info.funnel[1:]:
        reasons = Counter(row["reason"] for row in train if row["filter"] == name)
        assert reasons == manifest.info.dropped_by.get(name, {}), name
        left -= reasons.total()
        assert kept == left, name
    assert left == manifest.rows_out > 0
    kept = [key(row) for row in train if row["reason"] is None]
    assert sorted(kept) == keys_in(curated.files("train"))
    tokenizers = {file_metadata(path)["tokenizer_fingerprint"] for path in curated.files("train")}
    assert len(tokenizers - {None}) == len(tokenizers) - 1 > 0, "redacted examples name none"


def keys_in(files):
    found = []
    for table in read_tables(files, COMPLETION_KEY):
        found += map(key, table.to_pylist())
    return sorted(found)


def tells_a_changed_byte(run, folder):
    for name in ("verdicts/00000.parquet", "data/train-00000.parquet"):
        whole = (folder / name).read_bytes()
        middle = len(whole) // 2
        changed = bytes([whole[middle] ^ 1])
        (folder / name).write_bytes(whole[:middle] + changed + whole[middle + 1 :])
        (problem,) = verify(run).problems
        assert problem.startswith(f"{folder / name}: has another sha256")
        (folder / name).write_bytes(whole)
