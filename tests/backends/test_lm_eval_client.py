import asyncio

import pytest
from doubles.scoring_server import KEY, LENGTH, logprob_of, serve

from engine.backends.lm_eval_client import TRIES, Client
from engine.errors import StageError


@pytest.fixture
def endpoint():
    with serve() as served:
        yield served


def ask(client, *asked):
    kept = {}
    told = []
    answers = asyncio.run(
        client.gather(asked, kept.__setitem__, lambda done, total: told.append((done, total)))
    )
    return answers, kept, told


def test_answers_come_in_order_are_kept_by_number_and_counted(endpoint):
    client = Client(endpoint.url, "student", KEY)
    questions = [[{"role": "user", "content": f"What is {n} plus 1?"}] for n in range(20)]
    answers, kept, told = ask(
        client, *(lambda turn=turn: client.chat(turn, {"stop": ["?"]}) for turn in questions)
    )
    assert [answer.split(".")[0] for answer in answers] == [
        f"The answer is {n + 1}" for n in range(20)
    ]
    assert kept == dict(enumerate(answers))
    assert told == [(n + 1, 20) for n in range(20)]
    assert endpoint.bodies[0]["model"] == "student"
    assert endpoint.bodies[0]["stop"] == ["?"]


def test_a_texts_tokens_are_scored_but_for_the_first(endpoint):
    client = Client(endpoint.url, "student", KEY)
    assert client.max_model_len == LENGTH
    ((first, *others),), _, _ = ask(client, lambda: client.logprobs([7, 20, 300]))
    assert first[1] == 0
    assert others == [(logprob_of(20), 1), (logprob_of(300), 2)]


def test_a_full_server_is_asked_again(endpoint):
    endpoint.refusals = [429, 503, 429]
    client = Client(endpoint.url, "student", KEY)
    answers, _, _ = ask(client, lambda: client.complete([1, 2], {"max_tokens": 3}))
    assert answers == [" and so on"]
    assert endpoint.bodies[0]["prompt"] == [1, 2]
    assert endpoint.refusals == []


def test_what_the_server_refuses_is_told_in_its_words(endpoint):
    endpoint.refusals = [400]
    client = Client(endpoint.url, "student", KEY)
    with pytest.raises(StageError, match="answers 400: refused with 400"):
        ask(client, lambda: client.complete([1], {}))


def test_a_server_that_fails_is_tried_a_few_times(endpoint):
    endpoint.refusals = [500] * 10
    client = Client(endpoint.url, "student", KEY, first_wait_s=0.01)
    with pytest.raises(StageError, match=f"answers 500: refused with 500 \\({TRIES} times\\)"):
        ask(client, lambda: client.complete([1], {}))
    assert len(endpoint.refusals) == 10 - TRIES


@pytest.mark.parametrize(
    ("model", "key", "problem"),
    [("other", KEY, "200"), ("student", "wrong", "401"), ("student", None, "401")],
)
def test_a_model_or_key_that_nobody_knows_is_told_at_once(endpoint, model, key, problem):
    with pytest.raises(StageError, match=f"does not say how long a text {model} reads: {problem}"):
        Client(endpoint.url, model, key)


def test_an_address_where_nobody_is_is_told():
    with pytest.raises(StageError, match=r"nobody answers at http://127\.0\.0\.1:9/v1"):
        Client("http://127.0.0.1:9/v1", "student", KEY)


def test_a_server_without_logprobs_is_named_with_the_remedy():
    with serve(knows_logprobs=False) as endpoint:
        client = Client(endpoint.url, "student", KEY)
        with pytest.raises(StageError, match="gave no prompt_logprobs for student"):
            ask(client, lambda: client.logprobs([1, 2]))
