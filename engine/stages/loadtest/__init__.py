"""Endpoint -> request samples and one curve per model: how fast it answers under which load, and
whose fault it is where it does not.

It measures any OpenAI-compatible endpoint and starts none: `run` is given one that is alive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine.backends.api_tools import openai_messages
from engine.job.spec import LoadtestSpec
from engine.loadgen.level import Spread
from engine.loadgen.samples import Level, Sample
from engine.loadgen.target import Target
from engine.rows.records import Messages
from engine.rows.tables import read_tables
from engine.rows.tools import conversations_of
from engine.run.context import Context
from engine.run.facts import LoadtestInfo
from engine.run.manifests import Counts, Finished
from engine.run.progress import Progress
from engine.serving.endpoint import OpenEndpoint
from engine.stages.loadtest.equal_slo import compare
from engine.stages.loadtest.files import is_warm
from engine.stages.loadtest.levels import slo_of
from engine.stages.loadtest.measuring import Loaded, Loader
from engine.stages.loadtest.tables import write_measured

LOOPBACK = ("127.0.0.1", "localhost", "::1")


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
    loaded = Loaded([], [])
    serving: dict[str, Any] = {}
    if spec.models:
        with endpoint(list(spec.models)) as live:
            spread = _spread(spec, live.base_url, ctx)
            loader = Loader(spec, prompts, ctx.seed, ctx.progress, spread)
            for model in spec.models:
                found = loader.load(Target(live.base_url, model, live.api_key))
                loaded.measured.extend(found.measured)
                loaded.observed.extend(found.observed)
                serving[model] = found.serving(spec)
    files = write_measured(out, loaded.measured, loaded.observed)
    samples: list[Sample] = []
    for each in loaded.measured:
        samples += measured_of(each.level)
    failed = sum(sample.status != "ok" for sample in samples)
    dropped = {}
    if failed:
        dropped["failed"] = failed
    info: dict[str, Any] = {"serving": serving}
    slo = slo_of(spec.slo)
    if slo and {"teacher", "student"} <= serving.keys():
        prices = {}
        if spec.price_per_hour is not None:
            prices = dict.fromkeys(serving, spec.price_per_hour)
        info["equal_slo"] = compare(loaded.measured, "teacher", "student", slo, prices)
    return Counts(
        rows_in=len(samples),
        rows_out=len(samples) - failed,
        files=files,
        dropped=dropped,
        info=LoadtestInfo.model_validate(info),
    )


def _spread(spec: LoadtestSpec, url: str, ctx: Context) -> Spread | None:
    """Over the cluster's nodes where several processes make the load and others reach the endpoint;
    else on this machine."""
    host = urlsplit(url).hostname or ""
    if spec.processes == 1 or ctx.cluster is None or host in LOOPBACK:
        return None
    from engine.backends.ray_load import spread_over_cluster

    return spread_over_cluster


def measured_of(level: Level) -> list[Sample]:
    """The samples that count: sent inside the window, not to warm the server up."""
    return [sample for sample in level.samples if not is_warm(sample, level)]


def validation_prompts(stage: Finished) -> list[Messages]:
    """The validation prompts of a finished prompts stage, without the tools that they offer."""
    prompts: list[Messages] = []
    columns = ["messages", "tools"]
    for table in read_tables(stage.files("validation"), columns, optional=["tools"]):
        prompts += map(openai_messages, conversations_of(table))
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
    found = Loader(spec, prompts, seed, Progress()).load(Target(url, model, api_key))
    return found.serving(spec)["levels"]
