"""What a rehearsal's job has that is not the job's own, field by field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.job.spec import JobSpec


def differences(job: JobSpec, little: JobSpec) -> Iterator[str]:
    """`field: before -> after` of everything that changes a result and is not the job's own."""
    before = dict(_flat(job.identity_fields(), ""))
    after = dict(_flat(little.identity_fields(), ""))
    for name in before.keys() | after.keys():
        was = before.get(name)
        now = after.get(name)
        if was != now:
            yield f"{name}: {was} -> {now}"


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{name}.{number}")
    else:
        yield name, value
