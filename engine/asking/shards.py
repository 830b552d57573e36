"""What travels between the driver and a replica: shards there, receipts and figures back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Range = tuple[int, int, int]  # rows from, to (exclusive) of a prompt file, and the sample of each


@dataclass(frozen=True)
class Shard:
    """A scheduling unit: ranges of rows of one prompt file (by its number), `count` rows in all."""

    id: str
    file: int = 0
    count: int = 0
    ranges: tuple[Range, ...] = ()

    @property
    def only_opens(self) -> bool:
        """Whether nothing is asked: the engine opens, and a refused key shows."""
        return not self.ranges

    def rows(self) -> tuple[list[int], list[int]]:
        """Row numbers in the prompt file, and the sample of each."""
        rows: list[int] = []
        samples: list[int] = []
        for start, stop, sample in self.ranges:
            rows += range(start, stop)
            samples += [sample] * (stop - start)
        return rows, samples


OPENING = Shard("open")


@dataclass(frozen=True)
class Receipt:
    """A shard whose rows are visible now; times are seconds since the epoch, tokens generated
    ones. `replica` is a name of whoever answered, new at each start of one."""

    shard: str
    rows: int
    tokens: int
    started: float
    finished: float
    over_budget: bool = False
    replica: str = ""


@dataclass(frozen=True)
class Figures:
    """How far a replica, or all of them together, is."""

    rows: int = 0  # answered, committed or not
    committed: int = 0
    open: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    statuses: Mapping[str, int] = field(default_factory=dict)  # of committed rows
    client: Mapping[str, float] = field(default_factory=dict)  # what an API's client says of itself
    notes: tuple[str, ...] = ()  # what is waited for, for people

    def by_name(self) -> dict[str, float]:
        """All of them under one name each, for metrics; those of an API only where there is one."""
        named: dict[str, float] = {
            "rows": self.rows,
            "committed": self.committed,
            "open": self.open,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "cost_usd": self.cost_usd,
        }
        for status, rows in self.statuses.items():
            named[f"rows_{status}"] = rows
        return named | dict(self.client)

    def of_the_dead(self) -> Figures:
        """What still counts when the process is gone: only what it had committed."""
        return Figures(rows=self.committed, committed=self.committed, statuses=self.statuses)


def sum_of(figures: Iterable[Figures]) -> Figures:
    """Figures of several replicas together."""
    sums: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    client: Counter[Any] = Counter()
    notes: list[str] = []
    for one in figures:
        for name in ("rows", "committed", "open", "tokens_in", "tokens_out", "cost_usd"):
            sums[name] += getattr(one, name)
        statuses.update(one.statuses)
        client.update(one.client)
        notes += one.notes
    return Figures(**sums, statuses=statuses, client=client, notes=tuple(notes))
