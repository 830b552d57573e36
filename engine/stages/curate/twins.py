"""Near duplicates over all groups: keys in the first pass, one task per band in the second, then
exact verification of the candidates alone.

What is compared is engine/curation's; here is where it happens. The driver holds pairs of row
numbers. Texts are read where they lie, and only those of candidates twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from engine.backends.processes import Spread
from engine.curation.minhash import BANDS, band_keys
from engine.curation.near_duplicates import (
    Twins,
    candidate_pairs,
    clusters,
    jaccards,
    twins,
    united,
)
from engine.curation.shingles import Hashes, each_once, shingles_of
from engine.job.spec import NearDuplicatesSpec
from engine.rows.records import Completion, Prompt
from engine.rows.tables import completed, read_tables
from engine.rows.tools import spelled
from engine.stages.curate.groups import Group
from engine.stages.curate.making import Made, make_all, publish_table
from engine.stages.curate.prompts_by_id import Prompts, in_slices
from engine.store.paths import Folder

PAIRS_AT_A_TIME = 200_000  # the shingles of their rows are in memory together
LIKE = 0.5  # Jaccard from which two examples are counted as one cluster
_TEXT = pa.schema({"prompt_id": pa.int64(), "text": pa.string(), "tool_calls": pa.string()})
_TEXTS: dict[str, Callable[[str, str], str]] = {
    "example": lambda asked, said: f"{asked}\n{said}",
    "answer": lambda asked, said: said,
    "prompt": lambda asked, said: asked,
}


@dataclass
class KeysOf:
    """Gathers the band keys of answers that stay, with their row among all that are added."""

    spec: NearDuplicatesSpec | None
    _rows: int = 0
    _at: list[np.ndarray] = field(default_factory=list)
    _keys: list[np.ndarray] = field(default_factory=list)

    @property
    def wanted(self) -> bool:
        """Whether near duplicates are looked for."""
        return self.spec is not None

    def add(
        self, answers: Sequence[Completion], prompts: Sequence[Prompt], dropped: Sequence[bool]
    ) -> None:
        """Training answers, with their prompts and whether they are gone already."""
        first = self._rows
        self._rows += len(answers)
        if self.spec is None:
            return
        at = []
        texts = []
        for row, answer in enumerate(answers):
            if answer.split == "train" and not dropped[row]:
                at.append(first + row)
                texts.append(_text_of(self.spec, prompts[row], answer.said))
        keys = band_keys(shingles_of(pa.array(texts, pa.string())))
        self._at.append(np.array(at, np.int64))
        self._keys.append(keys)

    def table(self) -> pa.Table:
        """A column of each band, and `at`."""
        keys = np.concatenate([np.zeros((0, BANDS), np.uint64), *self._keys])
        columns = {"at": np.concatenate([np.zeros(0, np.int64), *self._at])}
        for band in range(BANDS):
            columns[_band(band)] = keys[:, band]
        return pa.table(columns)


def _band(number: int) -> str:
    return f"band_{number:02d}"


def _text_of(spec: NearDuplicatesSpec, prompt: Prompt, said: str) -> str:
    """The last message is what the answer is to: what came before it is shared by all turns of a
    dialogue."""
    return _TEXTS[spec.of](prompt.messages[-1]["content"], said)


@dataclass(frozen=True)
class Finding:
    """Where near duplicates are looked for."""

    spec: NearDuplicatesSpec
    groups: Sequence[Group]
    starts: np.ndarray  # of each group among all judged rows, (groups + 1,)
    prompts: Prompts
    out: Folder
    spread: Spread
    basis: str = ""  # which rows are alive, and how they rank


@dataclass(frozen=True)
class Alike:
    """Twins, by row of the table that was looked through, and the cluster of each of its rows."""

    twins: Twins
    clusters: np.ndarray


def find_twins(finding: Finding, table: pa.Table, rank: np.ndarray) -> Alike:
    """Among the rows of `table` (with prompt_id, place, file, row), those that go for one of
    another prompt that stays; lower rank stays."""
    place = table["place"].to_numpy()
    row_of_place = np.full(int(finding.starts[-1]), -1, np.int64)
    row_of_place[place] = np.arange(len(table))
    alive = pa.table({"row": row_of_place})
    ranked = pa.table({"rank": rank, "prompt_id": table["prompt_id"]})
    digests = []
    for name, told in (("alive", alive), ("rank", ranked)):
        digests.append(publish_table(told, finding.out, f"work/{name}.parquet").sha256)
    finding = replace(finding, basis=" ".join(digests))
    pairs = _candidates(finding)
    similar = _verified(finding, table, pairs)
    found = twins(pairs, similar, rank, finding.spec.jaccard)
    return Alike(found, clusters(pairs[similar >= LIKE], len(table)))


@dataclass(frozen=True)
class _Band:
    name: str
    out: Folder
    groups: tuple[str, ...]
    starts: np.ndarray


def _candidates(finding: Finding) -> np.ndarray:
    """Pairs of rows (P, 2) of different prompts that share a key of any band, each once."""
    names = tuple(group.name for group in finding.groups)
    orders = [_Band(_band(band), finding.out, names, finding.starts) for band in range(BANDS)]
    files = [finding.out / name for name in _make(finding, _pairs_of_band, orders, "bands")]
    return united(_pairs_in(table) for table in read_tables(files))


def _pairs_in(table: pa.Table) -> np.ndarray:
    return np.stack([table["one"].to_numpy(), table["other"].to_numpy()], 1)


def _pairs_of_band(order: _Band) -> Made:
    (alive,) = read_tables([order.out / "work/alive.parquet"])
    (ranked,) = read_tables([order.out / "work/rank.parquet"])
    row_of_place = alive["row"].to_numpy()
    rows = [np.zeros(0, np.int64)]
    keys = [np.zeros(0, np.uint64)]
    files = [order.out / f"work/keys/{name}.parquet" for name in order.groups]
    for start, table in zip(order.starts, read_tables(files, ["at", order.name]), strict=False):
        mine = row_of_place[start + table["at"].to_numpy()]
        rows.append(mine[mine >= 0])
        keys.append(table[order.name].to_numpy()[mine >= 0])
    row = np.concatenate(rows)
    pairs = row[candidate_pairs(np.concatenate(keys), ranked["rank"].to_numpy()[row])]
    # here, because samples of one prompt are alike: the driver would hold mostly their pairs
    prompt_ids = ranked["prompt_id"].to_numpy()[pairs]
    pairs = pairs[prompt_ids[:, 0] != prompt_ids[:, 1]]
    table = pa.table({"one": pairs[:, 0], "other": pairs[:, 1]})
    name = f"work/pairs/{order.name}.parquet"
    return Made(files={name: publish_table(table, order.out, name)})


@dataclass(frozen=True)
class _Candidates:
    group: Group
    spec: NearDuplicatesSpec
    prompts: Prompts
    out: Folder
    rows: np.ndarray  # of the table, and where they lie
    file: np.ndarray
    row_in_file: np.ndarray

    @property
    def name(self) -> str:
        return self.group.name


@dataclass(frozen=True)
class _Pairs:
    name: str
    out: Folder
    files: tuple[str, ...]
    pairs: np.ndarray


def _verified(finding: Finding, table: pa.Table, pairs: np.ndarray) -> np.ndarray:
    """The exact Jaccard (P,) of each pair."""
    group_of_place = np.searchsorted(finding.starts, table["place"].to_numpy(), side="right") - 1
    rows = each_once(pairs)
    of_row = group_of_place[rows]
    orders = []
    for number, group in enumerate(finding.groups):
        mine = rows[of_row == number]
        if not len(mine):
            continue
        where = (table["file"].to_numpy()[mine], table["row"].to_numpy()[mine])
        orders.append(_Candidates(group, finding.spec, finding.prompts, finding.out, mine, *where))
    files = {}
    for order, file in zip(orders, _make(finding, _shingle, orders, "shingles"), strict=True):
        files[order.name] = file
    chunks = []
    for start in range(0, len(pairs), PAIRS_AT_A_TIME):
        some = pairs[start : start + PAIRS_AT_A_TIME]
        numbers = np.unique(group_of_place[each_once(some)])
        read = tuple(files[finding.groups[number].name] for number in numbers)
        chunks.append(_Pairs(f"{len(chunks):05d}", finding.out, read, some))
    similar = [np.zeros(0)]
    for file in _make(finding, _jaccards, chunks, "verified"):
        (told,) = read_tables([finding.out / file])
        similar.append(told["jaccard"].to_numpy())
    return np.concatenate(similar)


def _shingle(order: _Candidates) -> Made:
    """The shingles of a group's candidates."""
    rows = [np.zeros(0, np.int64)]
    values: list[np.ndarray] = [np.zeros(0, np.uint64)]
    lengths = [np.zeros(0, np.int64)]
    for number in np.unique(order.file):
        mine = np.flatnonzero(order.file == number)
        file = order.group.files[number - order.group.first]
        (stored,) = read_tables([file], _TEXT.names, optional=["tool_calls"])
        texts = _texts(order, stored.take(order.row_in_file[mine]))
        hashes = shingles_of(pa.array(texts, pa.string()))
        rows.append(order.rows[mine])
        values.append(hashes.values)
        lengths.append(np.diff(hashes.starts))
    ends = np.cumsum(np.concatenate(lengths))
    offsets = np.concatenate([[0], ends])
    listed = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(values)))
    table = pa.table({"row": np.concatenate(rows), "shingles": listed})
    name = f"work/shingles/{order.name}.parquet"
    return Made(files={name: publish_table(table, order.out, name)})


def _texts(order: _Candidates, answers: pa.Table) -> list[str]:
    texts = []
    for some in in_slices(completed(answers, _TEXT)):
        prompts = order.prompts.of(some)
        for told, prompt in zip(some.to_pylist(), prompts, strict=True):
            said = spelled(told["text"], told["tool_calls"])
            texts.append(_text_of(order.spec, prompt, said))
    return texts


def _jaccards(order: _Pairs) -> Made:
    rows = each_once(order.pairs)
    tables = []
    for table in read_tables([order.out / name for name in order.files]):
        is_wanted = np.isin(table["row"].to_numpy(), rows)  # of all rows: gigabytes
        tables.append(table.filter(pa.array(is_wanted)))
    table = pa.concat_tables(tables).sort_by("row").combine_chunks()
    listed = table["shingles"].combine_chunks()
    hashes = Hashes(listed.offsets.to_numpy(), listed.values.to_numpy())
    at = np.searchsorted(table["row"].to_numpy(), order.pairs)
    similar = pa.table({"jaccard": jaccards(at, hashes)})
    name = f"work/jaccards/{order.name}.parquet"
    return Made(files={name: publish_table(similar, order.out, name)})


def _make(finding: Finding, work: Callable, orders: Sequence, receipts: str) -> list[str]:
    """The one file that was made of each order."""
    made = make_all(
        work,
        orders,
        finding.out,
        receipts=f"work/receipts/{receipts}",
        basis=finding.basis,
        spread=finding.spread,
        on_made=lambda _: None,
    )
    return [next(iter(one.files)) for one in made]
