"""Endpoint -> request samples and one curve per model: how fast it answers under which load, and
what failed.

It measures any OpenAI-compatible endpoint and starts none: `run` is given one that is alive.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from engine.errors import StageError
from engine.job.spec import LoadtestSpec
from engine.loadgen.samples import Level, Sample
from engine.rows.ids import derive_seed
from engine.rows.records import LOAD_LEVEL, REQUEST_SAMPLE, Messages
from engine.rows.tables import read_tables, to_table, write_parquet
from engine.run.context import Context
from engine.run.facts import LoadtestInfo
from engine.run.manifests import Counts, Finished
from engine.stages.loadtest.arrivals import levels_of
from engine.stages.loadtest.client import measure
from engine.stages.loadtest.figures import figures_of, serving_of
from engine.stages.loadtest.files import Measured, is_warm, label_of, to_rows

# The stage's files: every request, and one row per model and level. `serving_of(from_rows(...))`
# computes the report's figures from these two alone.
SAMPLES = "data/samples.parquet"
LEVELS = "data/levels.parquet"


class LiveEndpoint(Protocol):
    """Where models answer."""

    base_url: str
    api_key: str | None


# serves these models for the length of the block
OpenEndpoint = Callable[[list[str]], AbstractContextManager[LiveEndpoint]]


def run(
    spec: LoadtestSpec,
    inputs: Mapping[str, Finished],
    out: Path,
    ctx: Context,
    *,
    endpoint: OpenEndpoint,
) -> Counts:
    """Load every model of the job at every level with the validation prompts; `endpoint` keeps them
    served meanwhile. Warm-up requests are kept in the files and are no rows of the stage."""
    prompts = validation_prompts(inputs["prompts"])
    found: list[Measured] = []
    if spec.models:
        with endpoint(list(spec.models)) as live:
            found += _measure_models(live, spec, prompts, ctx)
    files = _write_rows(out, found)
    measured: list[Sample] = []
    for each in found:
        measured += measured_of(each.level)
    failed = sum(sample.status != "ok" for sample in measured)
    dropped = {}
    if failed:
        dropped["failed"] = failed
    return Counts(
        rows_in=len(measured),
        rows_out=len(measured) - failed,
        files=files,
        dropped=dropped,
        info=LoadtestInfo.model_validate({"serving": serving_of(found)}),
    )


def _write_rows(out: Path, found: list[Measured]) -> dict[str, int]:
    levels, samples = to_rows(found)
    (out / SAMPLES).parent.mkdir(exist_ok=True)
    write_parquet(to_table(samples, REQUEST_SAMPLE), out / SAMPLES)
    write_parquet(to_table(levels, LOAD_LEVEL), out / LEVELS)
    return {SAMPLES: len(samples), LEVELS: len(levels)}


def measured_of(level: Level) -> list[Sample]:
    """The samples that count: sent inside the window, not to warm the server up."""
    return [sample for sample in level.samples if not is_warm(sample, level)]


def validation_prompts(stage: Finished) -> list[Messages]:
    """The validation prompts of a finished prompts stage."""
    prompts: list[Messages] = []
    for table in read_tables(stage.files("validation"), ["messages"]):
        prompts += table["messages"].to_pylist()
    return prompts


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
    levels = _measure_levels(url, model, spec, prompts, seed, api_key)
    return [figures_of(level) for level in levels]


def _measure_models(
    live: LiveEndpoint, spec: LoadtestSpec, prompts: Sequence[Messages], ctx: Context
) -> Iterator[Measured]:
    """Every level of every model, one after the other; the progress is told after each."""
    level_s = spec.warmup_seconds + spec.seconds
    ends_s = time.monotonic() + len(spec.models) * len(levels_of(spec)) * level_s
    done = 0
    for model in spec.models:
        ctx.progress.update(note=f"loading {model}")
        for level in _measure_levels(live.base_url, model, spec, prompts, ctx.seed, live.api_key):
            figures = figures_of(level)
            done += figures["requests"]
            ctx.progress.update(
                done=done,
                level=f"{model} at {label_of(level)}",
                requests=figures["requests"],
                failed=figures["failed"],
                left=f"{max(0.0, ends_s - time.monotonic()):.0f} s",
                **{"tok/s": figures["output_tokens_per_second"]},
            )
            yield Measured(model, level)


def _measure_levels(
    url: str,
    model: str,
    spec: LoadtestSpec,
    prompts: Sequence[Messages],
    seed: int,
    api_key: str | None,
) -> Iterator[Level]:
    if not prompts:
        raise StageError(
            "loadtest: no prompts to send; give prompts.validation, or a"
            " prompts.validation_fraction above 0"
        )
    statuses: Counter[str] = Counter()
    for load in levels_of(spec):
        # The seed knows the level, not the model: teacher and student get the same prompts at the
        # same times.
        level_seed = derive_seed(seed, "loadtest", str(load))
        level = asyncio.run(measure(url, model, prompts, load, spec, level_seed, api_key))
        measured = measured_of(level)
        statuses.update(sample.status for sample in measured)
        # A level may be too short for any request; only answers that all failed condemn the model.
        if statuses and "ok" not in statuses:
            failed = f"{dict(statuses)}; first: {measured[0].error}"
            raise StageError(
                f"loadtest: every request to '{model}' at {url} failed ({failed}); is it served"
                " there?"
            )
        yield level
