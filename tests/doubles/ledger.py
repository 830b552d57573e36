"""The table of narrow columns by hand."""

import numpy as np
import pyarrow as pa

_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.int64()),
        ("teacher", pa.string()),
        ("sample_index", pa.int32()),
        ("task", pa.string()),
        ("answer", pa.string()),
        ("correct", pa.bool_()),
        ("score", pa.float64()),
        ("completion_tokens", pa.int32()),
        ("label", pa.string()),
        ("source", pa.string()),
        ("language", pa.string()),
        ("reason", pa.string()),
    ]
)


def ledger(*rows, **same):
    """One row per mapping. `p`, `t` and `s` are the key; without `s`, a prompt's rows are its
    samples as they come. `same` is what all rows have in common."""
    taken = {}
    filled = []
    for row in rows:
        row = {"t": "big", "task": "math"} | same | row
        key = row.pop("p", 1), row.pop("t")
        sample = row.pop("s", taken.get(key, 0))
        taken[key] = sample + 1
        filled.append({"prompt_id": key[0], "teacher": key[1], "sample_index": sample} | row)
    more = sorted({name for row in filled for name in row} - set(_SCHEMA.names))
    schema = pa.schema([*_SCHEMA, *((name, pa.string()) for name in more)])
    return pa.Table.from_pylist(filled, schema)


def is_independent_of_order(rule, table):
    """Whether each row has the same reason in five orders, and in several chunks."""
    given = rule(table).to_pylist()
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(table))
        mixed = table.take(order)
        half = len(table) // 2
        mixed = pa.concat_tables([mixed.slice(0, half), mixed.slice(half)])
        if rule(mixed).to_pylist() != [given[at] for at in order]:
            return False
    return True
