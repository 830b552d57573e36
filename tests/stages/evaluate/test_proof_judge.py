"""A judge in a whole job on the real components, killed while it is asked (`make proof`)."""

import json
import subprocess
import sys

import pytest
import yaml
from conftest import REPOSITORY, SHORT_QUICKSTART
from doubles import misbehaving_api
from doubles.misbehaving_api import KEY, Faults
from test_proof import command, kill_when, only

from engine.rows.ids import prompt_hash, prompt_id_of
from engine.rows.tables import read_tables
from engine.run.ledger import Commits

pytestmark = pytest.mark.proof


def always_first(path, body):
    spoken = [{"role": "user", "content": '{"verdict": "A"}'}]
    return misbehaving_api.answer(path, body | {"messages": spoken})


def ids_of(calls):
    return [prompt_id_of(prompt_hash(call.body["messages"])) for call in calls]


def test_a_killed_judge_is_asked_nothing_twice_and_its_bias_is_in_the_report(
    tmp_path, monkeypatch, record_property
):
    monkeypatch.setenv("DISTILL_TEST_API_KEY", KEY)
    with misbehaving_api.serve(Faults(busy=0.05, latency_s=0.1), always_first) as api:
        teacher = {
            "kind": "openai",
            "name": "judge",
            "model": "local",
            "base_url": f"{api.url}/v1",
            "api_key_env": "DISTILL_TEST_API_KEY",
            "concurrency": 4,
            "prices": {"input": 1.0, "output": 2.0},
        }
        rubric = str(REPOSITORY / "jobs/rubrics/helpful.txt")
        judge = {"teacher": teacher, "rubric": rubric, "part_seconds": 1.0, "max_cost_usd": 1.0}
        sets = [*SHORT_QUICKSTART, f"evaluate.judge={json.dumps(judge)}", "loadtest.models=[]"]
        arguments = command(tmp_path)
        for setting in sets:
            arguments += ["--set", setting]

        def some_replies() -> bool:
            folder = only("5-evaluate-*", tmp_path)
            return bool(folder) and len(Commits(folder / "judge").counting) >= 2

        kill_when(arguments, some_replies)
        folder = only("5-evaluate-*", tmp_path)
        records = Commits(folder / "judge").counting.values()
        kept = {number for record in records for number in record["prompt_id"]}
        before = len(api.calls)
        subprocess.run(arguments, check=True)
        asked_again = ids_of(api.calls[before:])
    verify = [sys.executable, "-m", "engine.cli", "verify", str(tmp_path / "quickstart")]
    subprocess.run(verify, check=True)
    (table,) = read_tables([folder / "judge/verdicts.parquet"])
    record_property("replies", len(table))
    record_property("replies before the kill", len(kept))
    assert kept
    assert not kept & set(asked_again)
    report = json.loads((tmp_path / "quickstart/report.json").read_text())
    assert report["judge"]["flip_rate"] == report["judge"]["first_share"] == 1
    assert report["judge"]["replies"] == len(table)
    assert report["judge"]["cost_usd"] > 0
    page = (tmp_path / "quickstart/report.md").read_text()
    assert "the judge named the answer that stood first in 100% of" in page
    assert yaml.safe_load((tmp_path / "quickstart/job.yaml").read_text())["evaluate"]["judge"]
