"""Work that is done side by side, and once: each order leaves files, and a receipt that names them.

What an earlier run finished is kept: a receipt whose files are there, whole, is not worked for
again, if it was made of the same decisions: a judge's late reply changes those between two runs.
So a kill costs the orders that were open. It knows neither what is ordered nor who works.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import pyarrow as pa
from pydantic import BaseModel

from engine.backends.processes import Spread
from engine.rows.tables import parquet_bytes
from engine.run.manifests import FileEntry
from engine.store.files import publish_durable, write_atomic
from engine.store.paths import Folder, file_sizes


class Order(Protocol):
    """A piece of work; its name is one of its pass."""

    @property
    def name(self) -> str: ...


class Made(BaseModel):
    """The files of an order by their name in the stage's folder, and what else is to be known."""

    files: dict[str, FileEntry] = {}
    told: dict[str, Any] = {}
    basis: str = ""
    """Of which decisions it was made, as of `make_all`."""


def make_all(
    work: Callable[[Any], Made],
    orders: Sequence[Order],
    out: Folder,
    *,
    receipts: str,
    basis: str,
    spread: Spread,
    on_made: Callable[[Made], None],
) -> list[Made]:
    """What was made of each order, in order; receipts lie in `out`/`receipts`. `basis` is a digest
    of what else than the stage's inputs decides the results; '' where nothing does."""
    folder = out / receipts
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, Made] = {}
    for order in orders:
        earlier = _earlier(folder / f"{order.name}.json", out)
        if earlier is not None and earlier.basis == basis:
            made[order.name] = earlier
            on_made(earlier)
    missing = [order for order in orders if order.name not in made]
    results = spread(partial(_make, work, folder, basis), missing)
    for order, result in zip(missing, results, strict=True):
        made[order.name] = result
        on_made(result)
    return [made[order.name] for order in orders]


def _make(work: Callable[[Any], Made], folder: Folder, basis: str, order: Order) -> Made:
    made = work(order).model_copy(update={"basis": basis})
    write_atomic(folder / f"{order.name}.json", made.model_dump_json())
    return made


def _earlier(receipt: Folder, out: Folder) -> Made | None:
    """What an earlier run made; None where its receipt or a file is missing or torn."""
    if not receipt.exists():
        return None
    try:
        made = Made.model_validate_json(receipt.read_text())
    except ValueError:
        return None
    return made if _is_whole(made.files, out) else None


def _is_whole(files: Mapping[str, FileEntry], out: Folder) -> bool:
    sizes = file_sizes(out, files)
    return all(sizes.get(name) == entry.size_bytes for name, entry in files.items())


def publish_table(table: pa.Table, out: Folder, name: str) -> FileEntry:
    """Write a Parquet file that appears whole; what a manifest says of it."""
    return publish_bytes(parquet_bytes(table), len(table), out, name)


def publish_bytes(data: pa.Buffer, rows: int, out: Folder, name: str) -> FileEntry:
    """The same of any file."""
    path = out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    publish_durable(path, data)
    return FileEntry(rows=rows, size_bytes=data.size, sha256=digest_of(data))


def digest_of(data: pa.Buffer) -> str:
    """The sha256 of a file's bytes, in hex."""
    return hashlib.sha256(data).hexdigest()
