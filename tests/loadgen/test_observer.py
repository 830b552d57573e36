"""The observer looks at a real server's page, and says once what it could not see."""

import socket
import ssl
import time

import pytest
from doubles.certificate import self_signed

from engine.loadgen.metrics_client import metrics_paths
from engine.loadgen.observer import Observer
from engine.loadgen.target import Target
from tests.loadgen.metrics_pages import KEY, TEXT, VllmMetrics, showing

EVERY_S = 0.01


@pytest.fixture
def shown():
    with showing() as shown:
        yield shown


def look(shown, looks, path="/v1", key=KEY):
    """What an observer saw of a server that was asked so often at least."""
    with Observer(Target(shown.url + path, "tiny", key), EVERY_S) as observer:
        shown.wait_for(looks)
    return observer.observed(time.time())


def test_it_sees_the_numbers_grow_under_the_loads_own_key(shown):
    engine = VllmMetrics()
    shown.pages["/metrics"] = (200, TEXT, engine.page())
    with Observer(Target(f"{shown.url}/v1", "tiny", KEY), EVERY_S) as observer:
        shown.wait_for(2)
        engine.answer(queue_s=0.25, prefill_s=0.5, decode_s=1.0)
        engine.running.set(3)
        shown.pages["/metrics"] = (200, TEXT, engine.page())
        shown.wait_for(len(shown.asked) + 3)
    seen = observer.observed(time.time())
    first, last = seen.observations[0], seen.observations[-1]
    assert first.values["engine_queue_s"] == 0
    assert (last.values["engine_queue_s"], last.values["running"]) == (0.25, 3)
    assert first.at_ms < last.at_ms < 0
    assert set(shown.asked) == {("/metrics", f"Bearer {KEY}")}
    assert (seen.notes, seen.missed) == ([], 0)
    assert seen.looks == len(seen.observations)
    assert seen.cpu_s > 0


def test_moments_are_those_of_the_window(shown):
    shown.pages["/metrics"] = (200, TEXT, VllmMetrics().page())
    before_s = time.time()
    with Observer(Target(f"{shown.url}/v1", "tiny"), EVERY_S) as observer:
        shown.wait_for(3)
    after_s = time.time()
    moments = [seen.at_ms for seen in observer.observed(before_s - 1.0).observations]
    assert moments == sorted(moments)
    assert 1000 <= moments[0] < moments[-1] <= 1000 + (after_s - before_s) * 1000


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ((404, "text/plain", "no"), "is not there (HTTP 404)"),
        ((401, "application/json", "{}"), "is refused to the load's own key (HTTP 401)"),
        ((403, "application/json", "{}"), "is refused to the load's own key (HTTP 403)"),
        ((200, "text/html", "<html>"), "is no metrics page (text/html)"),
    ],
)
def test_a_server_without_metrics_is_asked_once_and_said_once(shown, page, words):
    shown.pages["/metrics"] = page
    seen = look(shown, 1)
    assert len(shown.asked) == 1
    assert seen.observations == []
    assert seen.notes == [f"{shown.url}/metrics {words}: where the server's time goes is not known"]


def test_a_fault_that_passes_is_counted_and_the_next_look_sees_again(shown):
    shown.pages["/metrics"] = (503, "text/plain", "busy")
    with Observer(Target(f"{shown.url}/v1", "tiny"), EVERY_S) as observer:
        shown.wait_for(2)
        shown.pages["/metrics"] = (200, TEXT, VllmMetrics().page())
        shown.wait_for(len(shown.asked) + 3)
    seen = observer.observed(time.time())
    assert seen.missed >= 2
    assert seen.notes == [
        f"{shown.url}/metrics: {seen.missed} of {seen.looks} looks failed (HTTP 503)"
    ]
    assert len(seen.observations) == seen.looks - seen.missed


def test_nobody_there_is_no_error():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    observer = Observer(Target(f"http://127.0.0.1:{port}/v1", "tiny"), EVERY_S)
    with observer:
        deadline = time.monotonic() + 20
        while observer.observed(0.0).missed < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
    (note,) = observer.observed(0.0).notes
    assert "looks failed" in note
    assert "refused" in note


def test_a_page_of_another_kind_of_server_is_said(shown):
    shown.pages["/metrics"] = (200, TEXT, "tgi_request_count 5\n")
    assert "has none of the metrics that are known here" in look(shown, 2).notes[0]


def test_a_page_of_other_models_is_said(shown):
    page = VllmMetrics("a").page() + VllmMetrics("b").page()
    shown.pages["/metrics"] = (200, TEXT, page)
    (note,) = look(shown, 2).notes
    assert "speaks of a, b, and not of 'tiny'" in note


def test_counts_that_fall_are_doubted(shown):
    page = 'vllm:generation_tokens_total{{model_name="tiny",engine="0"}} {}\n'
    shown.pages["/metrics"] = (200, TEXT, page.format(500))
    with Observer(Target(f"{shown.url}/v1", "tiny"), EVERY_S) as observer:
        shown.wait_for(2)
        shown.pages["/metrics"] = (200, TEXT, page.format(3))
        shown.wait_for(len(shown.asked) + 3)
    (note,) = observer.observed(time.time()).notes
    assert "counts fell on 1 of" in note


def test_a_page_beside_the_api_or_at_the_root_is_found(shown):
    shown.pages["/metrics"] = (200, TEXT, VllmMetrics().page())
    seen = look(shown, 4, path="/team/v1")
    assert [path for path, _ in shown.asked[:3]] == ["/team/metrics", "/metrics", "/metrics"]
    assert seen.url == f"{shown.url}/metrics"
    assert seen.notes == []


def test_a_certificate_is_checked_as_the_loads_own(tmp_path):
    certificate, key = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with showing(context) as shown:
        shown.pages["/metrics"] = (200, TEXT, VllmMetrics().page())
        trusting = Target(f"{shown.url}/v1", "tiny", ca_file=certificate)
        with Observer(trusting, EVERY_S) as observer:
            shown.wait_for(2)
        assert observer.observed(0.0).notes == []
        doubting = Observer(Target(f"{shown.url}/v1", "tiny"), EVERY_S)
        with doubting:
            deadline = time.monotonic() + 20
            while not doubting.observed(0.0).missed and time.monotonic() < deadline:
                time.sleep(0.005)
        (note,) = doubting.observed(0.0).notes
        assert "certificate verify failed" in note


@pytest.mark.parametrize(
    ("url", "paths"),
    [
        ("http://h/v1", ["/metrics"]),
        ("http://h/", ["/metrics"]),
        ("http://h/team/v1/chat/completions", ["/team/metrics", "/metrics"]),
        ("https://h/openai?api-version=3", ["/openai/metrics", "/metrics"]),
    ],
)
def test_where_a_page_may_lie(url, paths):
    assert metrics_paths(Target(url, "tiny")) == paths


def test_it_ends_with_its_block_although_the_server_hangs():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        observer = Observer(Target(url, "tiny"), EVERY_S, timeout_s=0.2)
        with observer:
            connection, _ = listener.accept()
        connection.close()
        assert observer.observed(0.0).observations == []
        assert not observer.is_looking
