"""Jobs whose prompts offer tools: models that would not be told of them, answers that nobody would
read."""

import json
import re

import pytest

from engine.check.templates import ignores_tools
from engine.check.tools import tool_problems
from engine.job.spec import JobSpec
from engine.rows.tools import Conversation

KNOWS = (
    "{% if tools %}{% for t in tools %}{{ t | tojson(indent=2) }}{% endfor %}{% endif %}"
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
)
KNOWS_NONE = "{% for m in messages %}{{ m.role + m.content }}{% endfor %}"
REFUSES = "{% if messages[-1].role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
ODD = "{{ messages | a_filter_of_a_newer_library }}"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
CALL = {"id": "1", "function": {"name": "weather", "arguments": "{}"}}
CHAT = [
    {"role": "user", "content": "Ely?"},
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "20"},
]


def folder(place, template):
    place.mkdir(exist_ok=True)
    (place / "tokenizer.json").write_text("{}")
    config = {}
    if template:
        config["chat_template"] = template
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    return place


def problems(tmp_path, row, *, teacher=KNOWS, student=KNOWS, kind="vllm", **blocks):
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    one = {"name": "t", "kind": kind, "model": str(folder(tmp_path / "teacher", teacher))}
    if kind == "vllm":
        one["tool_parser"] = blocks.pop("tool_parser", "hermes")
    job = {
        "name": "j",
        "task": "conversation",
        "prompts": {"train": str(tmp_path / "a.jsonl")},
        "generate": {"teachers": [one]},
        "train": {"student": str(folder(tmp_path / "student", student))},
        "evaluate": {"tool_parser": "hermes"},
    }
    return list(tool_problems(JobSpec.model_validate(job | blocks)))


@pytest.mark.parametrize("row", [{"messages": CHAT, "tools": [TOOL]}, {"messages": CHAT}])
def test_a_student_whose_template_knows_no_tools_is_refused_with_the_remedy(tmp_path, row):
    assert problems(tmp_path, row) == []
    (problem,) = problems(tmp_path, row, student=KNOWS_NONE)
    assert problem.startswith("train.student: the prompts have to do with tools, but ")
    assert "leaves them out: with and without them it writes the same" in problem
    assert "set train.tokenizer to a folder" in problem
    assert "prompts.fields.tools: null" in problem


def test_a_teacher_whose_template_knows_no_tools_is_refused(tmp_path):
    row = {"prompt": "Ely?", "tools": [TOOL]}
    (problem,) = problems(tmp_path, row, teacher=KNOWS_NONE)
    assert problem.startswith("generate.teachers.0.model: ")
    assert problems(tmp_path, row, teacher=KNOWS_NONE, kind="fake") == []


def test_prompts_without_tools_want_neither_template_nor_parser(tmp_path):
    row = {"prompt": "Ely?"}
    assert problems(tmp_path, row, student=None, tool_parser=None, evaluate={}) == []


def test_parsers_are_wanted_where_tools_are_offered(tmp_path):
    row = {"prompt": "Ely?", "tools": [TOOL]}
    teacher, student = problems(tmp_path, row, tool_parser=None, evaluate={})
    assert teacher.startswith("generate.teachers.0.tool_parser: the prompts offer tools")
    assert student.startswith("evaluate.tool_parser: the prompts offer tools")
    (unknown,) = problems(tmp_path, {"prompt": "Ely?"}, tool_parser="hermess")
    assert unknown == ("generate.teachers.0.tool_parser: vLLM has no hermess; did you mean hermes?")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (KNOWS, None),
        (KNOWS_NONE, "leaves them out"),
        (REFUSES, r"refuses a conversation of user, assistant, tool \(no tools here\)"),
        (None, "has no chat template"),
        (ODD, None),
    ],
)
def test_what_a_template_does_with_tools(tmp_path, template, says):
    asked = Conversation(
        [
            {"role": "user", "content": "Ely?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "20"},
        ],
        [TOOL],
    )
    found = ignores_tools(folder(tmp_path / "m", template), asked)
    if says is None:
        assert found is None
    else:
        assert re.search(says, found or "")


def test_a_template_of_its_own_for_tools_is_the_one_that_counts(tmp_path):
    named = [
        {"name": "default", "template": KNOWS_NONE},
        {"name": "tool_use", "template": KNOWS},
    ]
    asked = Conversation([{"role": "user", "content": "Ely?"}], [TOOL])
    place = folder(tmp_path / "m", None)
    (place / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert ignores_tools(place, asked) is None
    assert ignores_tools(tmp_path / "a/hub-name", asked) is None
