"""Endpoint -> request samples and one curve per model: how fast it answers under which load, and what failed.

It measures any OpenAI-compatible endpoint and starts none: `run` is given one that is alive.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from engine.errors import StageError
from engine.progress import Context
from engine.records import REQUEST_SAMPLE, Messages, RequestSample, derive_seed, read_tables, to_table, write_parquet
from engine.rundir import Counts, stage_files
from engine.spec import LoadtestSpec
from engine.stages.loadtest.arrivals import levels_of
from engine.stages.loadtest.client import Measurement, measure
from engine.stages.loadtest.summary import summarise

SAMPLES = "data/samples.parquet"
OnLevel = Callable[[Measurement, float], None]  # the running level's requests so far, seconds left in all levels


class Endpoint(Protocol):
    """Where models answer."""

    @property
    def base_url(self) -> str: ...
    @property
    def api_key(self) -> str | None: ...


OpenEndpoint = Callable[[list[str]], AbstractContextManager[Endpoint]]  # serves these models for the length of the block


def run(spec: LoadtestSpec, inputs: dict[str, Path], out: Path, ctx: Context, *, endpoint: OpenEndpoint, **also: Any) -> Counts:
    """Load every model of the job at every level with the validation prompts; `endpoint` keeps them served meanwhile."""
    tables = read_tables(stage_files(inputs["prompts"], "data/validation"), ["messages"])
    prompts = [messages for table in tables for messages in table["messages"].to_pylist()]
    samples: list[RequestSample] = []
    serving: dict[str, Any] = {}
    if spec.models:
        with endpoint(list(spec.models)) as live:
            for model in spec.models:
                ctx.progress.update(note=f"loading {model}")
                show = functools.partial(_show, ctx, model, len(samples))
                levels, measured = _measure_levels(live.base_url, model, spec, prompts, ctx.seed, live.api_key, show)
                serving[model] = {"levels": levels}
                samples += measured
    (out / SAMPLES).parent.mkdir(exist_ok=True)
    write_parquet(to_table(samples, REQUEST_SAMPLE), out / SAMPLES)
    failed = sum(sample.status != "ok" for sample in samples)
    return Counts(
        rows_in=len(samples), rows_out=len(samples) - failed, files={SAMPLES: len(samples)},
        dropped={"failed": failed} if failed else {}, info={"serving": serving},
    )


def measure_url(
    url: str, model: str, spec: LoadtestSpec, prompts: Sequence[Messages], seed: int, api_key: str | None = None,
    on_progress: OnLevel | None = None,
) -> list[dict[str, Any]]:
    """Levels (as in report.json) of one model behind any OpenAI-compatible address; StageError if no request succeeds."""
    return _measure_levels(url, model, spec, prompts, seed, api_key, on_progress)[0]


def _measure_levels(
    url: str, model: str, spec: LoadtestSpec, prompts: Sequence[Messages], seed: int, api_key: str | None,
    on_level: OnLevel | None,
) -> tuple[list[dict[str, Any]], list[RequestSample]]:
    if not prompts:
        raise StageError("loadtest: no prompts to send; give prompts.validation, or a prompts.validation_fraction above 0")
    levels: list[dict[str, Any]] = []
    samples: list[RequestSample] = []
    todo = levels_of(spec)
    for position, level in enumerate(todo):
        later_s = (len(todo) - position - 1) * (spec.warmup_seconds + spec.seconds)
        show = on_level and (lambda found, left_s, later_s=later_s: on_level(found, left_s + later_s))
        # The seed knows the level, not the model: teacher and student get the same prompts at the same times.
        level_seed = derive_seed(seed, "loadtest", str(level))
        found = asyncio.run(measure(url, model, prompts, level, spec, level_seed, api_key, show))
        levels.append(summarise(found))
        samples += found.samples
        if samples and all(sample.status != "ok" for sample in samples):
            kinds = ", ".join(f"{n} x {kind}" for kind, n in Counter(s.status for s in samples).most_common())
            first = f"{kinds}; first: {samples[0].error}"
            raise StageError(f"loadtest: every request to '{model}' at {url} failed ({first}); is it served there?")
    return levels, samples


def _show(ctx: Context, model: str, done_before: int, found: Measurement, left_s: float) -> None:
    ctx.progress.update(
        done=done_before + len(found.samples), level=f"{model} at {found.level}", requests=len(found.samples),
        failed=sum(sample.status != "ok" for sample in found.samples), left=f"{left_s:.0f} s",
        **{"tok/s": found.tokens_per_second},
    )
