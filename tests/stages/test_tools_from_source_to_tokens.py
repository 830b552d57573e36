"""Tools from a source file to what a student learns, with an API's client and no Ray."""

import json

import pytest
from conftest import REPOSITORY
from doubles import misbehaving_api
from doubles.sky_expert import TEMPLATE, WEATHER, expert
from transformers import AutoTokenizer

from engine.backends import fake
from engine.job.spec import CurateSpec, GenerateSpec, PromptsSpec, TrainSpec
from engine.rows.records import Completion
from engine.rows.tables import read_tables, to_rows
from engine.run.context import Context
from engine.run.manifests import finished, publish
from engine.stages import curate, generate, prompts
from engine.training.data import load_sequences

CALL = {"id": "x", "function": {"name": "sky", "arguments": '{"city": "Ely"}'}}
CHAT = [
    {"role": "user", "content": "How is Ely?"},
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "x", "content": "dry"},
    {"role": "assistant", "content": "It is dry in Ely."},
]


@pytest.fixture
def stage(tmp_path):
    """Run and publish a stage on those before it."""
    done = {}

    def run(name, module, spec, **more):
        out = tmp_path / name
        out.mkdir()
        ctx = Context(job="t", task="conversation", seed=0)
        publish(out, name, {}, module.run(spec, done, out, ctx, **more), 0.0)
        done[name] = finished(out)
        return done[name]

    return run


def test_an_apis_calls_are_what_the_student_learns(tmp_path, stage, monkeypatch):
    monkeypatch.setenv("DISTILL_TEST_API_KEY", misbehaving_api.KEY)
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"messages": CHAT, "tools": [WEATHER]}) + "\n")
    stage("prompts", prompts, PromptsSpec(train=str(source), turns="each", validation_fraction=0.0))
    with misbehaving_api.serve(answer=expert) as api:
        teacher = {
            "name": "t",
            "kind": "openai",
            "model": "m",
            "base_url": f"{api.url}/v1",
            "api_key_env": "DISTILL_TEST_API_KEY",
        }
        spec = GenerateSpec(teachers=[teacher])
        answered = stage("generate", generate, spec, stream=fake.stream)
    rows = [row for table in read_tables(answered.files()) for row in to_rows(table, Completion)]
    assert sorted((row.status, row.said) for row in rows) == [
        ("ok", "It is dry in Ely."),
        ("ok", 'sky {"city": "Ely"}'),
    ]
    examples = stage("curate", curate, CurateSpec())
    tokenizer = AutoTokenizer.from_pretrained(REPOSITORY / "jobs/quickstart/teacher")
    tokenizer.chat_template = TEMPLATE
    learnt = []
    for row in load_sequences(examples.files("train"), TrainSpec(student="s"), tokenizer, 448):
        text = tokenizer.decode(row.ids)
        assert text.startswith("<|im_start|>system\nsky<|im_end|>\n<|im_start|>user\nHow is Ely?")
        learnt.append(tokenizer.decode(row.ids[row.is_target]))
    assert sorted(learnt) == [
        '<tool_call>\n{"name": "sky", "arguments": {"city": "Ely"}}\n</tool_call><|im_end|>',
        "It is dry in Ely.<|im_end|>",
    ]
