"""The rates of the plan against published ones: benchmarks/planner, its fast form."""

import json
import math
from dataclasses import replace

import pytest

from benchmarks.planner.fit import NATURE, fitted
from benchmarks.planner.points import read_points, summarised
from benchmarks.planner.run import OTHERS, POINTS, left_out, main
from engine.errors import InputError
from engine.machines.replica import EFFICIENCIES

HEAD = "family,gpu,tensor_parallel,weight_bytes,input_tokens,output_tokens,rows"
RATE = "tokens_per_second_of_replica"


@pytest.fixture(scope="module")
def points():
    return read_points(POINTS)


def test_the_frozen_efficiencies_hold_on_the_published_points(points):
    seen = summarised(point.error() for point in points)
    assert seen.points == 325
    assert 0.95 <= seen.geometric_mean <= 1.05
    assert seen.within_35 >= 0.88


def test_they_hold_on_another_gpu_other_engines_and_pipelines_that_were_not_fitted():
    seen = summarised(point.error() for point in read_points(OTHERS))
    assert seen.points > 100
    assert 0.85 <= seen.geometric_mean <= 1.15
    assert seen.within_35 >= 0.70


def test_each_family_is_foretold_by_efficiencies_that_were_fitted_to_the_others(points):
    errors = left_out(points, every=6)  # the benchmark fits to all
    seen = summarised(error for of_family in errors.values() for error in of_family)
    assert 0.9 <= seen.geometric_mean <= 1.1
    assert seen.within_35 >= 0.85
    assert seen.worst_factor <= 2.5


def test_a_fit_finds_the_efficiencies_that_made_the_points(points):
    truth = replace(EFFICIENCIES, bandwidth=0.75, layer_us=90.0, sequence_us=8.0)
    made = []
    for point in points[::3]:
        made.append(replace(point, published=point.predicted(truth)))
    found = fitted(made)
    assert found.bandwidth == pytest.approx(0.75, rel=0.05)
    assert found.layer_us == pytest.approx(90, rel=0.15)
    assert found.sequence_us == pytest.approx(8, rel=0.3)


def test_no_efficiency_is_above_its_peak():
    shares = ("bandwidth", "arithmetic", "experts", "attention", "fp4", "link")
    assert shares == tuple(name for name in NATURE if not name.endswith("_us"))
    assert all(0 < getattr(EFFICIENCIES, name) <= 1 for name in shares)


def test_points_may_give_accelerator_and_model_by_figures(tmp_path):
    known = tmp_path / "known.csv"
    known.write_text(f"{HEAD},{RATE}\nllama-8b,H100,1,2,1000,1000,3000,9000\n")
    columns = (
        f"{HEAD},mem_gb,bw,bf16,fp8,link,net,params_b,layers,hidden,heads,kv_heads,head_dim,vocab"
    )
    figures = "80,3.35,989,1979,450,50,8.03,32,4096,32,8,128,128256"
    given = tmp_path / "given.csv"
    given.write_text(f"{columns},{RATE}\nmine,X9,1,2,1000,1000,3000,{figures},9000\n")
    (by_name,) = read_points(known)
    (by_figures,) = read_points(given)
    assert by_figures.predicted() == pytest.approx(by_name.predicted())
    assert by_name.error() == pytest.approx(math.log(by_name.predicted() / 9000))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("nobody,H100,1,2,1000,1000,3000,9000", "no model nobody is known"),
        ("llama-8b,X9,1,2,1000,1000,3000,9000", "X9 has no figures"),
        ("llama-8b,H100,1,two,1000,1000,3000,9000", "could not convert"),
    ],
)
def test_a_point_that_cannot_be_tried_is_named_with_its_line(tmp_path, row, said):
    path = tmp_path / "points.csv"
    path.write_text(f"{HEAD},{RATE}\n{row}\n")
    with pytest.raises(InputError, match=f"points.csv:2: .*{said}"):
        read_points(path)


def test_other_points_are_tried_by_option_and_a_miss_is_an_exit_status(tmp_path, monkeypatch):
    path = tmp_path / "points.csv"
    path.write_text(f"{HEAD},{RATE}\nllama-8b,H100,1,2,1000,1000,3000,100\n")
    target = tmp_path / "seen.json"
    words = ["run", "--json", str(target), "--points", str(path)]
    monkeypatch.setattr("sys.argv", words)
    assert main() == 1
    assert json.loads(target.read_text())["ratios"]["tried within 35 %"]["ok"] is False
