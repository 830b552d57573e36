"""The form in which benchmarks write what they saw."""

import json

import pytest

from benchmarks.result import bounded, run_parts


def test_a_part_that_fails_takes_nothing_with_it(tmp_path):
    def found():
        return {"a": bounded(2.0, ">=", 1)}, {"seen": 5}

    def fails():
        raise RuntimeError("no disk")

    target = tmp_path / "results/x.json"
    with pytest.raises(RuntimeError, match="no disk"):
        run_parts(target, {"one": [found], "two": [fails]}, data="made up")
    told = json.loads(target.read_text())
    assert (told["ratios"]["a"]["ok"], told["raw"], told["data"]) == (True, {"seen": 5}, "made up")
    assert list(told["took_s"]) == ["one"]


@pytest.mark.parametrize(("value", "status"), [(2.0, 0), (0.5, 1)])
def test_a_miss_is_the_exit_status(tmp_path, capsys, value, status):
    parts = {"one": [lambda: ({"a": bounded(value, ">=", 1)}, {})]}
    assert run_parts(tmp_path / "x.json", parts) == status
    assert ("MISS" in capsys.readouterr().out) == bool(status)
