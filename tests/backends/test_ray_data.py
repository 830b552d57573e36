"""The real stream with the fake teacher: replicas that die, stick and stop are replaced, and what
they say is seen from outside."""

import errno
import functools
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict

import httpx
import pytest
import ray
from conftest import statuses
from doubles import held

from engine import pipeline
from engine.asking.shards import Figures
from engine.backends import ray_data
from engine.errors import StageError, Stopped
from engine.rows.records import Completion
from engine.rows.tables import read_tables, to_rows
from engine.run.context import Context
from engine.stages import generate

pytestmark = pytest.mark.slow


@pytest.fixture
def answer(ray_cluster, fake_job, tmp_path):
    """Run generate on real replicas; returns (counts, rows). `figures` collects what the driver
    hears; `wrapped` stands around each replica's worker."""

    def run(
        count, *, figures=None, knobs=None, concurrency=16, replicas=1, wrapped=None, **changes
    ):
        teacher = {
            "name": "t",
            "kind": "fake",
            "model": "fake",
            "fake": knobs or {},
            "concurrency": concurrency,
            "replicas": replicas,
        }
        job = fake_job(count, generate={"teachers": [teacher], "part_seconds": 1.0, **changes})
        prompts = pipeline.run(job, tmp_path / "runs", until="prompts").stages["prompts"]
        out = tmp_path / "generate"
        (out / "data").mkdir(parents=True, exist_ok=True)

        def heard(shards, build, *, on_figures, **options):
            def both(said):
                (figures if figures is not None else []).append(said)
                on_figures(said)

            if wrapped:
                build = functools.partial(wrapped, build)
            return ray_data.stream(shards, build, on_figures=both, **options)

        counts = generate.run(
            job.generate, {"prompts": prompts}, out, Context("job", "math", 0), stream=heard
        )
        return counts, [
            row
            for table in read_tables([out / name for name in counts.files])
            for row in to_rows(table, Completion)
        ]

    return run


def starts(path):
    """(pid, sha256 of the prompt) of each request that was begun."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [
        (int(pid), prompt)
        for _, pid, prompt, _, event in (line.split() for line in lines)
        if event == "start"
    ]


def test_a_poison_prompt_is_one_error_row_after_three_deaths_and_its_neighbours_finish(
    answer, tmp_path
):
    knobs = {"poison": "What is 7 plus 8", "calls": str(tmp_path / "calls"), "latency_s": 0.02}
    counts, rows = answer(30, knobs=knobs, max_failed_fraction=0.1)
    (failed,) = [row for row in rows if row.status != "ok"]
    assert (failed.status, failed.error) == (
        "error",
        "its engine died 3 times while it was asked, the last time alone",
    )
    assert counts.info.status == {"ok": 37, "error": 1}
    poison = hashlib.sha256(b"What is 7 plus 8? #### 15").hexdigest()
    died = [pid for pid, prompt in starts(tmp_path / "calls") if prompt == poison]
    assert len(set(died)) == len(died) == 3
    assert [prompt for pid, prompt in starts(tmp_path / "calls") if pid == died[-1]][-1] == poison


@pytest.mark.proof
def test_each_sample_of_a_poison_prompt_ends_in_error_after_a_death_alone_whichever_replica_asks(
    answer, tmp_path
):
    knobs = {"poison": "What is 7 plus 8", "calls": str(tmp_path / "calls"), "latency_s": 0.3}
    counts, rows = answer(
        20,
        knobs=knobs,
        replicas=2,
        concurrency=8,
        sampling={"temperature": 0.8, "samples": 3},
        max_failed_fraction=0.1,
    )
    assert counts.info.status == {"ok": 20 * 3 + 8 - 3, "error": 3}
    assert len({(row.prompt_id, row.sample_index) for row in rows}) == len(rows) == 68
    failed = [row for row in rows if row.status == "error"]
    assert len({row.prompt_id for row in failed}) == 1
    assert [row.error for row in failed] == [
        "its engine died 3 times while it was asked, the last time alone"
    ] * 3
    assert {row.attempt for row in failed} == {4}
    assert max(row.attempt for row in rows if row.status == "ok") <= 3
    open_at_death = defaultdict(set)
    for _, pid, prompt, seed, event in map(
        str.split, (tmp_path / "calls").read_text().splitlines()
    ):
        (open_at_death[pid].add if event == "start" else open_at_death[pid].discard)((prompt, seed))
    poison = hashlib.sha256(b"What is 7 plus 8? #### 15").hexdigest()
    deaths = [left for left in open_at_death.values() if left]
    assert all({(poison, str(row.seed))} in deaths for row in failed), (
        "each sample had an engine to itself when it died"
    )
    assert 3 < len(deaths) <= 9, "samples of a shard share their earlier deaths"


@pytest.mark.proof
def test_an_engine_that_takes_no_step_is_replaced(answer, tmp_path):
    calls = tmp_path / "calls"
    counts, rows = answer(
        12,
        knobs={"stuck": "What is 7 plus 8", "calls": str(calls)},
        request_timeout_s=4.0,
        max_failed_fraction=0.1,
    )
    assert counts.info.status == {"ok": 19, "error": 1}
    (failed,) = [row for row in rows if row.status == "error"]
    assert "its engine died 3 times" in failed.error
    assert len({pid for pid, _ in starts(calls)}) >= 3


def test_a_replica_that_falls_silent_is_ended_and_its_rows_are_answered_by_the_next(
    answer, tmp_path
):
    calls, stopped = tmp_path / "calls", []

    def stop():
        while len(starts(calls)) < 20:
            time.sleep(0.05)
        time.sleep(1.5)  # it has told the board that it lives
        stopped.append(starts(calls)[0][0])
        os.kill(stopped[0], signal.SIGSTOP)

    stopper = threading.Thread(target=stop, daemon=True)
    stopper.start()
    counts, _ = answer(
        60, knobs={"calls": str(calls), "latency_s": 0.5}, concurrency=8, request_timeout_s=5.0
    )
    stopper.join()
    assert counts.info.status == {"ok": 68}
    pids = [pid for pid, _ in starts(calls)]
    assert set(pids) == {stopped[0], pids[-1]} != {stopped[0]}
    with pytest.raises(ProcessLookupError):
        os.kill(stopped[0], 0)


def test_a_deadline_shorter_than_a_beat_ends_no_replica(answer, tmp_path):
    calls = tmp_path / "calls"
    counts, _ = answer(
        20,
        knobs={"calls": str(calls), "latency_s": 5.0},
        concurrency=1,
        request_timeout_s=0.15,
        max_failed_fraction=1.0,
    )
    assert counts.info.status == {"error": 28}
    assert len(starts(calls)) == 28, "each was asked once"
    assert len({pid for pid, _ in starts(calls)}) == 1


def test_neither_a_node_that_left_nor_a_full_disk_ends_the_watch_over_the_other_replicas(
    ray_cluster,
):
    def heard(said):
        figures.append(said)
        if len(figures) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    board = ray.remote(num_cpus=0)(ray_data._Board).remote()
    sleeper = subprocess.Popen(["sleep", "600"])
    figures = []
    ray.get(
        [
            board.begin.remote("gone", 2**22 + 1, "a" * 56),
            board.tell.remote("gone", 2**22 + 1, Figures(rows=5, committed=3, statuses={"ok": 3})),
            board.begin.remote("here", sleeper.pid, ray.get_runtime_context().get_node_id()),
            board.built.remote("here", sleeper.pid),
            board.tell.remote("here", sleeper.pid, Figures(rows=1)),
            board.built.remote("gone", 2**22 + 1),
        ]
    )
    try:
        with ray_data._watched(board, 2.0, 600.0, heard):
            assert sleeper.wait(60) == -signal.SIGKILL
            deadline = time.monotonic() + 20
            while figures[-1].rows != 3 and time.monotonic() < deadline:
                time.sleep(0.1)
    finally:
        sleeper.kill()
        sleeper.wait()
    assert (figures[0].rows, figures[0].committed, figures[0].statuses) == (6, 3, {"ok": 3})
    assert (figures[-1].rows, figures[-1].statuses) == (3, {"ok": 3}), (
        "of a replica that is gone only what it had committed counts"
    )


def test_a_replica_that_hangs_while_it_starts_is_ended_and_one_that_waits_for_a_shard_is_not(
    ray_cluster,
):
    board, here = (
        ray.remote(num_cpus=0)(ray_data._Board).remote(),
        ray.get_runtime_context().get_node_id(),
    )
    starting, waiting = (subprocess.Popen(["sleep", "600"]) for _ in range(2))
    ray.get(
        [
            board.begin.remote("waiting", waiting.pid, here),
            board.built.remote("waiting", waiting.pid),
            board.begin.remote("starting", starting.pid, here),
        ]
    )
    try:
        with ray_data._watched(board, 2.0, 2.0, lambda said: None):
            assert starting.wait(60) == -signal.SIGKILL
            time.sleep(2)
            assert waiting.poll() is None
    finally:
        for sleeper in (starting, waiting):
            sleeper.kill()
            sleeper.wait()


@pytest.mark.parametrize(
    ("knob", "message"),
    [
        ("dies_at_start", "its process died while the engine started"),
        ("cannot_start", "RuntimeError: the fake teacher was told not to start"),
    ],
)
def test_an_engine_that_cannot_start_ends_the_job_with_a_clear_message(answer, knob, message):
    with pytest.raises(StageError, match=rf"(?s)model 't' \(fake\).*{message}"):
        answer(8, knobs={knob: True})


def test_a_running_job_is_seen_by_its_driver_by_status_and_by_prometheus(
    fake_job, ray_cluster, tmp_path
):
    teacher = {
        "name": "watched",
        "kind": "fake",
        "model": "fake",
        "fake": {"latency_s": 0.8},
        "concurrency": 12,
        "replicas": 2,
    }
    short = {"temperature": 0.0, "max_tokens": 9}
    job = fake_job(
        4000, name="seen", generate={"teachers": [teacher], "part_seconds": 1.0, "sampling": short}
    )
    seen, metrics, failures = [], {}, []
    port = ray.nodes()[0]["MetricsExportPort"]

    def look():
        try:
            until = time.monotonic() + 120
            while time.monotonic() < until and not (
                any("tok/s" in rest and "truncated" in rest for _, rest in seen)
                and {"rows_truncated", "tokens_out"} <= metrics.keys()
            ):
                command = [
                    sys.executable,
                    "-m",
                    "engine.cli",
                    "status",
                    str(tmp_path / "runs/seen"),
                ]
                said = subprocess.run(
                    command,
                    capture_output=True,
                    text=True,
                    env=os.environ | {"COLUMNS": "240"},
                    check=True,
                ).stdout
                if line := re.search(r"generate .*running.* ([\d,]+)/4,000 rows(.*)", said):
                    seen.append((int(line[1].replace(",", "")), line[2]))
                for name, tags, value in re.findall(
                    r"^\w*distill_(\w+?)(?:_total)?\{(.*)\} ([\d.e+]+)$",
                    httpx.get(f"http://127.0.0.1:{port}/metrics").text,
                    re.MULTILINE,
                ):
                    if 'job="seen"' in tags and 'teacher="watched"' in tags:
                        metrics[name] = float(value)
        except BaseException as error:  # noqa: BLE001 - the test's own thread must see it
            failures.append(error)
        os.kill(os.getpid(), signal.SIGINT)  # all that was wanted was seen

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    with pytest.raises(Stopped):
        pipeline.run(job, tmp_path / "runs", until="generate")
    watcher.join()
    assert not failures
    (folder,) = (tmp_path / "runs/seen").glob("2-generate-*")
    answered = statuses(folder)
    assert set(answered.values()) == {"truncated"}
    counts = [done for done, _ in seen]
    assert counts == sorted(counts)
    assert 0 < counts[-1] <= len(answered)
    assert any("tok/s" in rest and "truncated" in rest and "open" in rest for _, rest in seen), seen
    assert {"rows", "rows_truncated", "tokens_in", "tokens_out", "open"} <= metrics.keys(), metrics
    assert 0 < metrics["tokens_out"] <= 9 * len(answered)


def test_the_driver_hears_rows_statuses_tokens_and_what_is_open_while_it_runs(answer):
    figures = []
    answer(60, figures=figures, knobs={"latency_s": 0.5}, concurrency=8, replicas=2)
    heard = [said for said in figures if said.rows]
    assert heard
    rows = [said.rows for said in heard]
    assert rows == sorted(rows)
    assert rows[-1] <= 68
    assert any(said.open > 0 for said in heard)
    for said in heard:
        assert said.statuses.get("ok", 0) == said.committed <= said.rows
        assert said.tokens_in >= said.rows * len("What is 0 plus 1? #### 1")
        assert said.tokens_out == said.tokens_in + said.rows  # the same words and an end mark


def test_replicas_share_the_shards_and_every_row_comes_back_once(answer, tmp_path):
    """The first to be ready waits here for the other, with all the shards that it gets."""
    ray.cloudpickle.register_pickle_by_value(held)
    calls, says = tmp_path / "calls", tmp_path / "says"
    says.mkdir()
    counts, _ = answer(
        200,
        knobs={"calls": str(calls), "latency_s": 0.05},
        concurrency=4,
        replicas=2,
        wrapped=functools.partial(held.Held, folder=says, replicas=2),
    )
    assert counts.info.status == {"ok": 208}
    assert len(starts(calls)) == len({prompt for _, prompt in starts(calls)}) == 208
    by_pid = Counter(pid for pid, _ in starts(calls))
    assert len(by_pid) == 2
    assert min(by_pid.values()) > 30, "the first to be ready took everything"


def test_an_interrupt_keeps_what_every_replica_had_open_and_the_same_call_asks_only_the_rest(
    answer, tmp_path
):
    calls = tmp_path / "calls"
    knobs = {"calls": str(calls), "latency_s": 0.5}

    def interrupt():
        while len(starts(calls)) < 40 or len({pid for pid, _ in starts(calls)}) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(
        Stopped,
        match=r"model 't' \(fake\): interrupted; what was answered is kept, and the"
        r" same command resumes",
    ):
        answer(200, knobs=knobs, replicas=2, concurrency=8)
    asked = len(starts(calls))
    assert 40 <= asked < 200
    assert len(statuses(tmp_path / "generate")) == asked
    counts, _ = answer(200, knobs=knobs, replicas=2, concurrency=8)
    assert counts.info.status == {"ok": 208}
    assert len(starts(calls)) == 208
