"""Which prompts are for validation, and which leave because of what others say."""

import json
import random
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from engine.curation.contamination import Index
from engine.errors import InputError
from engine.job.spec import PromptsSpec
from engine.rows.records import PROMPT, Prompt
from engine.rows.tables import read_tables, to_rows, to_table
from engine.run.context import Context
from engine.run.manifests import finished, publish
from engine.stages import prompts
from engine.stages.prompts import heads
from engine.stages.prompts.staged import compared_texts
from tests.doubles.made_up_texts import dialogue, edited, sentence

CTX = Context(job="t", task="conversation", seed=3)


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def asked(number):
    return {"prompt": sentence(number), "n": number}


def run(tmp_path, rows, **spec):
    """The published stage: its counts, prompts by split, and the rows of twins.parquet."""
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    settings = {"train": jsonl(tmp_path / "a.jsonl", rows), "validation_fraction": 0.0, **spec}
    counts = prompts.run(PromptsSpec(**settings), {}, out, CTX)
    publish(out, "prompts", {}, counts, 0.0)
    assert counts.rows_in == counts.rows_out + sum(counts.dropped.values())
    found = {}
    for split in ("train", "validation"):
        found[split] = []
        for table in read_tables(finished(out).files(split)):
            found[split] += to_rows(table, Prompt)
    twins = []
    if "twins.parquet" in counts.files:
        twins = pq.read_table(out / "twins.parquet").to_pylist()
    return counts, found, twins


def numbers(found):
    return [json.loads(prompt.meta)["n"] for prompt in found]


def documents():
    """200 prompts of 40 documents."""
    return [{**asked(number), "document": f"d{number % 40}"} for number in range(200)]


def test_groups_of_a_column_lie_on_one_side_whatever_the_order_of_rows(tmp_path):
    rows = documents()
    _, found, _ = run(tmp_path, rows, split_by="document", validation_fraction=0.1)
    sides = {}
    for split, kept in found.items():
        for number in numbers(kept):
            sides.setdefault(number % 40, set()).add(split)
    assert all(len(side) == 1 for side in sides.values())
    assert len(found["validation"]) == 20
    random.Random(1).shuffle(rows)
    _, shuffled, _ = run(tmp_path, rows, split_by="document", validation_fraction=0.1)
    assert set(numbers(shuffled["validation"])) == set(numbers(found["validation"]))


def test_evaluate_counts_what_was_split_as_one_as_one(tmp_path):
    counts, _, _ = run(tmp_path, documents(), split_by="document", validation_fraction=0.1)
    assert counts.info.cluster_by == "document"
    counts, _, _ = run(tmp_path, documents(), split_by="near_duplicates")
    assert counts.info.cluster_by is None


@pytest.mark.parametrize(("lacking", "fails"), [(99, False), (100, True)])
def test_a_column_that_half_the_rows_lack_is_no_column_to_split_by(tmp_path, lacking, fails):
    rows = documents()
    for number in range(lacking):
        rows[number]["document"] = None if number % 2 else ""
    said = f"split_by=document: {lacking} of 200 prompts have no 'document'; "
    spec = {"split_by": "document", "validation_fraction": 0.1}
    if fails:
        with pytest.raises(InputError, match=f"{said}name a column of the source files"):
            run(tmp_path, rows, **spec)
    else:
        counts, _, _ = run(tmp_path, rows, **spec)
        assert f"{said}each of them is a group of its own" in counts.info.warnings[0]


def test_a_column_that_is_not_there_is_told_before_anything_runs(tmp_path):
    source = jsonl(tmp_path / "a.jsonl", documents())
    (problem,) = heads.head_problems(PromptsSpec(train=source, split_by="documnet"))
    assert "split_by=documnet: 200 of the first 200 prompts have no 'documnet'" in problem
    assert heads.head_problems(PromptsSpec(train=source, split_by="document")) == []


def test_groups_that_are_too_large_for_the_fraction_are_told(tmp_path):
    rows = [{**asked(number), "document": number % 2} for number in range(40)]
    counts, found, _ = run(tmp_path, rows, split_by="document", validation_fraction=0.1)
    assert not found["validation"]
    assert (
        "0 of 40 prompts are for validation, because groups stay whole and the largest has 20"
        in (counts.info.warnings[0])
    )


def test_what_decides_the_split_is_not_named_twice():
    with pytest.raises(ValidationError, match=r"prompts\.validation names its files"):
        PromptsSpec(train="a.jsonl", validation="b.jsonl", split_by="document")


def test_an_empty_list_of_validation_files_names_none_whether_prompts_are_compared_or_not(tmp_path):
    rows = [asked(number) for number in range(40)]
    drawn = []
    for more in ({}, {"decontaminate": {}}):
        _, found, _ = run(tmp_path, rows, validation=[], validation_fraction=0.2, **more)
        drawn.append(numbers(found["validation"]))
    assert drawn[0] == drawn[1] != []


def families(count=60):
    """Each sentence and two that differ from it in one word of twenty: J = 11/21 to 15/17."""
    rows = []
    for number in range(count):
        text = sentence(number)
        for place in (None, 0, 19):
            places = [] if place is None else [place]
            rows.append({"prompt": edited(text, *places), "n": number})
    return rows


def test_near_twins_lie_on_one_side(tmp_path):
    """15 of 17 runs of five in common: J = 0.88."""
    counts, found, _ = run(
        tmp_path, families(), split_by="near_duplicates", validation_fraction=0.2
    )
    families_of = {split: set(numbers(kept)) for split, kept in found.items()}
    assert not families_of["train"] & families_of["validation"]
    assert len(found["validation"]) == 36
    assert not counts.dropped
    _, alone, _ = run(tmp_path, families(), validation_fraction=0.2)
    assert set(numbers(alone["train"])) & set(numbers(alone["validation"]))


def test_a_column_and_near_twins_together_tear_neither_apart(tmp_path):
    rows = [{**row, "document": f"{row['n'] // 5} {at % 3}"} for at, row in enumerate(families())]
    spec = {"split_by": "document", "near_duplicates": 0.8, "validation_fraction": 0.3}
    _, found, _ = run(tmp_path, rows, **spec)
    # the three documents of five families hang together by their twins
    sides = {split: {number // 5 for number in numbers(kept)} for split, kept in found.items()}
    assert sides["validation"]
    assert not sides["train"] & sides["validation"]


def test_a_near_twin_of_an_earlier_prompt_leaves_training_with_the_twins_id(tmp_path):
    first = sentence("first")
    rows = [
        {"prompt": sentence("other"), "n": 0},
        {"prompt": first, "n": 1},
        {"prompt": edited(first, 19), "n": 2},
        {"prompt": edited(first, 10), "n": 3},
    ]
    counts, found, twins = run(tmp_path, rows, near_duplicates=0.8)
    # the last word is in one run of 16; the tenth in five: 11 / 21
    assert numbers(found["train"]) == [0, 1, 3]
    assert counts.dropped == {"near_duplicate": 1}
    (twin,) = twins
    assert twin["twin_id"] == found["train"][1].prompt_id
    assert (twin["source_id"], twin["twin"], twin["is_kept"]) == ("a.jsonl:3", "a.jsonl:2", False)
    assert twin["jaccard"] == pytest.approx(15 / 17)
    assert twin["coverage"] is None


def test_a_validation_prompt_comes_before_its_twin_in_training(tmp_path):
    text = sentence("x")
    validation = jsonl(tmp_path / "v.jsonl", [{"prompt": edited(text, 0), "n": 9}, asked(8)])
    counts, found, _ = run(
        tmp_path, [{"prompt": text, "n": 1}, asked(2)], validation=validation, near_duplicates=0.8
    )
    assert numbers(found["train"]) == [2]
    assert numbers(found["validation"]) == [9, 8]
    assert counts.dropped == {"near_duplicate": 1}


def test_turns_of_a_dialogue_and_a_common_system_message_make_no_twins(tmp_path):
    system = {"role": "system", "content": sentence("system", 300)}
    rows = []
    for number in range(4):
        # the last history holds all but a fiftieth of the one after it
        rows.append({"messages": [system, *dialogue(number, 40)], "n": number})
    counts, _, _ = run(tmp_path, rows, turns="each", near_duplicates=0.9)
    assert not counts.dropped
    assert counts.rows_out == 160


def test_a_text_that_all_prompts_share_is_told_where_it_makes_them_twins(tmp_path):
    rows = [{"prompt": f"{sentence('template', 200)} {n}", "n": n} for n in range(10)]
    counts, found, _ = run(tmp_path, rows, near_duplicates=0.9)
    assert len(found["train"]) == 1
    assert "9 of 10 training prompts are nearly the same" in counts.info.warnings[0]


def leaky(tmp_path):
    """Prompts of which two hold an item of a benchmark; the benchmark has columns of its own."""
    rows = [asked(number) for number in range(10)]
    rows[4]["prompt"] = f"Please answer: {sentence('item 1')} Thank you!"
    rows[7]["prompt"] = edited(sentence("item 2"), 0, 1)
    bench = [{"question": sentence(f"item {n}"), "answer": "no"} for n in range(3)]
    return rows, jsonl(tmp_path / "bench.jsonl", bench)


def test_prompts_that_hold_test_data_leave_with_the_place_of_the_item(tmp_path):
    rows, bench = leaky(tmp_path)
    counts, found, twins = run(tmp_path, rows, decontaminate={"against": [bench]})
    assert numbers(found["train"]) == [0, 1, 2, 3, 5, 6, 8, 9]
    assert counts.dropped == {"contaminated": 2}
    assert counts.info.contaminated_by == {bench: 2}
    assert [(twin["source_id"], twin["twin"]) for twin in twins] == [
        ("a.jsonl:5", f"{bench}:2"),
        ("a.jsonl:8", f"{bench}:3"),
    ]
    assert [twin["twin_id"] for twin in twins] == [None, None]
    assert twins[1]["coverage"] == pytest.approx(14 / 16)
    (told, *_) = counts.info.warnings
    assert f"2 training prompts hold test data and leave training (a.jsonl:5 has {bench}:2" in told
    assert not any(word in told for word in sentence("item 1").split())


def test_flagged_prompts_stay_and_are_named(tmp_path):
    rows, bench = leaky(tmp_path)
    leaks = {"against": [bench], "action": "flag"}
    counts, found, twins = run(tmp_path, rows, decontaminate=leaks)
    assert len(found["train"]) == 10
    assert not counts.dropped
    assert [(twin["reason"], twin["is_kept"]) for twin in twins] == [("contaminated", True)] * 2


def test_a_lower_coverage_finds_more(tmp_path):
    rows, bench = leaky(tmp_path)
    rows[7]["prompt"] = f"{' '.join(sentence('item 2').split()[:8])} {sentence('else')}"
    for coverage, found in ((0.3, 1), (0.2, 2)):  # 4 of 16 runs
        leaks = {"against": [bench], "coverage": coverage}
        counts, _, _ = run(tmp_path, rows, decontaminate=leaks)
        assert counts.dropped == {"contaminated": found}


def test_validation_prompts_are_always_looked_for(tmp_path):
    rows, bench = leaky(tmp_path)
    held_out = sentence("held out")
    rows[0]["prompt"] = f"{held_out} and more"
    validation = jsonl(tmp_path / "v.jsonl", [{"prompt": held_out, "n": 99}])
    for against, names in (([], {"validation": 1}), ([bench], {"validation": 1, bench: 2})):
        counts, found, twins = run(
            tmp_path, rows, validation=validation, decontaminate={"against": against}
        )
        assert counts.info.contaminated_by == names
        assert numbers(found["validation"]) == [99]
        assert twins[-1]["twin_id"] == found["validation"][0].prompt_id


@pytest.mark.parametrize("when", ["run", "check"])
def test_test_data_without_readable_text_is_refused_with_what_was_found(tmp_path, when):
    bench = jsonl(tmp_path / "bench.jsonl", [{"score": 1}])
    source = jsonl(tmp_path / "a.jsonl", [asked(1)])
    spec = PromptsSpec(train=source, decontaminate={"against": [bench]})
    said = "prompts.decontaminate.against: .*bench.jsonl holds no text.*found: 'score'"
    if when == "run":
        with pytest.raises(InputError, match=said):
            prompts.run(spec, {}, tmp_path, CTX)
    else:
        (problem,) = heads.head_problems(spec)
        assert "holds no text" in problem


def test_files_of_test_data_are_part_of_what_the_stage_reads():
    spec = PromptsSpec(train="a.jsonl", decontaminate={"against": ["b.jsonl"]})
    assert spec.sources() == ["train:", "a.jsonl", "validation:", "decontaminate:", "b.jsonl"]
    assert "against" not in spec.identity_fields()["decontaminate"]
    assert PromptsSpec(train="a.jsonl").sources() == ["train:", "a.jsonl", "validation:"]


def services(count=60):
    """Dialogues of a few services: every fifth opens nearly as another one does."""
    rows = []
    for number in range(count):
        opening = None
        if number % 5 == 0:
            opening = edited(sentence(f"opening {number // 10}", 12), number % 10 // 5)
        messages = dialogue(number, 6, opening)
        rows.append({"messages": messages, "dialogue_id": f"d{number}", "n": number})
    return rows


def most_covered(found):
    """By validation prompt: the highest coverage by a training prompt; turns of a dialogue count as
    one where it is told what is rare."""
    texts = {}
    for split, kept in found.items():
        texts[split] = compared_texts(to_table(kept, PROMPT))
    groups = [json.loads(prompt.meta)["dialogue_id"] for prompt in found["validation"]]
    index = Index.of({"v": texts["validation"].to_pylist()}, {"v": groups})
    return index.covered(texts["train"]).coverage_I


def test_no_validation_prompt_of_a_dialogue_keeps_a_twin_in_training(tmp_path):
    spec = {"turns": "each", "validation_fraction": 0.2}
    counts, found, twins = run(tmp_path, services(), split_by="dialogue_id", **spec)
    left = Counter(twin["reason"] for twin in twins)
    assert counts.dropped == left
    assert 0 < left["twin_in_training"] < 30
    assert np.all(most_covered(found) < 0.3)
    assert f"{left['twin_in_training']} of " in counts.info.warnings[0]
    assert {twin["split"] for twin in twins} == {"validation"}
    # each names a prompt that is still in training
    trained = {prompt.prompt_id for prompt in found["train"]}
    assert {twin["twin_id"] for twin in twins} <= trained


def test_drawn_by_rows_dialogues_would_have_twins(tmp_path):
    """What the test above is about: the same rows, one prompt per turn, split one by one."""
    rows = []
    for row in services():
        for turn in range(1, 12, 2):
            history = row["messages"][:turn]
            rows.append({**row, "messages": history, "turn": turn})
    _, found, _ = run(tmp_path, rows, validation_fraction=0.2)
    assert np.mean(most_covered(found) >= 0.3) > 0.5
    _, found, _ = run(tmp_path, rows, validation_fraction=0.2, split_by="dialogue_id")
    assert np.all(most_covered(found) < 0.3)
