"""An error's stage, field and line."""

import pytest

from engine.job.jobfile import read_job
from engine.rehearsal.places import placed

JOB = """\
name: x
generate:
  teachers:
    - name: t
      model: m
      engine_args: {block_size: 7}
train:
  student: s
  lora:
    targets: [q_porj]
serve: {port: 1}
"""


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return read_job(path)


def test_a_field_that_is_named_has_its_line(document):
    said = "train: train.lora.targets=['q_porj'] (no such layer); the student has q_proj"
    assert placed(said, document, "train") == f"{document.file}:10: {said}"
    said = "generate.teachers.0.model: there is no folder m"
    assert placed(said, document) == f"{document.file}:5: {said}"


def test_a_field_that_is_not_written_has_the_line_of_its_block(document):
    said = "train.block_tokens=2048, but the model has 512 positions"
    assert placed(said, document, "train").startswith(f"{document.file}:7: train.block_tokens")


def test_a_librarys_words_are_held_against_the_fields_of_the_stage(document):
    said = "ValueError: block_size must be a multiple of 16, given 7"
    told = placed(said, document, "generate")
    assert told == f"{document.file}:6: generate.teachers.0.engine_args.block_size: {said}"


def test_what_names_nothing_has_the_block_of_the_stage(document):
    assert placed("it went wrong", document, "train") == f"{document.file}:7: train: it went wrong"
    assert "serve" not in placed("/data/train.jsonl: gone", document, "generate")


def test_lines_are_placed_each_by_itself(document):
    told = placed("serve.port: taken\nthe disk is full", document).splitlines()
    assert told == [f"{document.file}:11: serve.port: taken", "the disk is full"]


def test_what_came_by_an_option_says_so(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    document = read_job(path, ["train.lora.targets=[k_porj]"])
    told = placed("train.lora.targets: no k_porj", document)
    assert told.startswith("--set train.lora.targets=[k_porj]: ")


def test_without_a_file_the_words_stay_as_they_are():
    assert placed("train.epochs is wrong", None, "train") == "train.epochs is wrong"
