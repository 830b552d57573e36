"""Bring what a job takes from the hub into the cache, once, before replicas start: each of them
would otherwise ask for it, and a large teacher is hundreds of gigabytes."""

from __future__ import annotations

from pathlib import Path

from engine.job.spec import JobSpec
from engine.store.hub import fetch_data, fetch_model, hub_data
from engine.submission.follow import Log


def fetch(job: JobSpec, on_log: Log) -> None:
    """Download the job's data sets and models; what is in the cache is only compared with the hub.
    InputError where the hub does not give one."""
    for source in job.prompts.sources():
        if hub_data(source):
            on_log(f"{source}: {fetch_data(source)}\n")
    for model, revision in hub_models(job):
        on_log(f"{model}: {fetch_model(model, revision)}\n")


def hub_models(job: JobSpec) -> list[tuple[str, str | None]]:
    """(name, revision) of each model of the job that is no folder here."""
    wanted = job.weights()
    if job.train.tokenizer:
        wanted.append((job.train.tokenizer, None))
    return [pair for pair in dict.fromkeys(wanted) if not Path(pair[0]).is_dir()]
