"""One prompt per answer of a dialogue: what it holds, what it is compared with, where it lies."""

import json

import pytest
from pydantic import ValidationError

from engine.job.spec import FieldMap, JobSpec, PromptsSpec
from engine.rows.ids import prompt_hash, prompt_id_of
from engine.rows.records import Prompt
from engine.rows.tables import read_tables, to_rows
from engine.run.context import Context
from engine.run.manifests import finished, publish
from engine.stages import prompts
from engine.stages.prompts.head_lines import head_lines
from engine.stages.prompts.schema_guided import messages_of


def system(text):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def said(text, **more):
    return {"role": "assistant", "content": text, **more}


CHAT = [system("Be kind."), user("Hi"), said("Hello!"), user("A taxi"), said("Where?"), user("Ely")]


def run(tmp_path, *rows, seed=0, **spec):
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    settings = {"train": str(source), "validation_fraction": 0.0, "turns": "each", **spec}
    ctx = Context(job="t", task="conversation", seed=seed)
    counts = prompts.run(PromptsSpec(**settings), {}, out, ctx)
    publish(out, "prompts", {}, counts, 0.0)
    assert counts.rows_in == counts.rows_out + sum(counts.dropped.values())
    stage = finished(out)
    found = {}
    for split in ("train", "validation"):
        found[split] = []
        for table in read_tables(stage.files(split)):
            found[split] += to_rows(table, Prompt)
    return counts, found


def metas(found):
    return [json.loads(prompt.meta) for prompt in found]


def test_each_answer_is_a_prompt_with_the_gold_history_and_the_gold_answer_as_reference(tmp_path):
    counts, found = run(tmp_path, {"messages": [*CHAT, said("Ordered.")], "lang": "en"})
    first, second, third = found["train"]
    assert first.messages == CHAT[:2]
    assert second.messages == CHAT[:4]
    assert third.messages == CHAT
    assert [prompt.reference for prompt in found["train"]] == ["Hello!", "Where?", "Ordered."]
    assert [prompt.source_id for prompt in found["train"]] == [f"a.jsonl:1#{n}" for n in (1, 2, 3)]
    for prompt in found["train"]:
        assert prompt.prompt_id == prompt_id_of(prompt_hash(prompt.messages))
    assert len({meta["dialogue_id"] for meta in metas(found["train"])}) == 1
    assert {meta["lang"] for meta in metas(found["train"])} == {"en"}
    assert counts.info.cluster_by == "dialogue_id"


def test_the_last_prompt_of_a_dialogue_is_that_of_turns_last(tmp_path):
    row = {"messages": CHAT, "reference": "Ordered."}
    _, each = run(tmp_path, row)
    counts, last = run(tmp_path, row, turns="last")
    (only,) = last["train"]
    assert (each["train"][-1].prompt_id, each["train"][-1].reference) == (
        only.prompt_id,
        "Ordered.",
    )
    assert [prompt.reference for prompt in each["train"]] == ["Hello!", "Where?", "Ordered."]
    assert counts.info.cluster_by is None


@pytest.mark.parametrize("answer", [said("  "), said("Wrong", weight=0)])
def test_a_blank_answer_and_one_that_is_not_to_be_learnt_are_history_only(tmp_path, answer):
    _, found = run(tmp_path, {"messages": [user("a"), answer, user("b"), said("B")]})
    (only,) = found["train"]
    assert only.messages == [user("a"), said(answer["content"]), user("b")]


def test_an_answer_without_a_question_before_it_is_no_prompt(tmp_path):
    chat = [said("Welcome!"), user("a"), said("A"), said("More"), user(" "), said("What?")]
    _, found = run(tmp_path, {"messages": chat})
    assert [prompt.reference for prompt in found["train"]] == ["A"]


def test_a_dialogue_without_any_question_goes_to_quarantine_with_its_reason(tmp_path):
    counts, _ = run(tmp_path, {"messages": [said("Welcome!")]}, {"messages": CHAT})
    assert counts.dropped == {"last_message_not_user": 1}


def test_turns_of_a_dialogue_lie_in_one_split_whatever_the_order_of_rows(tmp_path):
    rows = []
    for number in range(40):
        turns = []
        for turn in range(4):
            turns += [user(f"{number} asks {turn}"), said(f"{number} says {turn}")]
        rows.append({"messages": turns})
    sides = []
    for order in (rows, rows[::-1]):
        _, found = run(tmp_path, *order, validation_fraction=0.3)
        side = {}
        for split, of_split in found.items():
            for prompt, meta in zip(of_split, metas(of_split), strict=True):
                side.setdefault(meta["dialogue_id"], set()).add(split)
                assert len(prompt.messages) % 2
        sides.append(side)
    assert sides[0] == sides[1]
    assert len(sides[0]) == 40
    assert all(len(splits) == 1 for splits in sides[0].values())
    assert {"train"} in sides[0].values()
    assert {"validation"} in sides[0].values()


def test_dialogues_that_open_alike_keep_the_first_answer_and_count_the_others(tmp_path):
    rows = [
        {"messages": [user("Hi"), said(answer), user("So?"), said(f"{answer}!")]}
        for answer in ("Hello", "Good day")
    ]
    counts, found = run(tmp_path, *rows)
    assert [prompt.reference for prompt in found["train"]] == ["Hello", "Hello!", "Good day!"]
    assert counts.dropped == {"other_reference": 1}


def test_a_dialogue_is_known_by_its_own_id_or_by_the_rows(tmp_path):
    row = {"messages": CHAT, "id": 7}
    _, by_row = run(tmp_path, row, fields=FieldMap(id="id"))
    assert {meta["dialogue_id"] for meta in metas(by_row["train"])} == {"7"}
    assert [prompt.source_id for prompt in by_row["train"]] == ["7#1", "7#2", "7#3"]
    _, own = run(tmp_path, row | {"dialogue_id": "d"}, fields=FieldMap(id="id"))
    assert {meta["dialogue_id"] for meta in metas(own["train"])} == {"d"}
    _, mapped = run(tmp_path, row | {"dialogue_id": "d"}, fields=FieldMap(id="dialogue_id"))
    assert {meta["dialogue_id"] for meta in metas(mapped["train"])} == {"d"}


def test_slot_values_are_those_of_the_turn(tmp_path):
    chat = [user("a"), said("To Ely", slots={"to": "Ely"}), user("b"), said("At nine")]
    _, of_messages = run(tmp_path, {"messages": chat})
    assert [meta.get("slots") for meta in metas(of_messages["train"])] == [{"to": "Ely"}, None]
    plain = [user("a"), said("To Ely"), user("b"), said("At nine")]
    row = {"messages": plain, "slots": {"to": "Ely", "at": ["9 am", "nine"], "by": "bus"}}
    _, of_row = run(tmp_path, row)
    slots = [meta["slots"] for meta in metas(of_row["train"])]
    assert slots == [{"to": "Ely"}, {"at": ["9 am", "nine"]}]


def schema_guided(*turns):
    return [
        {"speaker": speaker, "utterance": text, "frames": [frame]} for speaker, text, frame in turns
    ]


TABLE = schema_guided(
    ("USER", "A table for two", {"actions": [{"act": "INFORM", "slot": "n", "values": ["two"]}]}),
    (
        "SYSTEM",
        "Mexican in San Jose, at 6?",
        {
            "actions": [
                {"slot": "intent", "values": ["ReserveRestaurant"]},
                {"slot": "cuisine", "values": ["Mexican"], "canonical_values": ["Mexican"]},
                {"slot": "time", "values": ["6"], "canonical_values": ["18:00"]},
            ],
            "slots": [
                {"slot": "cuisine", "start": 0, "exclusive_end": 7},
                {"slot": "city", "start": 11, "exclusive_end": 19},
            ],
        },
    ),
)


def test_schema_guided_dialogues_are_read_with_the_values_that_each_answer_names(tmp_path):
    assert messages_of(TABLE) == [
        user("A table for two"),
        said(
            "Mexican in San Jose, at 6?",
            slots=[["Mexican"], ["6", "18:00"], ["San Jose"]],
        ),
    ]
    row = {"dialogue_id": "1_00000", "services": ["Restaurants_1"], "turns": TABLE}
    _, found = run(tmp_path, row)
    (prompt,) = found["train"]
    assert prompt.messages == [user("A table for two")]
    assert prompt.reference == "Mexican in San Jose, at 6?"
    (meta,) = metas(found["train"])
    assert meta == {
        "dialogue_id": "1_00000",
        "services": ["Restaurants_1"],
        "slots": [["Mexican"], ["6", "18:00"], ["San Jose"]],
    }


def test_a_column_named_turns_that_is_no_dialogue_stays_a_column(tmp_path):
    _, found = run(tmp_path, {"prompt": "Hi", "turns": 3})
    assert found["train"][0].messages == [user("Hi")]
    assert metas(found["train"])[0]["turns"] == 3


def test_check_says_how_many_prompts_the_rows_become(tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"messages": CHAT}) + "\n" + json.dumps({"prompt": 3}) + "\n")
    (line,) = head_lines(PromptsSpec(train=str(source), turns="each"), "conversation", [])
    assert "1 of its first 2 rows become prompts, 3 in all (content_not_text 1)" in line
    assert "not used" not in line


def test_learning_all_turns_of_prompts_of_each_turn_is_refused():
    job = {
        "name": "t",
        "task": "conversation",
        "prompts": {"train": "a.jsonl", "turns": "each"},
        "generate": {"teachers": [{"name": "t", "model": "m"}]},
        "train": {"student": "s", "loss": {"kind": "sft", "learn_turns": "all"}},
    }
    with pytest.raises(ValidationError, match="learn_turns=all would learn each gold answer again"):
        JobSpec.model_validate(job)
