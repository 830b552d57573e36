"""What the README shows works as it stands there."""

import re
import sys
from pathlib import Path
from types import ModuleType

from engine import pipeline
from engine.asking.engine import ENGINES
from engine.backends import fake
from engine.job.jobfile import load_job
from engine.job.spec import TrainSpec
from engine.job.yamlfile import read_document
from engine.rows.records import Completion
from engine.rows.tables import read_tables, to_rows
from engine.run.context import Context
from engine.stages import generate

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_job_it_shows_is_valid(tmp_path):
    text, training = blocks("yaml")
    (tmp_path / "job.yaml").write_text(text)
    job = load_job(tmp_path / "job.yaml")
    assert [(teacher.kind, teacher.devices) for teacher in job.generate.teachers] == [
        ("vllm", 16),
        ("openai", 1),
    ]
    (tmp_path / "train.yaml").write_text(training)
    spec = TrainSpec(**read_document(tmp_path / "train.yaml").data["train"])
    assert (spec.loss, spec.worker_range, spec.learning_rate) == ("reverse_kl", (2, 8), 1e-4)


def test_the_kind_of_teacher_it_shows_answers(fake_job, tmp_path, monkeypatch):
    (source,) = blocks("python")
    module = ModuleType("echo_teacher")
    exec(source, vars(module))
    monkeypatch.setitem(sys.modules, "echo_teacher", module)
    monkeypatch.setitem(ENGINES, "echo", "echo_teacher:EchoTeacher")
    job = fake_job(4)
    prompts = pipeline.run(job, tmp_path / "runs", until="prompts").folders["prompts"]
    echo = job.generate.teachers[0].model_copy(update={"kind": "echo"})
    (tmp_path / "generate/data").mkdir(parents=True)
    counts = generate.run(
        job.generate.model_copy(update={"teachers": [echo]}),
        {"prompts": prompts},
        tmp_path / "generate",
        Context("job", "math", 0),
        stream=fake.stream,
    )
    rows = [
        row
        for table in read_tables([tmp_path / "generate" / name for name in counts.files])
        for row in to_rows(table, Completion)
    ]
    assert counts.info["status"] == {"ok": 12}
    assert {row.text for row in rows} >= {"What is 0 plus 1? #### 1", "What is 3 plus 4? #### 7"}
    assert all(row.completion_tokens == 7 == row.prompt_tokens for row in rows)


def test_what_it_links_to_exists():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_its_tree_names_files_that_exist():
    tree = README.partition("## The tree")[2].partition("## ")[0]
    names = re.findall(r"[\w/]+\.py", tree)
    assert len(names) > 20
    assert [
        name
        for name in names
        if not any((ROOT / folder / name).exists() for folder in ("", "engine", "engine/backends"))
    ] == []
