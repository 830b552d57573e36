"""Is what curate decided what it published? Verdicts against the manifest's counts, the examples,
and the completions that they are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from engine.rows.records import COMPLETION_KEY
from engine.rows.tables import read_tables
from engine.run.facts import CurateInfo
from engine.run.manifests import Manifest
from engine.store.paths import Folder

VERDICTS = "verdicts/"  # how names of their files begin
_DECIDED = (*COMPLETION_KEY, "split", "filter", "reason")


def curate_problems(folder: Folder, manifest: Manifest) -> Iterator[str]:
    """What does not add up, each with its remedy; its files were read and are whole."""
    if not any(name.startswith(VERDICTS) for name in manifest.files):
        return  # of a version that wrote none
    remedy = "make the stage again with --only curate --force"
    verdicts = _rows_of(folder, manifest, VERDICTS, _DECIDED)
    examples = _rows_of(folder, manifest, "data/", COMPLETION_KEY)
    for wrong in (*_wrong_counts(manifest, verdicts), *_wrong_keys(verdicts, examples)):
        yield f"{folder}: {wrong}; {remedy}"


def _rows_of(folder: Folder, manifest: Manifest, prefix: str, columns: tuple[str, ...]) -> pa.Table:
    files = [folder / name for name in sorted(manifest.files) if name.startswith(prefix)]
    nothing = pa.table({name: pa.nulls(0) for name in columns})
    tables = [nothing, *read_tables(files, columns)]
    return pa.concat_tables(tables, promote_options="permissive")


def _wrong_counts(manifest: Manifest, verdicts: pa.Table) -> Iterator[str]:
    info = manifest.info
    assert isinstance(info, CurateInfo)
    train = verdicts.filter(pc.field("split") == "train")
    rest = verdicts.filter(pc.field("split") != "train")
    gone = train.filter(pc.field("reason").is_valid())
    said = {
        "rows_in": manifest.rows_in,
        "rows_out": manifest.rows_out,
        "dropped": dict(manifest.dropped),
        "funnel": [left for _, left in info.funnel],
        "validation_unusable": dict(info.validation_unusable),
        "validation_examples": info.validation_examples,
    }
    unusable = rest.filter(pc.field("reason").is_valid())
    held = {
        "rows_in": len(train),
        "rows_out": len(train) - len(gone),
        "dropped": _counted(gone, "reason"),
        "funnel": _funnel(info, len(train), _counted(gone, "filter")),
        "validation_unusable": _counted(unusable, "reason"),
        "validation_examples": len(rest) - len(unusable),
    }
    for name, value in held.items():
        if said[name] != value:
            yield f"{name} is {said[name]} in the manifest and {value} by the verdicts"


def _counted(rows: pa.Table, column: str) -> dict[str, int]:
    return dict(Counter(rows[column].to_pylist()))


def _funnel(info: CurateInfo, rows_in: int, lost: Mapping[str, int]) -> list[int]:
    left = [rows_in]
    for name, _ in info.funnel[1:]:
        left.append(left[-1] - lost.get(name, 0))
    return left


def _wrong_keys(verdicts: pa.Table, examples: pa.Table) -> Iterator[str]:
    keys = list(COMPLETION_KEY)
    doubled = len(verdicts) - len(verdicts.group_by(keys).aggregate([]))
    if doubled:
        yield f"{doubled} verdicts are of a completion that has one already"
    kept = verdicts.filter(~pc.field("reason").is_valid()).select(keys)
    for name, one, other in (
        ("kept verdicts have no example", kept, examples),
        ("examples have no verdict that keeps them", examples, kept),
    ):
        alone = one.join(other, keys, join_type="left anti") if len(one) else one
        if len(alone):
            yield f"{len(alone)} {name}, e.g. prompt {alone['prompt_id'][0]}"
