"""Entailment, questions with several right answers, and summaries, each the whole way on the real
components: an expert behind an API teaches a tiny student a rule of the task (`make proof`;
sums are the quickstart, conversations are test_conversation_proof.py)."""

import json
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from doubles import misbehaving_api
from doubles.misbehaving_api import completion
from doubles.sky_expert import CITIES, NAMES
from doubles.tiny_jobs import KEY_ENV, a_job, api_teacher, rows_in, run, the_stage

from engine.rows.records import Completion

pytestmark = pytest.mark.proof
DRINKS = ("tea", "milk", "cocoa", "juice")
FULL_NAMES = {city: f"the town of {city}" for city in CITIES}


class Tiny(NamedTuple):
    """A task in small: how a row is drawn, what its expert says, and its headline."""

    row: Callable[[random.Random], dict[str, Any]]
    answer: Callable[[str], str]
    metric: str
    others: tuple[str, ...]  # further metrics that the report must have
    prompts: dict[str, Any]


def entailment(draw: random.Random) -> dict[str, Any]:
    name, city = draw.choice(NAMES), draw.choice(CITIES)
    other = draw.choice([each for each in CITIES if each != city])
    claims = {
        "entailment": f"{name} lives in {city}.",
        "contradiction": f"{name} lives in {other}.",
        "neutral": f"{name} drinks {draw.choice(DRINKS)}.",
    }
    label = draw.choice(list(claims))
    return {
        "premise": f"{name} lives in {city}.",
        "hypothesis": claims[label],
        "reference": label,
    }


def label_of(asked: str) -> str:
    premise, hypothesis = asked.split(" / ")
    if premise == hypothesis:
        return "Both say the same. Answer: entailment"
    if "drinks" in hypothesis:
        return "That is not said. Answer: neutral"
    return "Nobody lives twice. Answer: contradiction"


def question(draw: random.Random) -> dict[str, Any]:
    name, city, drink = draw.choice(NAMES), draw.choice(CITIES), draw.choice(DRINKS)
    return {
        "prompt": f"{name} drinks {drink} in {city}. Where is {name}?",
        "reference": [city, FULL_NAMES[city]],
    }


def place_of(asked: str) -> str:
    city = next(city for city in CITIES if city in asked)
    return f"The answer is {FULL_NAMES[city]}." if len(city) % 2 else f"In {city}."


def story(draw: random.Random) -> dict[str, Any]:
    name, city, drink = draw.choice(NAMES), draw.choice(CITIES), draw.choice(DRINKS)
    text = f"{name} got up. {name} went to {city}. It was late. Then {name} had some {drink}."
    return {
        "prompt": text,
        "reference": [f"{name} had {drink} in {city}.", f"In {city}, {name} had {drink}."],
    }


def summary_of(asked: str) -> str:
    name = asked.split()[0]
    city = next(city for city in CITIES if city in asked)
    drink = next(drink for drink in DRINKS if drink in asked)
    return f"{name} had {drink} in {city}."


TASKS = {
    "nli": Tiny(
        entailment, label_of, "accuracy", ("macro_f1",), {"template": "{premise} / {hypothesis}"}
    ),
    "qa": Tiny(question, place_of, "exact_match", ("f1",), {}),
    "summarization": Tiny(story, summary_of, "rougeL", ("chrf", "length_ratio"), {}),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_task_goes_the_whole_way(task, tmp_path, record_property):
    tiny = TASKS[task]
    draw = random.Random(0)
    rows = [tiny.row(draw) for _ in range(1500)]

    def expert(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        said = tiny.answer(body["messages"][-1]["content"])
        return 200, completion(body["model"], {"role": "assistant", "content": said})

    with misbehaving_api.serve(answer=expert) as api:
        job = a_job(
            tmp_path,
            task,
            task,
            rows,
            prompts=tiny.prompts | {"on_conflict": "first"},
            generate={"teachers": [api_teacher(api)], "sampling": {"max_tokens": 64}},
            train={"epochs": 30},
        )
        folder = run(job, tmp_path, **{KEY_ENV: misbehaving_api.KEY})
    said = rows_in(the_stage(folder, "generate"), Completion)
    assert {row.status for row in said} == {"ok"}
    curated = the_stage(folder, "curate").manifest
    assert curated.dropped.get("wrong_answer", 0) == 0
    assert curated.rows_out > 0
    info = the_stage(folder, "evaluate").manifest.info
    record_property("metrics", info.metrics)
    report = json.loads((folder / "report.json").read_text())
    quality = report["quality"]
    record_property("quality", {key: quality[key] for key in ("metric", "n", "retention")})
    assert quality["metric"] == tiny.metric
    assert {tiny.metric, *tiny.others} <= info.metrics.keys()
    scores = info.metrics[tiny.metric]
    assert scores["teacher"] > 0.5
    assert scores["baseline"] < 0.5 * scores["student"]
    assert (folder / "report.html").exists()
