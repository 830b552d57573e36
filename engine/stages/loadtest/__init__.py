"""Endpoint -> request samples and one curve per model: how fast it answers under which load, and
whose fault it is where it does not.

It measures any OpenAI-compatible endpoint and starts none: `run` is given one that is alive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from engine.job.spec import LoadtestSpec
from engine.loadgen.ceiling import measure_ceiling
from engine.loadgen.samples import Level, Sample
from engine.loadgen.target import Target
from engine.rows.records import LOAD_LEVEL, REQUEST_SAMPLE, Messages
from engine.rows.tables import read_tables, to_table, write_parquet
from engine.run.context import Context
from engine.run.facts import LoadtestInfo
from engine.run.manifests import Counts, Finished
from engine.run.progress import Progress
from engine.stages.loadtest.figures import figures_of, serving_of
from engine.stages.loadtest.files import Measured, is_warm, to_rows
from engine.stages.loadtest.levels import slo_of
from engine.stages.loadtest.measuring import Loader

# The stage's files: every request, and one row per model and level. `serving_of(from_rows(...))`
# computes the report's figures from these two alone.
SAMPLES = "data/samples.parquet"
LEVELS = "data/levels.parquet"
CEILING_S = 1.0  # of the client's own measurement


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
        loader = Loader(spec, prompts, ctx.seed, measure_ceiling(spec.processes, CEILING_S))
        with endpoint(list(spec.models)) as live:
            for model in spec.models:
                target = Target(live.base_url, model, live.api_key)
                found += loader.levels(target, ctx.progress)
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
        info=LoadtestInfo.model_validate({"serving": serving_of(found, slo_of(spec.slo))}),
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
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Levels (as in report.json) of one model behind any OpenAI-compatible address; StageError if
    no request succeeds."""
    loader = Loader(spec, prompts, seed, measure_ceiling(spec.processes, CEILING_S))
    found = loader.levels(Target(url, model, api_key), progress or Progress())
    return [figures_of(each.level, each.ceiling, slo_of(spec.slo)) for each in found]
