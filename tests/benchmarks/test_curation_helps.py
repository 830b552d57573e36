from argparse import ArgumentParser

import pytest

from benchmarks.curation import helps


@pytest.fixture
def options():
    parser = ArgumentParser()
    helps.add_options(parser)
    return parser.parse_args([])


@pytest.mark.parametrize("arm", helps.ARMS)
def test_every_arm_is_a_job_that_differs_in_selection_only(arm, options):
    job = helps.job_of(arm, 1, options)
    plain = helps.job_of(helps.ONE, 1, options)
    assert job.generate.sampling.temperature == helps.TEMPERATURE
    assert job.generate.sampling.samples == (1 if arm == helps.ONE else helps.SAMPLES)
    assert job.train == plain.train
    assert job.prompts == plain.prompts
    assert (job.curate.majority is not None) == (arm == helps.MAJORITY)


def test_a_majority_is_asked_without_a_look_at_references(options):
    assert not helps.job_of(helps.MAJORITY, 1, options).curate.checks_answers
    assert helps.job_of(helps.BEST, 1, options).curate.checks_answers


def cell(right):
    lesson = {"examples": 10, "right_examples": 0.8, "epochs": 2, "trained_tokens": 300}
    return {"student": right, "teacher": [1.0, 1.0], "tokens": 300, **lesson}


def test_an_arm_is_compared_with_one_sample_of_the_same_seed():
    cells = {
        (helps.ONE, 0): cell([0.0, 0.0]),
        (helps.ONE, 1): cell([0.0, 1.0]),
        (helps.BEST, 0): cell([1.0, 1.0]),
        (helps.BEST, 1): cell([1.0, 1.0]),
    }
    best = helps.row_of(helps.BEST, cells, [0, 1])
    assert best["student"] == 1.0
    assert best["seeds"] == [1.0, 1.0]
    low, high = best["minus_one_sample_ci95"]
    assert 0 <= low < 0.75 < high <= 1
    assert helps.row_of(helps.ONE, cells, [0, 1])["minus_one_sample_ci95"] is None
    assert "| best of 8 | 1.000 |" in helps.table([best])
