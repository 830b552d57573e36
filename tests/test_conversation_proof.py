"""Conversations turn by turn on the real components, with tiny models: schema-guided dialogues with
a teacher of ours, and dialogues that call a tool, taught by an API and read by vLLM's parser."""

import json
import random
from pathlib import Path

import pytest
from doubles import misbehaving_api
from doubles.sky_expert import CITIES, NAMES, TEMPLATE, WEATHER, expert
from doubles.tiny_jobs import KEY_ENV, QUICKSTART, a_job, api_teacher, rows_in, run, the_stage

from engine.rows.records import Completion, Prompt

pytestmark = pytest.mark.proof
SKIES = ("dry", "wet", "cold", "warm")
QUESTIONS = ("Is it nice in {}?", "What of {}?", "Tell me of {}.", "How is {}?")
GREETINGS = ("Hi, I am {}.", "Hello from {}.")


def with_tools(folder: Path) -> Path:
    """The quickstart's tokenizer with a template that knows tools."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((QUICKSTART / "teacher" / name).read_bytes())
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def dialogue(draw: random.Random) -> dict:
    """A greeting, a question that wants a tool, what the tool says, and the answer."""
    name, city, sky = draw.choice(NAMES), draw.choice(CITIES), draw.choice(SKIES)
    call = {"id": "x", "function": {"name": "sky", "arguments": json.dumps({"city": city})}}
    return {
        "tools": [WEATHER],
        "messages": [
            {"role": "user", "content": draw.choice(GREETINGS).format(name)},
            {"role": "assistant", "content": f"Hello, {name}."},
            {"role": "user", "content": draw.choice(QUESTIONS).format(city)},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "x", "content": sky},
            {"role": "assistant", "content": f"It is {sky} in {city}."},
        ],
    }


def test_a_student_learns_to_call_a_tool_from_an_api_and_is_scored_on_its_calls(
    tmp_path, record_property
):
    draw = random.Random(0)
    rows = [dialogue(draw) for _ in range(400)]
    with misbehaving_api.serve(answer=expert) as api:
        job = a_job(
            tmp_path,
            "conversation",
            "tools",
            rows,
            prompts={"turns": "each"},
            # a call has about 70 tokens: the tokenizer knows sums, and spells the rest
            generate={"teachers": [api_teacher(api)], "sampling": {"max_tokens": 128}},
            train={"tokenizer": str(with_tools(tmp_path / "tokenizer")), "epochs": 25},
            evaluate={"tool_parser": "hermes"},
        )
        folder = run(job, tmp_path, **{KEY_ENV: misbehaving_api.KEY})
    prompts = rows_in(the_stage(folder, "prompts"), Prompt, "validation")
    assert {prompt.messages[-1]["role"] for prompt in prompts} == {"user", "tool"}
    said = rows_in(the_stage(folder, "generate"), Completion)
    assert {row.status for row in said} == {"ok"}
    assert sum(row.tool_calls is not None for row in said) >= len(said) / 4
    info = the_stage(folder, "evaluate").manifest.info
    record_property("metrics", info.metrics)
    assert info.metrics["tool_calls"]["teacher"] == 1
    assert info.metrics["tool_calls"]["student"] >= 0.5 > info.metrics["tool_calls"]["baseline"]
    assert info.metrics["needless_calls"]["student"] <= 0.2
    (baseline, *_) = info.comparisons["baseline"]
    assert baseline.clusters < baseline.n
    assert (folder / "report.html").exists()


def schema_guided(number: int, draw: random.Random) -> dict:
    name, city = f"{draw.choice(NAMES)} {number}", draw.choice(CITIES)
    turns = [("USER", f"I am {name}. A taxi?", [])]
    turns += [("SYSTEM", "Where do you want to go?", [])]
    turns += [
        ("USER", f"To {city}.", []),
        ("SYSTEM", f"A taxi to {city} for {name}?", [name, city]),
    ]
    frames = []
    for speaker, text, values in turns:
        actions = [{"slot": "value", "values": [value]} for value in values]
        frames.append({"speaker": speaker, "utterance": text, "frames": [{"actions": actions}]})
    return {"dialogue_id": f"d{number}", "turns": frames}


def test_schema_guided_dialogues_go_the_whole_way_turn_by_turn(tmp_path, record_property):
    draw = random.Random(1)
    rows = [schema_guided(number, draw) for number in range(120)]
    teacher = {
        "name": "teacher",
        "model": str(QUICKSTART / "teacher"),
        "dtype": "float32",
        "kv_cache_gib": 0.25,
    }
    job = a_job(
        tmp_path,
        "conversation",
        "turns",
        rows,
        prompts={"turns": "each"},
        generate={"teachers": [teacher], "sampling": {"max_tokens": 32}},
    )
    folder = run(job, tmp_path)
    stage = the_stage(folder, "prompts")
    splits = {}
    for split in ("train", "validation"):
        for prompt in rows_in(stage, Prompt, split):
            splits.setdefault(json.loads(prompt.meta)["dialogue_id"], set()).add(split)
    assert {frozenset(one) for one in splits.values()} == {
        frozenset({"train"}),
        frozenset({"validation"}),
    }
    info = the_stage(folder, "evaluate").manifest.info
    record_property("metrics", info.metrics)
    (baseline, *_) = info.comparisons["baseline"]
    assert baseline.clusters < baseline.n
    assert info.metrics["slots"]["student"] is not None
    assert (folder / "report.html").exists()
