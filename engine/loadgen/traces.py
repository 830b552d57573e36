"""A trace of real requests: when each came, and how long it and its answer were, or its text.

CSV and JSONL (pyarrow's readers), with the columns' names of published traces.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from engine.errors import InputError
from engine.rows.records import Messages

# In lower case, without _ - and spaces.
_MS = "timestampms"
_TIMES = ("timestamp", "timestamps", "time", "arrivedat", "arrivaltime", _MS)
_INPUTS = ("inputtokens", "inputlength", "contexttokens", "requesttokens", "prompttokens")
_OUTPUTS = ("outputtokens", "outputlength", "generatedtokens", "responsetokens", "completiontokens")
_TEXTS = ("messages", "prompt", "text")
_NAMES = "timestamp, input_tokens, output_tokens; prompt or messages for their text"


@dataclass(frozen=True)
class Trace:
    """Requests in the order in which they came; times in seconds after the first."""

    times_s: np.ndarray
    input_tokens: np.ndarray | None = None
    output_tokens: np.ndarray | None = None
    prompts: list[Messages] = field(default_factory=list)  # empty: its texts are not known


def load_trace(path: Path, unit_s: float | None = None) -> Trace:
    """A trace from a .csv, .jsonl or .json file (a JSON object a line). Timestamps are dates, or
    numbers in units of `unit_s` seconds: by default 1, or 0.001 for a column `timestamp_ms`.
    InputError for a file that is none."""
    table = _read(path)
    name, times = _column(table, _TIMES)
    if times is None or not len(times):
        raise InputError(f"{path}: no timestamps; columns {table.column_names}; known: {_NAMES}")
    if unit_s is None:
        unit_s = 0.001 if name == _MS else 1.0
    seconds = _seconds(path, times, unit_s)
    order = np.argsort(seconds, kind="stable")
    inputs = _counts(path, _column(table, _INPUTS)[1])
    outputs = _counts(path, _column(table, _OUTPUTS)[1])
    _, texts = _column(table, _TEXTS)
    prompts = []
    if texts is not None:
        rows = texts.to_pylist()
        prompts = [_messages(path, rows[place]) for place in order]
    return Trace(
        times_s=seconds[order] - seconds[order[0]],
        input_tokens=None if inputs is None else inputs[order],
        output_tokens=None if outputs is None else outputs[order],
        prompts=prompts,
    )


def _read(path: Path) -> pa.Table:
    try:
        if path.suffix == ".csv":
            return pa.csv.read_csv(path)
        if path.suffix in (".jsonl", ".json"):
            return pa.json.read_json(path)
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror or error}; name a file that can be read"
        ) from error
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: {error}") from error
    raise InputError(f"{path}: a trace is a .csv or .jsonl file")


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace(" ", "").replace("-", "")


def _column(table: pa.Table, known: tuple[str, ...]) -> tuple[str, pa.ChunkedArray | None]:
    """The first of these columns that is there, and its plain name."""
    names = {_plain(name): name for name in table.column_names}
    for name in known:
        if name in names:
            return name, table[names[name]]
    return "", None


def _seconds(path: Path, times: pa.ChunkedArray, unit_s: float) -> np.ndarray:
    """Since some moment."""
    try:
        if pa.types.is_string(times.type):
            times = pc.cast(times, pa.timestamp("ns"))
        if pa.types.is_timestamp(times.type):
            times = pc.cast(times, pa.timestamp("ns", tz=times.type.tz))
            nanoseconds = pc.cast(times, pa.int64()).to_numpy()
            # the difference first: as reals, nanoseconds since 1970 are only good to 200 of them
            found = (nanoseconds - nanoseconds.min()) * 1e-9
        else:
            found = pc.cast(times, pa.float64()).to_numpy() * unit_s
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{path}: timestamps are dates or numbers: {error}") from error
    if not np.isfinite(found).all():
        raise InputError(f"{path}: a timestamp is missing; give each row one")
    return found


def _counts(path: Path, column: pa.ChunkedArray | None) -> np.ndarray | None:
    if column is None:
        return None
    try:
        found = pc.cast(column, pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{path}: lengths are whole numbers of tokens: {error}") from error
    if found.null_count or found.to_numpy().min() < 0:
        raise InputError(f"{path}: a length is missing or below 0; give each row one")
    return found.to_numpy()


def _messages(path: Path, text: object) -> Messages:
    """A prompt's messages from its text, or from messages, which a CSV holds as JSON."""
    if isinstance(text, str) and text.startswith("[{"):
        with suppress(ValueError):  # a text that begins so
            text = json.loads(text)
    if isinstance(text, str):
        return [{"role": "user", "content": text}]
    if isinstance(text, list) and text and all(isinstance(each, dict) for each in text):
        return [_said(each) for each in text]
    raise InputError(f"{path}: {str(text)[:80]!r} is no prompt; give a text, or messages")


def _said(message: dict[str, str]) -> dict[str, str]:
    """Without what pyarrow adds: all messages have the keys of each."""
    return {key: value for key, value in message.items() if value is not None}
