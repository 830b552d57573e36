"""A job in small on this machine's CPU, and ten mistakes that must not wait for the real run."""

import re

import pytest
from conftest import REPOSITORY, distill, write_prompts
from doubles.rehearsed import LORA

from engine import rehearsal
from engine.check.job import check_job
from engine.errors import SpecError
from engine.job.jobfile import load_job, read_job
from engine.run.progress import Progress

GPT = REPOSITORY / "jobs/gpt-4-to-phi-3.5-mini.yaml"
PRICES = "generate.teachers.0.prices"
# What a user writes, and what `check` must say of it.
MISTAKES = {
    "metric": ("evaluate.metrics=[rouge9]", "did you mean rouge"),
    "metric of another task": (
        "evaluate.metrics=[rougeL]",
        "choose from exact_match for task math",
    ),
    "template": ('prompts.template="Q: {queston}"', "columns found: 'prompt', 'reference'"),
    "reference column": ("prompts.fields.reference=anser", "correct the name of the column"),
    "lora target": ("train.lora.targets=[q_porj]", "did you mean q_proj?"),
    "engine argument": (
        "generate.teachers.0.engine_args={block_sise: 16}",
        "did you mean block_size",
    ),
    "serve length": ("serve.max_model_len=262144", "choose at most 131072"),
    "serve length under the answers": ("serve.max_model_len=96", "asks for answers of 128 tokens"),
    "price": (f"{PRICES}={{input: 30.0, outptu: 60.0}}", "did you mean output?"),
    "tracker": ("train.trackers=[tensorbord]", "did you mean tensorboard?"),
    "DeepSpeed key": ("train.deepspeed={zero_optimization: {overlap_com: true}}", "overlap_comm?"),
    "load-test level": ("loadtest.rates=[0]", "must be greater than 0"),
    "tokenizer": ("train.student=microsoft/Phi-4-mini-instruct", "another tokenizer than"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_check_finds_the_mistake(mistake, tmp_path):
    setting, said = MISTAKES[mistake]
    base = GPT if mistake == "price" else LORA
    rows = write_prompts(tmp_path / "rows.jsonl", 8)
    sets = [f"prompts.train={rows}", "prompts.validation=null"]
    check_job(load_job(base, sets), running=())
    with pytest.raises(SpecError, match=re.escape(said)):
        check_job(load_job(base, [*sets, setting]), running=())


class Said(Progress):
    """Keeps what is said."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def test_a_rehearsal_has_a_folder_of_its_own_and_takes_it_away(fake_job, tmp_path):
    job = fake_job()
    done = rehearsal.rehearse(job, tmp_path / "runs", until="prompts")
    assert [stage.name for stage in done.stages] == ["models", "prompts"]
    assert done.stages[1].rows_out == 24
    assert done.folder == tmp_path / "runs/.rehearsals/fake"
    assert not done.folder.exists()
    assert not (tmp_path / "runs/fake").exists()
    assert "train.block_tokens: 256 -> 32" not in done.changes, "its student is small already"


def test_it_is_kept_where_that_is_asked(fake_job, tmp_path):
    done = rehearsal.rehearse(fake_job(), tmp_path / "runs", until="prompts", keep=True)
    assert (done.folder / "run/fake/job.yaml").exists()
    again = rehearsal.rehearse(fake_job(), tmp_path / "runs", until="prompts")
    assert not again.folder.exists()


def test_rows_that_are_made_up_are_said_to_be(fake_job, tmp_path):
    prompts = {"train": str(tmp_path / "gone.jsonl"), "validation": None}
    shown = Said()
    done = rehearsal.rehearse(
        fake_job(prompts=prompts), tmp_path / "runs", until="prompts", progress=shown
    )
    (doubt,) = done.doubts
    assert "ROWS ARE MADE UP" in doubt
    assert doubt in shown.lines
    assert done.stages[1].rows_out == 24


def test_a_mistake_is_named_with_its_line_before_anything_is_made(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(LORA.read_text().replace("{rank: 32,", "{targets: [q_porj], rank: 32,"))
    lines = path.read_text().splitlines()
    (line,) = [number for number, text in enumerate(lines, 1) if "q_porj" in text]
    with pytest.raises(SpecError, match=rf"job\.yaml:{line}: train\.lora\.targets: .*q_proj"):
        rehearsal.rehearse(load_job(path), tmp_path / "runs", document=read_job(path))
    assert not list((tmp_path / "runs/.rehearsals").glob("*/models"))


def test_a_layout_that_the_file_cannot_hold_is_refused(tmp_path):
    job = load_job(LORA)
    with pytest.raises(SpecError, match="the nearest that fits: set accelerator_type: H200"):
        rehearsal.rehearse(job, tmp_path, cluster=REPOSITORY / "clusters/slurm.sh")


def test_a_key_that_is_missing_is_said_and_not_wanted(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    rows = write_prompts(tmp_path / "rows.jsonl", 30)
    job = load_job(GPT, [f"prompts.train={rows}", "prompts.validation=null"])
    done = rehearsal.rehearse(job, tmp_path / "runs", until="prompts")
    assert done.doubts == [
        "generate.teachers.0.api_key_env: OPENAI_API_KEY is not set here; the run will want it"
    ]


def test_the_command_says_what_is_wrong_and_where(job_file, tmp_path):
    path = job_file(train={"deepspeed": {"zero_optimisation": {}}})
    done = distill("rehearse", path, "--runs", tmp_path / "runs")
    assert done.returncode == 2
    assert re.search(r"job\.yaml:\d+: train\.deepspeed\.zero_optimisation", done.stderr)


@pytest.mark.slow
def test_a_job_goes_through_from_end_to_end(ray_cluster, tmp_path, record_property):
    """The cheapest of jobs/: its teacher is an API. The others: test_proof_rehearse.py."""
    rows = write_prompts(tmp_path / "rows.jsonl", 30)
    sets = [f"prompts.train={rows}", "prompts.validation=null", "task=math"]
    job = load_job(GPT, [*sets, "evaluate.baseline=false", "train.workers=1"])
    done = rehearsal.rehearse(job, tmp_path / "runs")
    record_property("seconds", {stage.name: stage.seconds for stage in done.stages})
    names = ["models", "prompts", "generate", "curate", "train", "evaluate", "loadtest", "report"]
    assert [stage.name for stage in done.stages] == names
    assert not (tmp_path / "runs/.rehearsals/gpt-4-to-phi-3.5-mini").exists()
