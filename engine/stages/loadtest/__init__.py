"""Endpoint -> request samples and one curve per model: how fast it answers under which load, and
what failed.

It measures any OpenAI-compatible endpoint and starts none: `run` is given one that is alive.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from engine.errors import StageError
from engine.job.spec import LoadtestSpec
from engine.rows.ids import derive_seed
from engine.rows.records import REQUEST_SAMPLE, Messages, RequestSample
from engine.rows.tables import read_tables, to_table, write_parquet
from engine.run.context import Context
from engine.run.manifests import Counts, stage_files
from engine.stages.loadtest.arrivals import levels_of
from engine.stages.loadtest.client import Measurement, measure
from engine.stages.loadtest.summary import summarise

SAMPLES = "data/samples.parquet"


class Endpoint(Protocol):
    """Where models answer."""

    base_url: str
    api_key: str | None


OpenEndpoint = Callable[
    [list[str]], AbstractContextManager[Endpoint]
]  # serves these models for the length of the block


def run(
    spec: LoadtestSpec,
    inputs: dict[str, Path],
    out: Path,
    ctx: Context,
    *,
    endpoint: OpenEndpoint,
    **also: Any,
) -> Counts:
    """Load every model of the job at every level with the validation prompts; `endpoint` keeps them
    served meanwhile."""
    prompts = load_prompts(inputs["prompts"])
    samples: list[RequestSample] = []
    serving: dict[str, dict[str, list[dict[str, Any]]]] = {
        model: {"levels": []} for model in spec.models
    }
    if spec.models:
        with endpoint(list(spec.models)) as live:
            ends_s = time.monotonic() + len(spec.models) * len(levels_of(spec)) * (
                spec.warmup_seconds + spec.seconds
            )
            for model in spec.models:
                ctx.progress.update(note=f"loading {model}")
                for found in _measure_levels(
                    live.base_url, model, spec, prompts, ctx.seed, live.api_key
                ):
                    level = summarise(found)
                    serving[model]["levels"].append(level)
                    samples += found.samples
                    ctx.progress.update(
                        done=len(samples),
                        level=f"{model} at {found.level}",
                        requests=level["requests"],
                        failed=level["failed"],
                        left=f"{max(0.0, ends_s - time.monotonic()):.0f} s",
                        **{"tok/s": level["output_tokens_per_second"]},
                    )
    (out / SAMPLES).parent.mkdir(exist_ok=True)
    write_parquet(to_table(samples, REQUEST_SAMPLE), out / SAMPLES)
    failed = sum(sample.status != "ok" for sample in samples)
    return Counts(
        rows_in=len(samples),
        rows_out=len(samples) - failed,
        files={SAMPLES: len(samples)},
        dropped={"failed": failed} if failed else {},
        info={"serving": serving},
    )


def load_prompts(folder: Path) -> list[Messages]:
    """The validation prompts of a finished prompts stage."""
    tables = read_tables(stage_files(folder, "data/validation"), ["messages"])
    return [messages for table in tables for messages in table["messages"].to_pylist()]


def measure_url(
    url: str,
    model: str,
    spec: LoadtestSpec,
    prompts: Sequence[Messages],
    seed: int,
    api_key: str | None = None,
) -> list[dict[str, Any]]:
    """Levels (as in report.json) of one model behind any OpenAI-compatible address; StageError if
    no request succeeds."""
    return [summarise(found) for found in _measure_levels(url, model, spec, prompts, seed, api_key)]


def _measure_levels(
    url: str,
    model: str,
    spec: LoadtestSpec,
    prompts: Sequence[Messages],
    seed: int,
    api_key: str | None,
) -> Iterator[Measurement]:
    if not prompts:
        raise StageError(
            "loadtest: no prompts to send; give prompts.validation, or a"
            " prompts.validation_fraction above 0"
        )
    statuses: Counter[str] = Counter()
    for level in levels_of(spec):
        # The seed knows the level, not the model: teacher and student get the same prompts at the
        # same times.
        found = asyncio.run(
            measure(
                url, model, prompts, level, spec, derive_seed(seed, "loadtest", str(level)), api_key
            )
        )
        statuses.update(sample.status for sample in found.samples)
        if statuses and "ok" not in statuses:
            failed = f"{dict(statuses)}; first: {found.samples[0].error}"
            raise StageError(
                f"loadtest: every request to '{model}' at {url} failed ({failed}); is it served"
                " there?"
            )
        yield found
