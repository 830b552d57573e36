"""The harness itself in its own process, asked of a model that is a rule: skipped where lm-eval is
not installed."""

import json
import math
import sys

import pytest
from conftest import REPOSITORY
from doubles import misbehaving_api, scoring_server
from doubles.scoring_server import logprob_of
from doubles.task_files import SUMS, needs_lm_eval, write_task_files

from engine.backends.lm_eval_harness import Api, Served, opened
from engine.errors import StageError
from engine.job.spec import OpenAITeacherSpec

pytestmark = [pytest.mark.slow, needs_lm_eval]
TOKENIZER = str(REPOSITORY / "jobs/quickstart/teacher")
ROLLING = """\
task: text
dataset_path: text
dataset_kwargs: {data_files: {test: data/text.txt}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
"""
TEXT = "How many shells does Ben have left? " * 40


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TOKENIZER)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Three files of tasks, scored twice; (scores by task, metric and filter; tasks; what the
    endpoint was asked; samples)."""
    folder = tmp_path_factory.mktemp("lm_eval")
    files = write_task_files(folder / "tasks")
    (folder / "tasks/data/text.txt").write_text(TEXT.strip() + "\n")
    (folder / "tasks/text.yaml").write_text(ROLLING)
    files.append(str(folder / "tasks/text.yaml"))
    with scoring_server.serve() as endpoint, opened(files, folder / "work") as running:
        model = Served("student", endpoint.url, scoring_server.KEY, TOKENIZER, None, False, 40, 0)
        said = running.score(model, folder / "student.jsonl", 100, lambda done, total: None)
        asked = list(endpoint.bodies)
        again = running.score(model, folder / "student.jsonl", 100, lambda done, total: None)
        assert again == said | {"shortened": again["shortened"]}
        assert endpoint.bodies == asked, "what was answered is not asked for again"
    figures = {(s["task"], s["metric"], s["filter"]): s for s in said["scores"]}
    samples = [json.loads(line) for line in (folder / "student.jsonl").read_text().splitlines()]
    return figures, running.tasks, asked, samples, said


def test_figures_of_the_harness_are_read_with_their_errors(scored):
    figures, tasks, *_ = scored
    assert figures["sums", "exact_match", "last_number"]["value"] == 1.0
    assert figures["sums", "exact_match", "last_number"]["stderr"] == 0.0
    assert figures["sums", "exact_match", "last_number"]["higher_is_better"] is True
    assert tasks["sums"] == {"kind": "generate_until", "n": 6, "shots": 0, "version": "1.0"}
    assert tasks["both"] == {"kind": "group", "version": "1"}


def test_a_choice_is_the_continuation_of_the_largest_log_likelihood(scored, tokenizer):
    figures, _, _, samples, _ = scored
    right = 0
    for number in range(6):
        choices = [str(number + 1), str(number + 2)]
        scores = []
        for choice in choices:
            ids = tokenizer.encode(choice, add_special_tokens=False)
            scores.append(sum(map(logprob_of, ids)))
        right += scores[0] > scores[1]
    for task in ("choice", "other", "both"):
        assert figures[task, "acc", "none"]["value"] == pytest.approx(right / 6)
    stderr = figures["choice", "acc", "none"]["stderr"]
    assert stderr == pytest.approx(math.sqrt(right / 6 * (1 - right / 6) / 5))
    assert figures["both", "acc", "none"]["stderr"] is not None
    (sample,) = [row for row in samples if row["task"] == "choice" and row["doc_id"] == 3]
    assert sample["acc"] in (0.0, 1.0)
    assert sample["doc"]["choices"] == ["5", "4"]


def test_generation_goes_through_the_chat_route_and_ends_where_the_task_says(scored):
    _, _, asked, samples, said = scored
    chats = [body for body in asked if "messages" in body]
    chats.sort(key=lambda body: body["messages"][0]["content"])
    assert len(chats) == 6
    assert chats[0]["messages"] == [{"role": "user", "content": "What is 0 plus 1?"}]
    assert chats[0]["stop"] == ["\n\n"]
    assert (chats[0]["max_tokens"], chats[0]["temperature"]) == (48, 0.0)
    assert said["chat_template"] is True
    (sample,) = [row for row in samples if row["task"] == "sums" and row["doc_id"] == 2]
    assert sample["resps"] == [["The answer is 3."]]


def test_a_text_longer_than_the_model_is_scored_in_windows(scored, tokenizer):
    figures, *_, said = scored
    ids = tokenizer.encode(TEXT.strip(), add_special_tokens=False)
    assert len(ids) > 2 * scoring_server.LENGTH
    bits = -sum(map(logprob_of, ids)) / math.log(2)
    found = figures["text", "bits_per_byte", "none"]["value"]
    assert found == pytest.approx(bits / len(TEXT.strip().encode()))
    assert said["shortened"] == 0


def test_a_prompt_that_is_too_long_loses_its_beginning_and_is_counted(tmp_path):
    write_task_files(tmp_path / "tasks")
    row = {"question": "word " * 100 + "What is 4 plus 1?", "answer": "5"}
    (tmp_path / "tasks/data/sums.jsonl").write_text(json.dumps(row) + "\n")
    files = [str(tmp_path / "tasks/sums.yaml")]
    with scoring_server.serve() as endpoint, opened(files, tmp_path / "work") as running:
        model = Served("student", endpoint.url, scoring_server.KEY, TOKENIZER, None, False, 40, 0)
        said = running.score(model, tmp_path / "s.jsonl", 100, lambda done, total: None)
    assert said["shortened"] == 1
    assert len(endpoint.bodies[0]["prompt"]) == scoring_server.LENGTH - 48


def test_an_api_answers_generation_tasks_alone_and_what_it_costs_is_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("LM_EVAL_KEY", misbehaving_api.KEY)
    files = write_task_files(tmp_path / "tasks")
    prices = {"input": 1000.0, "output": 2000.0}
    with misbehaving_api.serve() as api, opened(files, tmp_path / "work") as running:
        teacher = OpenAITeacherSpec(
            name="api",
            model="m",
            base_url=f"{api.url}/v1",
            api_key_env="LM_EVAL_KEY",
            prices=prices,
        )
        rich = Api(teacher, None, 40, 0)
        said = running.score(rich, tmp_path / "teacher.jsonl", 100, lambda done, total: None)
        (score,) = said["scores"]
        assert (score["task"], score["value"]) == ("sums", pytest.approx(1 / 6))
        assert said["unknown"].keys() == {"choice", "other", "both"}
        assert "no log-probability" in said["unknown"]["choice"]
        assert said["cost_usd"] == pytest.approx(6 * (9 * 1000 + 4 * 2000) / 1e6)
        poor = Api(teacher, 0.01, 40, 0)
        with pytest.raises(StageError, match="max_cost_usd is used up"):
            running.score(poor, tmp_path / "poor.jsonl", 100, lambda done, total: None)


def test_what_the_harness_cannot_load_is_named_with_its_file(tmp_path):
    write_task_files(tmp_path / "tasks")
    path = tmp_path / "tasks/sums.yaml"
    path.write_text(SUMS.replace('"{{answer}}"', "!function own.answer"))
    with (
        pytest.raises(StageError, match=r"sums.yaml: lm-eval cannot read it: .*own"),
        opened([str(path)], tmp_path / "work"),
    ):
        pass


def test_a_data_set_of_a_hub_is_refused_offline(tmp_path):
    path = tmp_path / "hub.yaml"
    path.write_text(SUMS.replace("dataset_path: json", "dataset_path: openai/gsm8k"))
    with (
        pytest.raises(StageError, match=r"hub.yaml: lm-eval cannot read it"),
        opened([str(path)], tmp_path / "work"),
    ):
        pass


def test_the_driver_imports_nothing_of_it():
    assert "lm_eval" not in sys.modules
