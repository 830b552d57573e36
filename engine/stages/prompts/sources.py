"""Source files -> prompts one at a time, each with its line, or the reason why the line cannot be used.

Reads JSONL and CSV line by line and Parquet batch by batch. It knows nothing of duplicates, splits or shards.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import InputError
from engine.records import Messages, Prompt, prompt_hash, prompt_id_of
from engine.spec import FieldMap, PromptsSpec

_ROLES = ("system", "user", "assistant")


class BadRow(Exception):
    """A line that cannot be used; its text is the reason. Readers yield it, so that the next line is still read."""


def source_files(source: str | list[str], field: str) -> list[Path]:
    """The data files of `source` in order, folders expanded. InputError for what is missing, empty or of another kind."""
    files = []
    for name in [source] if isinstance(source, str) else source:
        path = Path(name)
        if not path.exists():
            raise InputError(f"{field}: {path} does not exist; correct the path")
        found = sorted(p for p in path.rglob("*") if p.suffix in _READERS and p.is_file()) if path.is_dir() else [path]
        if not found:
            raise InputError(f"{field}: the folder {path} holds no {', '.join(_READERS)} file")
        files += found
    for path in files:
        if path.suffix not in _READERS:
            raise InputError(f"{field}: {path} is not one of {', '.join(_READERS)}; convert or rename it")
        if path.stat().st_size == 0:
            raise InputError(f"{field}: {path}:1: the file is empty; fill it, or take it out of {field}")
    return files


def load_rows(path: Path, limit: int | None) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Up to `limit` rows of a file: (line, or row number in Parquet, counted from 1; its columns or what is wrong)."""
    return islice(_READERS[path.suffix](path), limit)


def build_prompt(values: dict[str, Any], path: Path, line: int, spec: PromptsSpec, task: str, split: str) -> Prompt:
    """One row's columns as a Prompt. BadRow(reason) where a field is missing, of the wrong type or empty."""
    fields = spec.fields
    messages = _messages(values, fields, spec.system)
    source_id = f"{path.name}:{line}" if fields.id is None else _scalar(values.get(fields.id))
    if source_id is None:
        raise BadRow("missing_field")
    mapped = {fields.id, fields.prompt, fields.messages, fields.reference, fields.system}
    meta = {key: value for key, value in values.items() if key not in mapped}
    try:
        sha256 = prompt_hash(messages)
        prompt = Prompt(
            prompt_id_of(sha256), sha256, source_id, messages, task, path.name, split, _scalar(values.get(fields.reference)),
            json.dumps(meta, sort_keys=True, ensure_ascii=False, default=str),
        )
        f"{prompt.source_id}{prompt.reference}{prompt.meta}".encode()
    except UnicodeEncodeError:  # a lone surrogate: `\ud800` in JSON, or a byte of a CSV file that is not UTF-8
        raise BadRow("invalid_utf8") from None
    return prompt


def load_prompts(path: Path, spec: PromptsSpec, task: str, split: str) -> Iterator[tuple[int, Prompt | BadRow]]:
    """The prompts of one file with their lines, and a BadRow for every line that gives none."""
    for line, values in load_rows(path, spec.limit):
        if isinstance(values, BadRow):
            yield line, values
            continue
        try:
            yield line, build_prompt(values, path, line, spec, task, split)
        except BadRow as bad:
            yield line, bad


def _messages(values: dict[str, Any], fields: FieldMap, system: str | None) -> Messages:
    messages = values.get(fields.messages)
    if messages in (None, ""):
        prompt = values.get(fields.prompt)
        if prompt is None:
            raise BadRow("missing_field")
        own_system = values.get(fields.system) if fields.system else None
        messages = [{"role": "system", "content": own_system}] if own_system else []
        messages.append({"role": "user", "content": prompt})
    elif isinstance(messages, str):  # CSV, and Parquet written from it
        messages = _parse_json(messages)
    if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
        raise BadRow("wrong_type")
    # Rows store role and content only: dropping a tool call or a name would silently make another conversation.
    if any(value is not None for message in messages for key, value in message.items() if key not in ("role", "content")):
        raise BadRow("unsupported_message_field")
    if not messages or messages[-1]["role"] != "user":
        raise BadRow("last_message_not_user")
    if not messages[-1]["content"].strip():
        raise BadRow("empty_prompt")
    if system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") in _ROLES and isinstance(message.get("content"), str)


def _scalar(value: Any) -> str | None:
    """A text or number as text; None, NaN and blank text are None."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise BadRow("wrong_type")
    return None if value is None or value != value or not str(value).strip() else str(value)


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadRow("broken_json") from None


def _read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    with path.open("rb") as lines:
        for line, raw in enumerate(lines, 1):
            raw = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
            if not raw.strip():
                continue
            try:
                values = _parse_json(raw.decode())
            except UnicodeDecodeError:
                values = BadRow("invalid_utf8")
            except BadRow as bad:
                values = bad
            yield line, values if isinstance(values, dict | BadRow) else BadRow("wrong_type")


def _read_csv(path: Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is shorter than a long prompt
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise InputError(f"{path}:1: unreadable CSV header ({error}); repair the first line") from None
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:
                yield line, BadRow("broken_csv")
                continue
            if cells:
                yield line, dict(zip(header, cells, strict=True)) if len(cells) == len(header) else BadRow("wrong_column_count")


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    line = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1024):
            for values in _batch_rows(batch):
                line += 1
                yield line, values
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}:{line + 1}: unreadable Parquet ({reason}); copy or write the file again") from None


def _batch_rows(batch: pa.RecordBatch) -> list[dict[str, Any] | BadRow]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        return [_batch_row(batch.slice(row, 1)) for row in range(len(batch))]


def _batch_row(one: pa.RecordBatch) -> dict[str, Any] | BadRow:
    try:
        return one.to_pylist()[0]
    except UnicodeDecodeError:
        return BadRow("invalid_utf8")


_READERS = {".jsonl": _read_jsonl, ".parquet": _read_parquet, ".csv": _read_csv}
