"""What became of the rows that were read: kept, dropped as known already, or bad."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from engine.job.spec import PromptsSpec
from engine.stages.prompts.ledger import Entry, Ledger
from engine.stages.prompts.reading import Batch
from engine.stages.prompts.rows import UNLEARNT

# an Entry
_COMPARED = (
    "prompt_id",
    "prompt_sha256",
    "answers",
    "split",
    "source_id",
    "line",
)


class Intake:
    """Sums over all batches, in the order of reading."""

    def __init__(self, spec: PromptsSpec) -> None:
        self._ledger = Ledger(spec)
        self.quarantine: list[dict[str, str | int]] = []  # places and reasons, never the content
        self.dropped: Counter[str] = Counter()
        self.rows_in = 0
        self.several = 0  # rows of several right answers
        self.unlearnt = 0  # rows with answers that are not to be learnt

    def kept(self, batch: Batch) -> pa.Table:
        """The prompts of the batch that are new."""
        self.rows_in += len(batch.table) + len(batch.bad)
        for line, reason in batch.bad:
            place: dict[str, str | int] = {"file": str(batch.path), "line": line}
            self.quarantine.append(place | {"reason": reason})
        is_new = list(self._is_new(batch))
        table = batch.table
        if not all(is_new):
            mask = pa.array(is_new, pa.bool_())
            table = table.filter(mask)
        self._count(table)
        return table

    def _is_new(self, batch: Batch) -> Iterator[bool]:
        columns = []
        for name in _COMPARED:
            column = batch.table[name]
            columns.append(column.to_pylist())
        for values in zip(*columns, strict=True):
            entry = Entry(*values)
            reason = self._ledger.reason_to_drop(entry, batch.path)
            yield reason is None
            if reason is not None:
                self.dropped[reason] += 1

    def _count(self, table: pa.Table) -> None:
        """What is usable, but may not be meant."""
        references = table["references"]
        for chunk in references.chunks:
            answers = chunk.value_lengths().to_numpy(zero_copy_only=False)
            self.several += int((answers > 1).sum())
        for meta in table["meta"].to_pylist():
            self.unlearnt += UNLEARNT in meta
