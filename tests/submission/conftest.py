"""The platforms' own tools as scripts, and requests to hand over."""

import pytest
from conftest import REPOSITORY
from doubles.tools import Tools

from engine.job.jobfile import load_job
from engine.submission import follow as following
from engine.submission import sky
from engine.submission.request import build_request


@pytest.fixture
def tools(tmp_path, monkeypatch):
    made = Tools(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(following, "FOLLOW_S", 0.01)
    monkeypatch.setattr(sky, "FOLLOW_S", 0.01)
    return made


@pytest.fixture
def request_for(tmp_path):
    """A request for a job of jobs/, whose runs are in the test's folder."""

    def build(job: str, *sets: str, **options):
        path = REPOSITORY / "jobs" / f"{job}.yaml"
        spec = load_job(path, sets)
        return build_request(path, spec, sets=sets, runs=str(tmp_path / "runs"), options=options)

    return build
