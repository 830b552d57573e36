"""Rows of a user."""

import json

import pytest


@pytest.fixture
def rows(tmp_path):
    """A file of 40 rows of arithmetic with a column that some job may route by."""

    def write(name="rows.jsonl", words=5, count=40):
        path = tmp_path / name
        with path.open("w") as file:
            for n in range(count):
                question = " ".join([f"What is {n} plus 1?"] + ["word"] * words)
                row = {
                    "prompt": question,
                    "reference": str(n + 1),
                    "language": "en" if n % 2 else "de",
                }
                file.write(json.dumps(row) + "\n")
        return path

    return write
