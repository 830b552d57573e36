"""The lines of engine/ stay as thin as benchmarks/house says."""

import pytest

from benchmarks.house.run import BOUNDS, ENGINE, measure

DENSE = {
    "x = [a + b + c + d + e + f + g + h + i + j + k + l for a in y]": "comprehensions",
    "x = 1 if y else 2": "conditional_expressions",
    "x = (a, b, c, d, e, f, g, h, i, j, k, l, m, n, o)": "percent_of_lines_with_30_tokens",
}


def test_the_house_holds_its_bounds():
    figures = measure(ENGINE).figures()
    missed = {name: figures[name] for name, most in BOUNDS.items() if figures[name] > most}
    assert not missed


@pytest.mark.parametrize("line", DENSE)
def test_a_dense_line_counts(tmp_path, line):
    (tmp_path / "dense.py").write_text(f"def f():\n    {line}\n")
    figures = measure(tmp_path).figures()
    (found,) = [value for name, value in figures.items() if name.startswith(DENSE[line])]
    assert found >= 50
