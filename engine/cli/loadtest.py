"""The command that loads a server."""

from __future__ import annotations

from pathlib import Path

import click

from engine.cli.options import (
    CLUSTER,
    Sets,
    errors,
    load,
    of_a_job,
    ray_address,
)
from engine.run.terminal import log_path, quiet


@click.command()
@of_a_job
@CLUSTER
@click.option(
    "--url",
    help="Base URL of any OpenAI-compatible server (ends in /v1); none: serve the job's models.",
)
@click.option("--model", help="Model name at --url.")
def loadtest(
    job: Path,
    sets: Sets,
    runs: str,
    cluster: Path | None,
    url: str | None,
    model: str | None,
) -> None:
    """Load an endpoint with the job's validation prompts and print the curve."""
    with errors():
        spec = load(job, sets)
        log = log_path(spec.name, runs, "loadtest")
        with quiet(log) as console:
            from engine import pipeline
            from engine.run.progress import Progress
            from engine.stages.report import serving_table

            progress = Progress(console)
            if url:
                serving = pipeline.load_url(spec, url, model or "student", runs, progress=progress)
            else:
                # Measured anew each time, and never after a training that nobody asked for.
                done = pipeline.run(
                    spec,
                    runs,
                    only="loadtest",
                    force=True,
                    cluster=ray_address(cluster),
                    progress=progress,
                    log=log,
                )
                info = done.manifests["loadtest"].info
                serving = info.model_dump(mode="json", exclude_unset=True)["serving"]
            console.print(serving_table(serving))
