"""The narrow columns of answers: what is judged of each, and the part that decisions are made by.

A driver holds them for all answers at once, so nothing here grows with a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from engine.rows.records import COMPLETION_KEY
from engine.rows.tables import read_tables
from engine.store.paths import Folder

META = "meta."
CANONICAL = [(name, "ascending") for name in COMPLETION_KEY]
# what a filter finds besides its reason: columns of CompletionVerdict, which also says what each is
_FOUND = {
    "correct": pa.bool_(),
    "checked_by": pa.string(),
    "language": pa.string(),
    "repetition": pa.float64(),
    "refusal": pa.bool_(),
    "pii": pa.list_(pa.string()),
    "contaminated_by": pa.string(),
    "coverage": pa.float64(),
    "error": pa.string(),
}
JUDGED = pa.schema(
    {
        "prompt_id": pa.int64(),
        "teacher": pa.string(),
        "sample_index": pa.int32(),
        "split": pa.string(),
        "completion_tokens": pa.int32(),
        "filter": pa.string(),
        "reason": pa.string(),
        "file": pa.int32(),  # of completions, by its number, and the row there
        "row": pa.int32(),
        "bytes": pa.int64(),  # of the example in memory
        "said": pa.uint64(),  # hash of what the answer says
        "task": pa.string(),
        "source": pa.string(),
        "answer": pa.string(),
        "label": pa.string(),
        "group": pa.string(),  # what balance counts by, of a field of the prompt's meta
        **_FOUND,
    }
)
COUNTED = ("source", "label", "language")  # the report says how many there were, and are left
_ALWAYS = ("split", "filter", "reason", "file", "row", "bytes", "error", *COUNTED)


def load_narrow(files: Iterable[Folder], columns: Sequence[str]) -> pa.Table:
    """These columns of all judged answers, in canonical order, and `place`: which row each was in
    the order of the files."""
    wanted = list(dict.fromkeys([*COMPLETION_KEY, *_ALWAYS, *columns]))
    tables = [JUDGED.empty_table().select(wanted), *read_tables(files, wanted)]
    table = pa.concat_tables(tables)
    table = table.append_column("place", pa.array(np.arange(len(table))))
    return table.sort_by(CANONICAL).combine_chunks()
