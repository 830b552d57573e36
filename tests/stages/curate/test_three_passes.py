"""Curate in three passes: the same whatever is killed, whoever works, however files lie."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import psutil
import pytest
from conftest import REPOSITORY
from doubles.curated import CTX, ask, files_of, finish, many, reply, run, verdicts_in

from engine.backends.processes import Processes, here
from engine.backends.ray_tasks import spread_over_cluster
from engine.errors import StageError
from engine.job.spec import CurateSpec
from engine.run.manifests import finished, publish
from engine.run.verify_curate import curate_problems
from engine.stages import curate

SMALL = {"group_rows": 40, "bucket_bytes": 3000}


def eight_samples_of_two_teachers():
    """Prompts of which some are of validation, their answers, and parts of 25 of one teacher."""
    prompts, answers = many(prompts=24, samples=8)
    parts = []
    for teacher in ("a", "b"):
        theirs = [replace(answer, teacher=teacher) for answer in answers]
        random.Random(teacher).shuffle(theirs)
        parts += [theirs[start : start + 25] for start in range(0, len(theirs), 25)]
    return prompts, parts


class Killed(Exception):
    """In place of a driver's death."""


def dies_after(orders, work, asked):
    """Does so many orders, of all passes together."""
    for order in asked:
        if not orders:
            raise Killed
        orders.pop()
        yield work(order)


def curate_in(out, inputs, spread=here, **spec):
    (out / "data").mkdir(parents=True, exist_ok=True)
    counts = curate.run(CurateSpec(max_tokens=30, **spec), inputs, out, CTX, spread=spread, **SMALL)
    publish(out, "curate", {}, counts, 0.0)
    return counts


def everything_in(out):
    folders = ("data", "verdicts")
    return {path.name: path.read_bytes() for name in folders for path in (out / name).iterdir()}


def test_a_kill_in_any_pass_costs_what_was_open_and_changes_no_byte(tmp_path):
    inputs = finish(tmp_path, *eight_samples_of_two_teachers())
    whole = curate_in(tmp_path / "whole", inputs)
    wanted = everything_in(tmp_path / "whole")
    out = tmp_path / "killed"
    done = 0
    lives = 0
    while not (out / "manifest.json").exists():
        lives += 1
        orders = [None] * 3
        try:
            counts = curate_in(out, inputs, partial(dies_after, orders))
        except Killed:
            receipts = list((out / "work/receipts").glob("*/*.json"))
            assert len(receipts) == done + 3, "three orders more, and none twice"
            done = len(receipts)
    assert lives > 8
    assert (counts.dropped, counts.info) == (whole.dropped, whole.info)
    assert everything_in(out) == wanted
    assert not (out / "work").exists()


def test_a_driver_that_is_killed_leaves_no_process_and_the_next_one_finishes(tmp_path):
    inputs = finish(tmp_path, *eight_samples_of_two_teachers())
    spec = CurateSpec(max_tokens=30, near_duplicates={"of": "answer"})
    out = tmp_path / "killed"
    stages = [inputs["prompts"].folder, inputs["generate"].folder, out]
    driver = [sys.executable, str(REPOSITORY / "tests/drivers/killed_workers.py")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    deaths = 0
    while not (out / "manifest.json").exists():
        typed = [*driver, *map(str, stages), spec.model_dump_json(), "20"]
        done = subprocess.run(typed, env=environment)
        workers = [int(pid) for pid in out.with_suffix(".pids").read_text().split()]
        if done.returncode:
            assert done.returncode == -signal.SIGKILL
            deaths += 1
        _, left = psutil.wait_procs(processes_of(workers), timeout=30)
        assert not left
    assert deaths >= 2
    curate_in(tmp_path / "whole", inputs, near_duplicates={"of": "answer"})
    assert everything_in(out) == everything_in(tmp_path / "whole")
    assert not (out / "work").exists()


def processes_of(pids):
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found


@pytest.mark.parametrize(
    "torn", ["judged/00001.parquet", "spill/000002.arrow", "receipts/*/*.json"]
)
def test_a_torn_file_is_made_again(tmp_path, torn):
    inputs = finish(tmp_path, *eight_samples_of_two_teachers())
    curate_in(tmp_path / "whole", inputs)
    out = tmp_path / "torn"
    orders = [None] * 25
    with pytest.raises(Killed):
        curate_in(out, inputs, partial(dies_after, orders))
    files = list((out / "work").glob(torn))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    curate_in(out, inputs)
    assert everything_in(out) == everything_in(tmp_path / "whole")


def in_another_order(seed, work, orders):
    """As workers do who take different times."""
    orders = list(orders)
    shuffled = random.Random(seed).sample(range(len(orders)), len(orders))
    results = {place: work(orders[place]) for place in shuffled}
    return iter([results[place] for place in range(len(orders))])


def test_workers_and_shuffled_files_give_the_same_examples(tmp_path):
    prompts, parts = eight_samples_of_two_teachers()
    counts, *_, out = run(tmp_path / "here", prompts, parts, **SMALL)
    wanted = (files_of(out), counts.dropped, counts.info)
    for seed in (1, 2):
        random.Random(seed).shuffle(parts)
        spread = partial(in_another_order, seed)
        counts, *_, out = run(tmp_path / str(seed), prompts, parts, spread=spread, **SMALL)
        assert (files_of(out), counts.dropped, counts.info) == wanted


EVERYTHING = {
    "majority": {"min_agreement": 0.3},
    "difficulty": {"keep": [0.0, 1.0]},
    "select": {"per_prompt": 2, "across": "teachers"},
    "near_duplicates": {"of": "answer", "jaccard": 0.8},
    "pii": {"action": "redact"},
    "decontaminate": {},
    "languages": ["en"],
    "repetition": 0.5,
    "refusals": "drop",
    "balance": {"by": "length", "most": 20},
}


LONG = (
    "The shop opens at nine, sells lamps and chairs until noon, closes for an hour, and then goes"
    " on until the last guest has paid, so all in all we count"
)
SAID = {
    3: "I'm sorry, but I can't help with that.",
    4: "one two three four five six seven " * 8,
    5: "La tienda abre a las nueve de la mañana y vende sillas hasta que se va el último cliente.",
    6: f"Write to ann@example.com. {LONG}",
}


def in_many_words(answer):
    """An answer that says the same as others of other prompts, or what some filter is for."""
    return replace(answer, text=f"{SAID.get(answer.sample_index, LONG)} {answer.text}")


@pytest.mark.slow
def test_one_two_and_four_workers_here_and_on_a_cluster_give_the_same_files(tmp_path, ray_cluster):
    prompts, parts = eight_samples_of_two_teachers()
    parts = [list(map(in_many_words, part)) for part in parts]
    spec = CurateSpec(**EVERYTHING).model_dump()
    wanted = None
    with Processes(2) as two, Processes(4) as four:
        for number, spread in enumerate([here, two, four, partial(spread_over_cluster, None)]):
            random.Random(number).shuffle(parts)
            counts, *_, out = run(
                tmp_path / str(number), prompts, parts, spread=spread, **SMALL, **spec
            )
            made = (files_of(out), counts.dropped, counts.info)
            wanted = wanted or made
            assert made == wanted
    assert {"near_duplicate", "refusal", "repetition", "language"} <= wanted[1].keys()


def test_the_funnel_adds_up_in_answers_and_in_prompts(tmp_path):
    prompts, parts = eight_samples_of_two_teachers()
    counts, examples, _out = run(tmp_path, prompts, parts, **SMALL)
    info = counts.info
    left = counts.rows_in
    for name, rows in info.funnel[1:]:
        left -= sum(info.dropped_by.get(name, {}).values())
        assert rows == left, name
    asked = {prompt.prompt_id for prompt in prompts if prompt.split == "train"}
    kept = {row["prompt_id"] for row in examples["train"]}
    assert info.prompts == len(asked)
    assert sum(info.prompts_with_no_answer_left.values()) == len(asked - kept)
    assert set(info.prompts_with_no_answer_left) <= {name for name, _ in info.funnel}


def test_each_completion_has_one_verdict_and_kept_ones_are_the_examples(tmp_path):
    prompts, parts = eight_samples_of_two_teachers()
    _counts, examples, out = run(tmp_path, prompts, parts, **SMALL)
    rows = verdicts_in(out)
    keys = {(row["prompt_id"], row["teacher"], row["sample_index"]) for row in rows}
    assert len(rows) == len(keys) == sum(map(len, parts))
    kept = [row for row in rows if row["reason"] is None]
    assert len(kept) == sum(map(len, examples.values()))
    wrong = [row for row in rows if row["reason"] == "wrong_answer"]
    assert {(row["filter"], row["correct"], row["checked_by"]) for row in wrong} == {
        ("reference", False, "rule")
    }
    assert list(curate_problems(out, finished(out).manifest)) == []


def test_verify_names_what_does_not_add_up(tmp_path):
    *_, out = run(tmp_path, *eight_samples_of_two_teachers(), **SMALL)
    manifest = finished(out).manifest
    dropped = manifest.dropped | {"wrong_answer": manifest.dropped["wrong_answer"] + 1}
    (problem,) = curate_problems(out, manifest.model_copy(update={"dropped": dropped}))
    assert "dropped is" in problem
    assert "--only curate --force" in problem
    files = {name: entry for name, entry in manifest.files.items() if "train-00000" not in name}
    problems = list(curate_problems(out, manifest.model_copy(update={"files": files})))
    assert len(problems) == 1
    assert "kept verdicts have no example" in problems[0]


def test_a_filter_that_fails_on_one_answer_gives_that_answer_its_reason(tmp_path):
    broken = replace(reply(2), tool_calls="no JSON")
    answers = [reply(number) for number in range(20) if number != 2]
    counts, _, out = run(tmp_path, [ask(number) for number in range(20)], [[*answers, broken]])
    assert counts.dropped == {"filter_failed": 1}
    assert counts.rows_out == 19
    (warning,) = counts.info.warnings
    assert warning.startswith(
        "filter tool_calls failed on 1 answers, which were dropped as filter_failed: first on"
        " prompt 2, teacher 't', sample 0 (JSONDecodeError:"
    )
    (row,) = [row for row in verdicts_in(out) if row["reason"]]
    assert row["error"].startswith("JSONDecodeError: Expecting value")


def test_few_prompts_with_an_answer_left_are_a_loud_warning(tmp_path):
    prompts = [ask(number) for number in range(20)]
    answers = [reply(1, sample=sample, tokens=sample + 1) for sample in range(9)]
    answers = [replace(answer, text=f"{answer.sample_index}: 2") for answer in answers]
    answers += [reply(number, text="no") for number in range(20) if number != 1]
    counts, *_ = run(tmp_path, prompts, [answers])
    (warning,) = counts.info.warnings
    assert warning.startswith(
        "only 1 of 20 prompts keep an answer (the last one went to reference 19)"
    )


def test_a_process_that_dies_is_said_and_nothing_finished_is_lost(tmp_path):
    with (
        Processes(2) as spread,
        pytest.raises(StageError, match="died with status -9; is memory full"),
    ):
        list(spread(_die, range(4)))


def _die(order):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_process_raises_is_raised_here_and_the_next_call_has_others():
    with Processes(2) as spread:
        with pytest.raises(StageError, match="no 3"):
            list(spread(_no_three, range(9)))
        assert list(spread(str, range(9))) == list(map(str, range(9)))


def test_one_call_after_the_other_and_one_within_the_other_have_the_same_processes():
    with Processes(2) as spread:
        first = set(spread(_pid, range(20)))
        outer = [(pid, list(spread(str, range(3)))) for pid in spread(_pid, range(5))]
        assert {pid for pid, _ in outer} <= first
        assert [inner for _, inner in outer] == [["0", "1", "2"]] * 5
    assert len(first) == 2
    for pid in first:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def _pid(order):
    time.sleep(0.05)
    return os.getpid()


def _no_three(order):
    if order == 3:
        raise StageError("no 3")
    return order
