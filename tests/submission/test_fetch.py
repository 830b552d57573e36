from conftest import REPOSITORY

from engine.job.jobfile import load_job
from engine.submission.fetch import hub_models


def test_models_of_the_hub_are_fetched_whoever_they_are_for():
    judge = "evaluate.judge={rubric: a.txt, teacher: {name: j, model: o/judge, revision: main}}"
    sets = [judge, "train.tokenizer=o/tokenizer", "train.student=o/student"]
    job = load_job(REPOSITORY / "jobs/quickstart.yaml", sets)
    assert hub_models(job) == [("o/judge", "main"), ("o/student", None), ("o/tokenizer", None)]
