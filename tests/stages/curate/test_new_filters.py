"""What each block of `curate` keeps and drops, by hand."""

import json
from dataclasses import replace

import pytest
from doubles.curated import ask, data_files, key, reply, run, verdicts_in

from engine.errors import InputError, StageError
from engine.job.spec import CurateSpec
from engine.rows.tables import file_metadata
from engine.rows.tools import as_tool_calls, tools_column
from engine.stages.curate.filters import FILTERS, Keep
from engine.stages.curate.rules import RULES

SENTENCE = "The quick brown fox jumps over the lazy dog near the quiet river bank at noon"


def asks(count, reference=True):
    prompts = [ask(number) for number in range(count)]
    return prompts if reference else [replace(prompt, reference=None) for prompt in prompts]


def reasons_in(out):
    return {(row["prompt_id"], row["sample_index"]): row["reason"] for row in verdicts_in(out)}


def test_a_majority_decides_where_there_is_no_reference(tmp_path):
    said = ["so 4", "it is 4", "4!", "5"]
    answers = [reply(1, text=text, sample=sample) for sample, text in enumerate(said)]
    answers += [reply(2, text=text, sample=sample) for sample, text in enumerate("78")]
    counts, *_, out = run(
        tmp_path, asks(3, reference=False), [answers], majority={"min_agreement": 0.6}
    )
    assert counts.dropped == {"minority_answer": 1, "no_majority": 2}
    rows = {(row["prompt_id"], row["sample_index"]): row for row in verdicts_in(out)}
    assert (rows[1, 0]["votes"], rows[1, 0]["agreement"], rows[1, 0]["answer"]) == (3, 0.75, "4")
    assert rows[1, 3]["filter"] == "majority"


def test_the_best_answers_of_a_prompt_stay(tmp_path):
    lengths = {("a", 0): 9, ("a", 1): 5, ("b", 0): 7, ("b", 1): 4}
    answers = [
        reply(1, teacher=teacher, sample=sample, tokens=tokens, text="!" * tokens + " It is 2")
        for (teacher, sample), tokens in lengths.items()
    ]
    each = {"per_prompt": 1, "by": ["correct", "shorter"]}
    _, examples, _ = run(tmp_path / "each", asks(2), [answers], select=each)
    assert [key(row) for row in examples["train"]] == [(1, "a", 1), (1, "b", 1)]
    counts, examples, _ = run(
        tmp_path / "all", asks(2), [answers], select=each | {"across": "teachers"}
    )
    assert [key(row) for row in examples["train"]] == [(1, "b", 1)]
    assert counts.dropped == {"lower_score": 3}


def test_prompts_that_are_too_easy_or_too_hard_go(tmp_path):
    answers = []
    for number, right in ((1, 4), (2, 2), (3, 0)):
        for sample in range(4):
            text = f"{sample}: {number + 1 if sample < right else 90}"
            answers.append(reply(number, text=text, sample=sample))
    counts, examples, out = run(
        tmp_path, asks(4), [answers], difficulty={"keep": [0.1, 0.9]}, check_reference=False
    )
    assert counts.dropped == {"too_easy": 4, "too_hard": 4}
    assert {row["prompt_id"] for row in examples["train"]} == {2}
    assert {row["difficulty"] for row in verdicts_in(out)} == {1.0, 0.5, 0.0}
    assert counts.info.prompts_with_no_answer_left == {"difficulty": 2}


def test_a_near_duplicate_goes_for_the_better_one_of_another_prompt_and_names_it(tmp_path):
    answers = [reply(number, text=f"{SENTENCE}: {number + 1}", tokens=9) for number in range(3)]
    answers[1] = replace(answers[1], completion_tokens=5)
    answers[2] = replace(answers[2], text="Something else that nobody said before, which is 3")
    counts, examples, out = run(
        tmp_path,
        asks(3),
        [answers[:1], answers[1:]],
        near_duplicates={"jaccard": 0.6, "of": "answer"},
    )
    assert counts.dropped == {"near_duplicate": 1}
    assert [row["prompt_id"] for row in examples["train"]] == [1, 2]
    (row,) = [row for row in verdicts_in(out) if row["reason"]]
    twin = (row["twin_prompt_id"], row["twin_teacher"], row["twin_sample_index"])
    assert twin == (1, "t", 0)
    # 12 runs of five words of 16, the last of which differs: 11 shared of 13
    assert row["jaccard"] == pytest.approx(12 / 14)
    assert counts.info.diversity.cluster_bits == pytest.approx(0.9183)


def test_answers_to_one_prompt_are_no_near_duplicates(tmp_path):
    answers = [reply(1, text=f"{SENTENCE} {n}: 2", sample=n) for n in range(3)]
    counts, *_ = run(tmp_path, asks(2), [answers], near_duplicates={"jaccard": 0.5})
    assert counts.dropped == {}


def test_test_data_and_validation_prompts_are_not_taught(tmp_path):
    leaked = "How many marbles does Ivo keep if he gives seven of his thirty to Ada and Noor?"
    other = "Which river runs through the old town of Ljubljana before it meets the Sava below?"
    bench = tmp_path / "bench.jsonl"
    bench.write_text(json.dumps({"question": other}) + "\n")
    held = ask(5, "validation")
    held = replace(held, messages=[{"role": "user", "content": leaked}])
    texts = [f"Let me think. {leaked} It is 1", f"{other} So 2", "just 3", "just 4"]
    answers = [reply(number, text=text) for number, text in enumerate(texts)]
    answers[3] = replace(answers[3], reasoning=f"I know this one: {other}")
    counts, _, out = run(
        tmp_path, [*asks(4), held], [answers], decontaminate={"against": [str(bench)]}
    )
    assert counts.dropped == {"contaminated": 3}
    named = [row["contaminated_by"] for row in verdicts_in(out)]
    assert named == ["validation:1", f"{bench}:1", None, f"{bench}:1"]


def test_a_file_of_test_data_without_text_is_named_with_its_field(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"label": 3}\n')
    with pytest.raises(
        InputError, match=r"curate\.decontaminate\.against: .*empty\.jsonl holds no"
    ):
        run(tmp_path, asks(1), [[reply(0)]], decontaminate={"against": [str(empty)]})


MAIL = "Write to ivo.marek@posta.example.org, the answer is 2"


def test_personal_data_is_dropped_or_marked(tmp_path):
    answers = [reply(1, text=MAIL), reply(2)]
    counts, *_ = run(tmp_path / "drop", asks(3), [answers], pii={})
    assert counts.dropped == {"pii": 1}
    counts, examples, out = run(tmp_path / "flag", asks(3), [answers], pii={"action": "flag"})
    assert len(examples["train"]) == 2
    assert [row["pii"] for row in verdicts_in(out)] == [["email"], []]


def test_a_redacted_example_has_no_token_of_what_it_held(tmp_path):
    answers = [reply(1, text=MAIL), reply(2)]
    prompt = replace(ask(1), messages=[{"role": "user", "content": "I am ivo@posta.example.org"}])
    counts, examples, out = run(
        tmp_path, [ask(0), prompt, ask(2)], [answers], pii={"action": "redact"}
    )
    by_id = {row["prompt_id"]: row for row in examples["train"]}
    texts = [message["content"] for message in by_id[1]["messages"]]
    assert texts == ["I am [EMAIL]", "Write to [EMAIL], the answer is 2"]
    for name in ("prompt_token_ids", "token_ids", "topk_ids", "topk_logprobs", "tail"):
        assert by_id[1][name] == [], name
        assert by_id[2][name], name
    assert by_id[1]["topk_packed"] == b""
    told = [file_metadata(out / name) for name in sorted(data_files(counts))]
    fingerprints = {one["tokenizer_fingerprint"]: one["top_k"] for one in told}
    assert fingerprints == {None: 0, "f": 2}


def test_personal_data_in_thoughts_and_in_earlier_calls_is_found(tmp_path):
    thinks = replace(reply(1), reasoning="He is ivo@posta.example.org")
    called = [{"name": "send", "arguments": {"to": "eva@posta.example.org"}}]
    turns = {1: {"tool_calls": as_tool_calls(called, 0)}}
    messages = [{"role": role, "content": role} for role in ("user", "assistant", "user")]
    asked = replace(ask(2), messages=messages, tools=tools_column([], turns))
    _, examples, out = run(
        tmp_path, [ask(0), ask(1), asked], [[reply(0), thinks, reply(2)]], pii={"action": "redact"}
    )
    assert [row["pii"] for row in verdicts_in(out)] == [[], ["email"], ["email"]]
    by_id = {row["prompt_id"]: row for row in examples["train"]}
    assert by_id[0]["token_ids"]
    assert by_id[1]["token_ids"] == by_id[2]["token_ids"] == []
    assert "[EMAIL]" in by_id[2]["tools"]
    assert "eva@" not in by_id[2]["tools"]


def test_labels_sources_and_languages_are_counted_whatever_filters_there_are(tmp_path):
    prompts = []
    answers = []
    for number in range(8):
        gold = ("entailment", "neutral")[number % 4 == 0]
        prompts.append(replace(ask(number), task="nli", reference=gold))
        answers.append(reply(number, text=gold if number < 6 else "contradiction"))
    counts, *_ = run(tmp_path, prompts, [answers])
    told = counts.info.diversity.counts
    assert told["label"] == {"entailment": (6, 4), "neutral": (2, 2)}
    assert told["source"] == {"a": (8, 6)}


def test_a_filter_that_finds_what_no_column_takes_is_told(tmp_path, monkeypatch):
    def finds(answer, prompt):
        return Keep({"mood": 1})

    monkeypatch.setitem(FILTERS, "mood", (finds, lambda spec, experts: {}))
    with pytest.raises(StageError, match=r"a filter found mood, which no column takes; add it to"):
        run(tmp_path, asks(1), [[reply(0)]])


def test_a_rule_that_raises_is_named_and_what_filters_found_is_kept(tmp_path, monkeypatch):
    def broken(table):
        raise KeyError("answer")

    monkeypatch.setitem(RULES, "mine", (broken, lambda spec, panel: {}, ()))
    with pytest.raises(StageError, match=r"rule mine failed on 1 answers \(KeyError: 'answer'\)"):
        run(tmp_path, asks(1), [[reply(0)]])
    assert list((tmp_path / "curate/work/receipts/rows").iterdir())


def test_a_choice_among_sixteen_is_no_loss(tmp_path):
    answers = []
    for teacher in ("a", "b"):
        for sample in range(8):
            text = f"{sample} of {teacher}: 2"
            answers.append(reply(1, teacher=teacher, sample=sample, text=text))
    best = {"per_prompt": 1, "across": "teachers"}
    counts, *_ = run(tmp_path, asks(2), [answers], select=best)
    assert (counts.rows_in, counts.rows_out) == (16, 1)
    assert counts.info.warnings == []


def test_language_repetition_and_refusals(tmp_path):
    texts = [
        "The answer to this question is 1, because nothing was added to it at all",
        "La respuesta a esta pregunta es 2, porque no se le ha sumado nada en absoluto",
        "one two three four five six " * 6 + "3",
        "I'm sorry, but I can't help with that request.",
    ]
    answers = [reply(number, text=text) for number, text in enumerate(texts)]
    *_, out = run(
        tmp_path,
        asks(4, reference=False),
        [answers],
        languages=["en"],
        repetition=0.5,
        refusals="drop",
    )
    assert reasons_in(out)[0, 0] is None
    assert reasons_in(out)[1, 0] == "language"
    assert reasons_in(out)[2, 0] == "repetition"
    assert reasons_in(out)[3, 0] == "refusal"


def test_caps_count_by_a_field_of_meta_and_name_what_is_not_there(tmp_path):
    prompts = [replace(ask(n), meta=json.dumps({"topic": "ab"[n % 3 == 0]})) for n in range(12)]
    answers = [[reply(n) for n in range(12)]]
    counts, *_ = run(
        tmp_path / "one", prompts, answers, balance={"by": "meta.topic", "most": {"a": 3}}
    )
    assert counts.dropped == {"over_cap": 5}
    counts, *_ = run(
        tmp_path / "two", prompts, answers, balance={"by": "meta.topic", "most": {"c": 3}}
    )
    (warning,) = counts.info.warnings
    assert warning.startswith("curate.balance caps c, which no example has: meta.topic is a, b")
    counts, *_ = run(tmp_path / "three", prompts, answers, balance={"by": "meta.no", "most": 3})
    assert "no example has one, so nothing was capped" in counts.info.warnings[0]


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"balance": {"by": "colour", "most": 3}}, "choose label, source, language"),
        ({"balance": {"by": "label"}}, "has no bound; give most"),
        ({"balance": {"by": "label", "share": 1.5}}, "give less than 1"),
        ({"difficulty": {"keep": [0.9, 0.1]}}, r"give \[lowest, highest\] between 0 and 1"),
        ({"select": {"by": ["score"]}}, "goes by a judge, and curate.judge names none"),
    ],
)
def test_a_block_that_cannot_work_says_what_to_give(block, said):
    with pytest.raises(ValueError, match=said):
        CurateSpec(**block)
