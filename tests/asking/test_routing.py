"""Who answers what, as numbers of rows of hand-made prompt files."""

import json

import numpy as np
import pytest

from engine.asking.routing import count_prompts, wanted_rows
from engine.errors import InputError
from engine.job.spec import GenerateSpec
from engine.rows.records import PROMPT, Prompt
from engine.rows.tables import to_table, write_parquet


def ask(number, *, split="train", task="math", source="a", **meta):
    messages = [{"role": "user", "content": f"q{number}"}]
    return Prompt(
        number,
        f"{number:064x}",
        f"a:{number}",
        messages,
        task,
        source,
        split,
        None,
        meta=json.dumps(meta),
    )


@pytest.fixture
def files(tmp_path):
    """Write prompts as files of `rows` rows each."""

    def write(prompts, rows=1000):
        found = []
        for start in range(0, len(prompts), rows):
            found.append(tmp_path / f"train-{start:05d}.parquet")
            write_parquet(to_table(prompts[start : start + rows], PROMPT), found[-1])
        return found

    return write


def generate(*teachers, **fields):
    return GenerateSpec(
        teachers=[{"kind": "fake", "model": "m"} | teacher for teacher in teachers], **fields
    )


def own_routes(route):
    """Of the first teacher, where the route reads them."""
    return {"routes": ["math"]} if route["route"] == "by" else {}


def keys(wanted):
    """teacher -> its (prompt_id, sample) of all files, in order."""
    return {
        name: [
            key
            for rows in of_files
            for key in zip(rows.prompt_id.tolist(), rows.sample_index.tolist(), strict=True)
        ]
        for name, of_files in wanted.items()
    }


def owners(wanted):
    """prompt_id -> its one teacher."""
    return {prompt: name for name, found in keys(wanted).items() for prompt, _ in found}


def test_all_teachers_answer_every_prompt_and_rows_point_into_their_file(files):
    wanted = wanted_rows(
        generate({"name": "a"}, {"name": "b"}), files([ask(n) for n in (7, 5, 9)], rows=2), 0
    )
    assert keys(wanted) == {"a": [(7, 0), (5, 0), (9, 0)], "b": [(7, 0), (5, 0), (9, 0)]}
    assert [rows.row.tolist() for rows in wanted["b"]] == [[0, 1], [0]]


def test_training_prompts_are_sampled_and_validation_prompts_answered_once(files):
    prompts = [ask(1), ask(2, split="validation"), ask(3)]
    wanted = wanted_rows(generate({"name": "a"}, sampling={"samples": 3}), files(prompts), 0)
    assert keys(wanted)["a"] == [(1, 0), (1, 1), (1, 2), (2, 0), (3, 0), (3, 1), (3, 2)]
    assert wanted["a"][0].row.tolist() == [0, 0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize(
    "route", [{"route": "all"}, {"route": "split"}, {"route": "by", "route_by": "task"}]
)
def test_a_prompt_counts_once_however_many_teachers_and_samples_it_has(files, route):
    first = {"name": "a"} | own_routes(route)
    spec = generate(first, {"name": "b", "sampling": {"samples": 3}}, **route)
    prompts = [ask(n, task=("math", "qa")[n % 2]) for n in range(9)]
    assert count_prompts(wanted_rows(spec, files(prompts, rows=4), 0)) == 9
    assert count_prompts(wanted_rows(spec, [], 0)) == 0


@pytest.mark.parametrize("route", [{"route": "all"}, {"route": "by", "route_by": "task"}])
def test_each_teacher_samples_as_often_as_its_own_sampling_says(files, route):
    teachers = {"name": "a"} | own_routes(route), {"name": "b", "sampling": {"samples": 2}}
    tasks = ("math", "qa")
    wanted = keys(
        wanted_rows(
            generate(*teachers, sampling={"samples": 4}, **route),
            files([ask(n, task=tasks[n]) for n in (0, 1)]),
            0,
        )
    )
    mine = {"a": {0, 1}, "b": {0, 1}} if route["route"] == "all" else {"a": {0}, "b": {1}}
    for name, samples in (("a", 4), ("b", 2)):
        assert wanted[name] == [
            (prompt, sample) for prompt in sorted(mine[name]) for sample in range(samples)
        ]


def test_a_split_gives_each_prompt_to_one_teacher_near_the_weights(files):
    teachers = (
        {"name": "a", "weight": 5.0},
        {"name": "b", "weight": 3.0},
        {"name": "c", "weight": 2.0},
    )
    wanted = keys(
        wanted_rows(generate(*teachers, route="split"), files([ask(n) for n in range(4000)]), 0)
    )
    shares = np.array([len(wanted[name]) for name in "abc"])
    assert shares.sum() == len({prompt for found in wanted.values() for prompt, _ in found}) == 4000
    expected = np.array([2000, 1200, 800])
    assert (abs(shares - expected) < 4 * np.sqrt(expected * (1 - expected / 4000))).all()


def test_a_split_depends_on_seed_and_prompt_alone(files):
    spec, prompts = (
        generate({"name": "a"}, {"name": "b"}, route="split"),
        [ask(n) for n in range(200)],
    )
    first = owners(wanted_rows(spec, files(prompts), 0))
    assert first == owners(wanted_rows(spec, files(prompts[::-1], rows=33), 0))
    assert {prompt: first[prompt] for prompt in range(50)} == owners(
        wanted_rows(spec, files(prompts[:50]), 0)
    )
    other = owners(wanted_rows(spec, files(prompts), 1))
    assert 60 < sum(other[prompt] != first[prompt] for prompt in first) < 140


def test_validation_prompts_are_split_too_and_answered_once_by_their_teacher(files):
    prompts = [ask(n, split="validation") for n in range(100)]
    wanted = keys(
        wanted_rows(
            generate({"name": "a"}, {"name": "b"}, route="split", sampling={"samples": 3}),
            files(prompts),
            0,
        )
    )
    assert sorted(wanted["a"] + wanted["b"]) == [(n, 0) for n in range(100)]
    assert 20 < len(wanted["a"]) < 80


@pytest.mark.parametrize(
    ("field", "prompts"),
    [
        ("task", [ask(0, task="math"), ask(1, task="qa"), ask(2, task="nli")]),
        ("source", [ask(0, source="math"), ask(1, source="qa"), ask(2, source="nli")]),
        ("language", [ask(0, language="math"), ask(1, language="qa"), ask(2, other=1)]),
    ],
)
def test_a_field_decides_and_the_teacher_without_routes_takes_the_rest(files, field, prompts):
    teachers = (
        {"name": "rest"},
        {"name": "a", "routes": ["math"]},
        {"name": "b", "routes": ["qa", "unseen"]},
    )
    found = owners(wanted_rows(generate(*teachers, route="by", route_by=field), files(prompts), 0))
    assert found == {0: "a", 1: "b", 2: "rest"}


def test_a_number_in_the_source_rows_is_matched_as_text(files):
    found = wanted_rows(
        generate({"name": "a", "routes": ["3"]}, {"name": "b"}, route="by", route_by="level"),
        files([ask(0, level=3), ask(1, level=4)]),
        0,
    )
    assert owners(found) == {0: "a", 1: "b"}


def test_values_that_no_teacher_takes_are_named(files):
    spec = generate(
        {"name": "a", "routes": ["en"]},
        {"name": "b", "routes": ["de"]},
        route="by",
        route_by="language",
    )
    with pytest.raises(
        InputError,
        match=r"route_by=language: no teacher takes \['cs', 'fr'\] \(train-00000.parquet\)",
    ):
        wanted_rows(
            spec, files([ask(0, language="en"), ask(1, language="fr"), ask(2, language="cs")]), 0
        )
    assert owners(wanted_rows(spec, files([ask(0, language="en"), ask(1, language="de")]), 0)) == {
        0: "a",
        1: "b",
    }
