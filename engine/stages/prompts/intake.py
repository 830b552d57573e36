"""What became of the rows that were read: kept, dropped as known already, or bad."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from engine.job.spec import PromptsSpec
from engine.stages.prompts.ledger import Entry, Ledger
from engine.stages.prompts.reading import Batch
from engine.stages.prompts.rows import UNLEARNT

_COMPARED = ("prompt_id", "prompt_sha256", "answers", "split", "source_id", "line")  # an Entry


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
            self.quarantine.append({"file": str(batch.path), "line": line, "reason": reason})
        columns = [batch.table[name].to_pylist() for name in _COMPARED]
        is_new = []
        for values in zip(*columns, strict=True):
            reason = self._ledger.reason_to_drop(Entry(*values), batch.path)
            is_new.append(reason is None)
            if reason is not None:
                self.dropped[reason] += 1
        table = batch.table
        if not all(is_new):
            table = table.filter(pa.array(is_new, pa.bool_()))
        answers = pc.call_function("list_value_length", [table["references"]]).to_numpy()
        self.several += int((answers > 1).sum())
        for meta in table["meta"].to_pylist():
            self.unlearnt += UNLEARNT in meta
        return table
