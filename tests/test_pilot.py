"""`generate.limit` makes a pilot: the whole run takes over its rows, and none is asked twice."""

import pytest

from engine import pipeline
from engine.check.measured_run import measured_run
from engine.errors import StageError
from engine.machines.work import Seen, work_of
from engine.run.manifests import finished, manifest_paths
from engine.run.verify import verify


@pytest.fixture
def asked(fake_job, answer_here, tmp_path):
    """Answer with a limit; returns generate's folder and how many requests the teacher has seen."""
    calls = tmp_path / "calls"

    def answer(limit=None, *, supersede=False, **generate):
        teacher = {"name": "t", "kind": "fake", "model": "fake", "fake": {"calls": str(calls)}}
        job = fake_job(40, generate={"teachers": [teacher], "limit": limit} | generate)
        folder = answer_here(job, tmp_path / "runs", supersede=supersede)
        return job, folder, calls.read_text().count(" start")

    return answer


def test_a_pilot_asks_the_first_training_prompts_and_all_of_validation(asked):
    _, folder, count = asked(10)
    info = finished(folder).manifest.info
    assert (count, info.completions, info.limit) == (18, 18, 10)


def test_the_whole_run_goes_on_in_the_same_folder_and_asks_for_no_row_twice(asked, tmp_path):
    pilot, folder, before = asked(10)
    kept = {path: path.read_bytes() for path in (folder / "data").iterdir()}
    job, whole, after = asked(None, supersede=True)
    assert whole == folder
    assert (before, after) == (18, 48)
    manifest = finished(folder).manifest
    assert (manifest.rows_out, manifest.info.limit) == (48, None)
    assert len(manifest_paths(folder)) == 2
    assert {path: path.read_bytes() for path in kept} == kept
    assert verify(tmp_path / "runs/fake").problems == []
    states = {plan.stage: plan.state for plan in pipeline.plan(job, tmp_path / "runs")}
    assert states["generate"] == "reuse"
    again = {plan.stage: plan.state for plan in pipeline.plan(pilot, tmp_path / "runs")}
    assert again["generate"] == "reuse", "a smaller limit asks for nothing that is not there"


@pytest.mark.parametrize(("limit", "state"), [(10, "reuse"), (20, "resume"), (None, "resume")])
def test_a_pilot_is_finished_for_its_own_limit_only(asked, fake_job, tmp_path, limit, state):
    pilot, _, _ = asked(10)
    generate = pilot.generate.model_copy(update={"limit": limit})
    job = pilot.model_copy(update={"generate": generate})
    states = {plan.stage: plan.state for plan in pipeline.plan(job, tmp_path / "runs")}
    assert states["generate"] == state


def test_a_limit_above_all_prompts_makes_no_pilot(asked):
    _, folder, count = asked(40)
    assert (count, finished(folder).manifest.info.limit) == (48, None)


def test_samples_of_a_pilot_are_of_whole_prompts(asked, tmp_path):
    _, _, count = asked(5, sampling={"samples": 3, "temperature": 0.7})
    assert count == 5 * 3 + 8
    assert verify(tmp_path / "runs/fake").problems == []


def test_a_lower_limit_than_what_is_answered_keeps_it_and_says_so(asked):
    _, folder, _ = asked(20)
    for path in manifest_paths(folder):
        path.unlink()  # as where a run was killed before its end
    with pytest.raises(StageError, match=r"has 28 answers already, and limit=10 wants 18"):
        asked(10)


def test_a_pilot_is_planned_as_such(asked):
    pilot, _, _ = asked(10)
    assert work_of(pilot, Seen(rows=40)).rows == 10


def test_a_fake_teacher_tells_no_speed(asked):
    _, folder, _ = asked(10)
    measured, seen = measured_run(folder.parent)
    assert measured.answered == ()
    assert seen.answer_tokens


@pytest.mark.proof
def test_the_same_command_without_the_limit_supersedes_the_pilot(fake_job, tmp_path, ray_cluster):
    pilot = pipeline.run(fake_job(generate={"limit": 10}), tmp_path / "runs", until="curate")
    whole = pipeline.run(fake_job(), tmp_path / "runs", until="curate")
    folder = whole.folders["generate"]
    assert folder == pilot.folders["generate"]
    assert whole.reused == ("prompts",)
    assert [path.name for path in manifest_paths(folder)] == ["manifest.json", "manifest-0002.json"]
    info = whole.manifests["generate"].info
    assert (info.completions, info.answered_this_run) == (48, 30)
    assert whole.folders["curate"] != pilot.folders["curate"]
