"""How dense are the lines of engine/, and how long its functions? See README.md beside this
file."""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.result import bounded, write_result

ENGINE = Path(__file__).parents[2] / "engine"
BOUNDS = {
    "function_lines_p50": 9,
    "function_lines_p90": 30,
    "function_lines_max": 80,
    "file_lines_max": 450,
    "tokens_per_code_line": 8.2,
    "comprehensions_per_100_lines": 3.0,
    "conditional_expressions_per_100_lines": 2.0,
    "percent_of_lines_with_30_tokens": 1.0,
}
DENSE = 30  # tokens
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass
class House:
    """What was counted: tokens of each code line, lines of each function and file, by place."""

    tokens: list[int] = field(default_factory=list)
    functions: dict[str, int] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    dense: list[str] = field(default_factory=list)
    comprehensions: int = 0
    conditionals: int = 0

    def figures(self) -> dict[str, float]:
        """Each figure that has a bound."""
        lengths = list(self.functions.values())
        lines = len(self.tokens)
        return {
            "function_lines_p50": float(np.percentile(lengths, 50)),
            "function_lines_p90": float(np.percentile(lengths, 90)),
            "function_lines_max": max(lengths),
            "file_lines_max": max(self.files.values()),
            "tokens_per_code_line": sum(self.tokens) / lines,
            "comprehensions_per_100_lines": 100 * self.comprehensions / lines,
            "conditional_expressions_per_100_lines": 100 * self.conditionals / lines,
            "percent_of_lines_with_30_tokens": 100 * len(self.dense) / lines,
        }


def measure(root: Path) -> House:
    """Count all Python files under `root`. A docstring and a comment are no code."""
    house = House()
    for path in sorted(root.rglob("*.py")):
        text, place = path.read_text(), str(path.relative_to(root))
        tree = ast.parse(text)
        house.files[place] = text.count("\n")
        for line, count in _tokens_by_line(text, tree).items():
            house.tokens.append(count)
            if count >= DENSE:
                house.dense.append(f"{place}:{line}")
        for node in ast.walk(tree):
            house.comprehensions += isinstance(node, _COMPREHENSIONS)
            house.conditionals += isinstance(node, ast.IfExp)
            if isinstance(node, _FUNCTIONS):
                house.functions[f"{place}:{node.lineno} {node.name}"] = _body_lines(node)
    return house


def _tokens_by_line(text: str, tree: ast.Module) -> dict[int, int]:
    """{line: tokens that start there}, without those of docstrings."""
    documented = set()
    for node in ast.walk(tree):
        for statement in _docstrings(node):
            documented |= set(range(statement.lineno, (statement.end_lineno or 0) + 1))
    counts: dict[int, int] = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line = token.start[0]
        if token.type not in _NO_CODE and line not in documented:
            counts[line] = counts.get(line, 0) + 1
    return counts


def _docstrings(node: ast.AST) -> Iterator[ast.Expr]:
    body = getattr(node, "body", [])
    for statement in body if isinstance(body, list) else []:
        is_value = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if is_value and isinstance(statement.value.value, str):
            yield statement


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From `def` to the last line, its docstring included."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def main() -> int:
    """Exit 1 if a figure misses its bound; `--list` names the places that weigh most."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--root", type=Path, default=ENGINE)
    parser.add_argument("--list", type=int, default=0, metavar="N")
    options = parser.parse_args()
    house = measure(options.root)
    for name, lengths in (("functions", house.functions), ("files", house.files)):
        longest = sorted(lengths.items(), key=lambda item: -item[1])[: options.list]
        for place, lines in longest:
            print(f"{name:<10} {lines:>5}  {place}")
    if options.list:
        print("dense", *house.dense)
    figures = house.figures()
    ratios = {name: bounded(round(figures[name], 2), "<=", most) for name, most in BOUNDS.items()}
    if options.json is None:
        for name, ratio in ratios.items():
            print(
                f"{'ok  ' if ratio['ok'] else 'MISS'} {name}: {ratio['value']} ({ratio['bound']})"
            )
        return 0 if all(ratio["ok"] for ratio in ratios.values()) else 1
    return write_result(options.json, ratios, code_lines=len(house.tokens))


if __name__ == "__main__":
    sys.exit(main())
