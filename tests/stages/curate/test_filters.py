from dataclasses import replace

import pytest

from engine.job.spec import CurateSpec
from engine.rows.final_answer import Rules
from engine.rows.records import Completion, Prompt
from engine.rows.tools import tools_column
from engine.stages.curate.filters import FILTERS, Drop, Experts, Keep
from engine.stages.curate.referee import Referee


def ask(task="math", reference="#### 4"):
    return Prompt(
        1, "ab", "a:1", [{"role": "user", "content": "2+2?"}], task, "a", "train", reference
    )


def answer(text="It is #### 4", status="ok", tokens=5):
    return Completion(1, "t", 0, "train", 0, status, text=text, completion_tokens=tokens)


def judge(name, completion, prompt=None, qa=None, **spec):
    rule, settings_of = FILTERS[name]
    settings = settings_of(CurateSpec(**spec), Experts(Referee(Rules(qa))))
    if settings is None:
        return None
    verdict = rule(completion, prompt or ask(), **settings)
    return Drop(verdict.reason) if isinstance(verdict, Drop) else Keep()


@pytest.mark.parametrize("status", ["empty", "loop", "too_long", "refused", "error"])
def test_what_is_no_answer_is_dropped_under_its_status(status):
    assert judge("status", answer(status=status)) == Drop(status)


def test_truncated_answers_are_dropped_unless_wanted():
    assert judge("status", answer(status="truncated")) == Keep()
    assert judge("truncated", answer(status="truncated")) == Drop("truncated")
    assert judge("truncated", answer(status="truncated"), keep_truncated=True) == Keep()


@pytest.mark.parametrize(
    ("tokens", "verdict"),
    [(1, Drop("too_few_tokens")), (2, Keep()), (9, Keep()), (10, Drop("too_many_tokens"))],
)
def test_length_bounds_include_their_ends(tokens, verdict):
    assert judge("length", answer(tokens=tokens), min_tokens=2, max_tokens=9) == verdict


def test_wrong_answers_are_dropped_where_there_is_a_reference():
    assert judge("reference", answer("#### 5")) == Drop("wrong_answer")
    assert judge("reference", answer("#### 4.0")) == Keep()
    assert judge("reference", answer("#### 5"), ask(reference=None)) == Keep()
    assert judge("reference", answer("a summary"), ask("summarization", "another")) == Keep()
    assert judge("reference", answer("#### 5"), check_reference=False) is None


@pytest.mark.parametrize(
    ("text", "reference", "reason"),
    [
        ("I cannot say.", "4", "no_answer"),
        ("It is 4 or 5, so the answer is 4 or 5.", "4", "ambiguous"),
        (r"\boxed{1+\sin x}", r"\sin x+1", "unverified"),
        (r"\boxed{5}", "4", "wrong_answer"),
    ],
)
def test_an_answer_is_dropped_under_what_is_wrong_with_it(text, reference, reason):
    assert judge("reference", answer(text), ask(reference=reference)) == Drop(reason)


def test_a_sentence_that_holds_a_short_reference_is_right_unless_the_job_wants_it_exact():
    paris = ask("qa", "Paris")
    assert judge("reference", answer("It stands in Paris."), paris) == Keep()
    assert judge("reference", answer("It stands in Paris."), paris, qa="exact") == Drop(
        "wrong_answer"
    )
    assert judge("reference", answer("The answer is Paris."), paris, qa="exact") == Keep()


def test_a_long_reference_of_qa_is_not_checked_unless_the_job_says_how():
    long = ask("qa", "It stands in the capital of France, which is Paris.")
    assert judge("reference", answer("Nobody knows."), long) == Keep()
    near = "f1>=0.5"
    assert judge("reference", answer("Nobody knows."), long, qa=near) == Drop("wrong_answer")
    assert judge("reference", answer("It stands in the capital, Paris."), long, qa=near) == Keep()


TOOLS = tools_column([{"type": "function", "function": {"name": "weather"}}], {})


@pytest.mark.parametrize(
    ("calls", "verdict"),
    [
        (None, Keep()),
        ('[{"name": "weather", "arguments": {}}]', Keep()),
        ('[{"name": "weather", "arguments": "{"}]', Drop("broken_tool_call")),
        ('[{"name": "", "arguments": "<tool_call>{"}]', Drop("broken_tool_call")),
        ('[{"name": "hammer", "arguments": {}}]', Drop("unknown_tool")),
    ],
)
def test_calls_that_a_student_must_not_copy_are_dropped_by_reason(calls, verdict):
    said = replace(answer(), tool_calls=calls)
    assert judge("tool_calls", said, replace(ask("conversation"), tools=TOOLS)) == verdict


def test_a_call_is_not_compared_as_a_final_answer():
    calls = '[{"name": "weather", "arguments": {}}]'
    prompt = replace(ask(), tools=TOOLS, reference_calls=calls)
    assert judge("reference", replace(answer(""), tool_calls=calls), prompt) == Keep()
