import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from engine.backends import math_verifier

TOWER = ("1", "9^{9^{9^{9}}}")
# They want more than 64 MB long before a minute is over.
GREEDY = [("1", r"\sum_{k=1}^{200000} \frac{1}{k}"), ("2^{10^9}", "1")]


def processes_of(parent: int) -> set[int]:
    """Numbers of its children that are workers."""
    command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(parent)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = told.stdout.splitlines()
    return {int(line.split()[0]) for line in lines if "math_worker.py" in line}


@pytest.fixture(scope="module")
def algebra():
    with math_verifier.opened(workers=1, deadline_s=1.0) as opened:
        yield opened


def test_equal_expressions_are_the_same_and_others_are_not(algebra):
    pairs = [
        ("x^2+1", "1+x^2"),
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
        ("1024", "2^{10}"),
        ("x^2+1", "x^2-1"),
        ("2", r"\sqrt{3}"),
    ]
    assert algebra(pairs) == [True, True, True, False, False]
    assert algebra([]) == []


def test_a_pair_that_does_not_end_is_no_verdict_and_the_next_ones_have_theirs(algebra):
    assert algebra([("1", "1"), TOWER, ("2", "2"), TOWER, ("3", "3")]) == [
        True,
        None,
        True,
        None,
        True,
    ]


def test_what_wants_all_memory_is_no_verdict():
    with math_verifier.opened(workers=1, deadline_s=60.0, memory_bytes=64 * 2**20) as algebra:
        assert algebra([*GREEDY, ("4", "4")]) == [None, None, True]


def test_a_gold_answer_that_cannot_be_read_is_no_verdict(algebra):
    assert algebra([(r"\frac{", "1")]) == [None]


def test_texts_that_no_answer_is_as_long_as_are_not_parsed(algebra):
    long = "1+" * math_verifier.MOST_CHARACTERS
    assert algebra([(long, "1"), ("1", "1")]) == [None, True]


def test_many_pairs_come_back_in_their_order():
    pairs = [(str(number), str(number // 2 * 2)) for number in range(300)]
    with math_verifier.opened(workers=2) as algebra:
        assert algebra(pairs) == [number % 2 == 0 for number in range(300)]


def test_a_worker_that_somebody_killed_is_replaced():
    before = processes_of(os.getpid())
    with math_verifier.opened(workers=1) as algebra:
        assert algebra([("1", "1")]) == [True]
        (worker,) = processes_of(os.getpid()) - before
        os.killpg(worker, signal.SIGKILL)
        assert algebra([("1", "1"), ("2", "2")])[-1] is True


def test_no_process_is_left_behind():
    before = processes_of(os.getpid())
    with math_verifier.opened(workers=2) as algebra:
        algebra([("1", "1")] * 200)
        assert len(processes_of(os.getpid())) == len(before) + 2
    assert processes_of(os.getpid()) == before


def test_a_pair_has_its_time_whoever_works_beside_it():
    """The deadline is of the processor: a process that gets none for longer goes on."""
    before = set(psutil.Process().children(recursive=True))
    with (
        math_verifier.opened(workers=1, deadline_s=4.0) as algebra,
        ThreadPoolExecutor(1) as threads,
    ):
        assert algebra([("1", "1")]) == [True]
        started = set(psutil.Process().children(recursive=True)) - before
        (second,) = [each for each in started if each.parent() in started]
        asked = threads.submit(algebra, [TOWER, ("2", "2")])
        time.sleep(0.3)
        second.suspend()
        time.sleep(4.5)
        second.resume()
        time.sleep(0.2)
        assert second.is_running()
        assert second.status() != psutil.STATUS_ZOMBIE
        assert asked.result(120) == [None, True]
        psutil.wait_procs([second], timeout=30)
        assert not second.is_running()


def test_no_process_outlives_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "asks.py"
    script.write_text(
        "from engine.backends import math_verifier\n"
        "with math_verifier.opened(workers=1, deadline_s=2.0) as algebra:\n"
        "    print(algebra([('1', '1')]), flush=True)\n"
        f"    algebra([{TOWER!r}])\n"
    )
    root = Path(math_verifier.__file__).parents[2]
    asking = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert asking.stdout is not None
    assert asking.stdout.readline() == "[True]\n"
    (worker,) = processes_of(asking.pid)
    asking.kill()
    asking.wait()
    waited_until = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and time.monotonic() < waited_until:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()
