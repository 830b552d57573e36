"""One page of Prometheus: what all fronts on a port counted, and their replicas."""

import httpx
import pytest
from doubles.house import chat


def test_requests_are_counted_by_model_and_how_they_ended(house, ask):
    there = house("m", "n")
    there.add("m", "a")
    there.add("n", "b")
    ask(there, chat("x"))
    ask(there, chat("x", "o"))
    assert there.metric("distill_requests_total", how="answered", model="m", status="200") == 1
    assert there.metric("distill_requests_total", model="n") == 0
    assert there.metric("distill_replicas", model="n") == 1
    assert there.metric("distill_time_to_first_byte_seconds_count", model="m") == 1
    assert there.metric("distill_time_to_first_byte_seconds_bucket", model="m", le="+Inf") == 1
    assert there.metric("distill_connections") == 1, "the one that asks for the page"


def test_what_a_replica_counts_is_there_with_its_id(house):
    there = house("m", "n")
    there.add("m", "a")
    there.add("n", "b")
    page = httpx.get(f"{there.url}/metrics").text
    assert 'vllm:generation_tokens_total{model_name="m",replica="a"}' in page
    assert 'vllm:generation_tokens_total{model_name="n",replica="b"}' in page


@pytest.fixture
def two_fronts(house):
    """On ports of their own, each knowing the other; on Ray they share one
    (test_ray_serving.py)."""
    fronts = house(), house()
    for there, other in (fronts, fronts[::-1]):

        async def counters(front=other.front):
            return [front.counters()]

        there.front.counters_of_others = counters
        there.add("m", "a")
    return fronts


def test_whichever_front_a_scrape_meets_the_page_has_all_of_them(two_fronts, ask):
    one, two = two_fronts
    for there, count in ((one, 2), (two, 3)):
        for _ in range(count):
            ask(there, chat("x"))
    for there in two_fronts:
        for front, count in ((one, 2), (two, 3)):
            labels = {"front": front.front.id, "how": "answered"}
            assert there.metric("distill_requests_total", **labels) == count
        assert there.metric("distill_requests_total") == 5


def test_a_family_stands_once_on_the_page(two_fronts):
    page = httpx.get(f"{two_fronts[0].url}/metrics").text
    types = [line for line in page.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types)) > 5
