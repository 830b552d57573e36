"""The Python that READMEs and CONTRIBUTING show runs as it stands there, and does what they say."""

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from documents import ROOT, Block, blocks

from engine import pipeline
from engine.asking.engine import ENGINES
from engine.backends import fake
from engine.backends.math_verifier import settled
from engine.job.spec import VerifySpec
from engine.rows.final_answer import Undecided, Verdict, judge
from engine.rows.metrics import score_of
from engine.rows.records import Completion, Prompt
from engine.rows.tables import read_tables, to_rows
from engine.run.context import Context
from engine.stages import generate
from engine.stages.curate.filters import Drop, Keep

SHOWN = blocks("python")


@pytest.fixture
def beside_jobs(tmp_path, monkeypatch):
    """A current folder that has the repository's jobs."""
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    monkeypatch.chdir(tmp_path)


def run_block(block: Block) -> dict[str, Any]:
    """The names that it defines."""
    names: dict[str, Any] = {"__name__": "shown"}
    exec(compile(block.text, block.id, "exec"), names)
    return names


def block_with(text: str) -> Block:
    (found,) = [block for block in SHOWN if text in block.text]
    return found


@pytest.mark.parametrize(
    "block", [block for block in SHOWN if "runs/quickstart" not in block.text], ids=Block.name
)
def test_python_runs(block, beside_jobs):
    run_block(block)


def test_from_python_a_part_of_a_job_runs(beside_jobs, capsys):
    run_block(block_with("from engine import run"))
    assert capsys.readouterr().out.rstrip().endswith(" 200")  # 100 of each of the two files


def test_a_stored_signal_is_read(fake_job, answer_here, beside_jobs, tmp_path, capsys):
    capture = {
        "teachers": [{"name": "t", "kind": "fake", "model": "fake"}],
        "capture": {"top_k": 3},
    }
    answer_here(fake_job(4, name="quickstart", generate=capture), tmp_path / "runs")
    run_block(block_with("read_signal"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert all(line.endswith("0.875 of the probability is in the top k") for line in lines)


def test_the_kind_of_teacher_it_shows_answers(fake_job, tmp_path, monkeypatch):
    module = ModuleType("echo_teacher")
    vars(module).update(run_block(block_with("class EchoTeacher")))
    monkeypatch.setitem(sys.modules, "echo_teacher", module)
    monkeypatch.setitem(ENGINES, "echo", "echo_teacher:EchoTeacher")
    job = fake_job(4)
    prompts = pipeline.run(job, tmp_path / "runs", until="prompts").stages["prompts"]
    echo = job.generate.teachers[0].model_copy(update={"kind": "echo"})
    (tmp_path / "generate/data").mkdir(parents=True)
    counts = generate.run(
        job.generate.model_copy(update={"teachers": [echo]}),
        {"prompts": prompts},
        tmp_path / "generate",
        Context("job", "math", 0),
        stream=fake.stream,
    )
    rows = []
    for table in read_tables([tmp_path / "generate" / name for name in counts.files]):
        rows += to_rows(table, Completion)
    assert counts.info.status == {"ok": 12}
    assert {row.text for row in rows} >= {"What is 0 plus 1? #### 1", "What is 3 plus 4? #### 7"}
    assert all(row.completion_tokens == 7 == row.prompt_tokens for row in rows)


def test_the_filter_it_shows_drops_copies():
    judge = run_block(block_with("def repeats_itself"))["repeats_itself"]
    prompt = Prompt(1, "", "1", [], "math", "file", "train")
    verdicts = []
    for text in ("one\ntwo\nthree", "one\none\none"):
        answer = Completion(1, "t", 0, "train", 0, "ok", text=text)
        verdicts.append(judge(answer, prompt, max_ratio=0.5))
    assert verdicts == [Keep(), Drop("repeats_itself")]


def test_the_loss_it_shows_is_zero_for_a_teacher_taught_to_itself():
    loss = run_block(block_with("def hellinger"))["hellinger"]
    p = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64).log()
    q = torch.tensor([[1.0, 1e-300, 1e-300]], dtype=torch.float64).log()
    assert loss(p, p, None).sum() == 0
    torch.testing.assert_close(loss(p, q, None).sum().item(), 1 - 0.2**0.5)


def test_the_metric_it_shows_counts(monkeypatch):
    from engine.rows import metrics

    metric = run_block(block_with("CONTAINS = "))["CONTAINS"]
    monkeypatch.setitem(metrics.METRICS, "contains", metric)
    texts, references = ["It is Paris.", "It is Rome."], ["paris", "paris"]
    found = metrics.statistics_of("contains", "qa", texts, references)
    assert np.array_equal(found, [[1.0, 1.0], [0.0, 1.0]])
    assert score_of("contains", found) == 0.5


def test_the_verifier_it_shows_is_a_second_opinion():
    opened = run_block(block_with("def spelling"))["spelling"]
    texts = [r"\boxed{\sin x+1}", r"\boxed{\cos x}"]
    judged = [judge("math", text, [r"\sin{x} + 1"]) for text in texts]
    verdicts = settled(judged, VerifySpec(), opened)
    assert verdicts == [Verdict.UNVERIFIED] * 2
    same = settled([Undecided(((r"\sin x", r"\sin  x"),))], VerifySpec(), opened)
    assert same == [Verdict.RIGHT]


@pytest.mark.parametrize("name", ["mean_words", "label", "split"])
def test_before_and_after_say_the_same(name):
    before, after = block_with(f"def {name}(").text.split("# after")
    arguments = {
        "mean_words": ([{"text": "a b c"}, {"text": "a"}, {"text": ""}], 2),
        "label": ("tokens", None),
        "split": ([{"ok": True}, {"ok": False}],),
    }
    results = []
    for text in (before, after):
        names: dict[str, Any] = {}
        exec(text, names)
        results.append(names[name](*arguments[name]))
    assert results[0] == results[1]
