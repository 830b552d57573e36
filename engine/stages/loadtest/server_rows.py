"""What a server said of itself over levels <-> one table: its numbers as rows, and how they were
looked for as metadata. What is read back gives the same figures."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from engine.loadgen.observer import Observation, Observed
from engine.rows.records import SERVER_READING, ServerReading
from engine.rows.tables import metadata_of, to_rows, to_table

LevelKey = tuple[str, str]  # (model, level) as in the stage's other tables


def to_server_table(observed: Mapping[LevelKey, Observed]) -> pa.Table:
    """In order."""
    rows: list[ServerReading] = []
    looks: list[dict[str, Any]] = []
    for (model, level), seen in observed.items():
        rows += _readings(model, level, seen.observations)
        facts = vars(seen) | {"model": model, "level": level}
        del facts["observations"]
        looks.append(facts)
    return to_table(rows, SERVER_READING, {"looks": looks})


def _readings(model: str, level: str, observations: Iterable[Observation]) -> list[ServerReading]:
    rows = []
    for seen in observations:
        for name, value in seen.values.items():
            rows.append(ServerReading(model, level, seen.at_ms, name, value))
    return rows


def from_server_table(table: pa.Table) -> dict[LevelKey, Observed]:
    """The levels that such a table holds, in its order."""
    moments: dict[LevelKey, dict[float, dict[str, float]]] = defaultdict(dict)
    for row in to_rows(table, ServerReading):
        values = moments[row.model, row.level].setdefault(row.at_ms, {})
        values[row.name] = row.value
    observed: dict[LevelKey, Observed] = {}
    for facts in metadata_of(table)["looks"]:
        key = (facts.pop("model"), facts.pop("level"))
        seen = moments[key]
        observations = [Observation(at_ms, seen[at_ms]) for at_ms in sorted(seen)]
        observed[key] = dataclasses.replace(Observed(**facts), observations=observations)
    return observed
