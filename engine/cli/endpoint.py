"""The command that serves models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli.options import (
    CLUSTER,
    RUNS,
    SETS,
    Sets,
    errors,
    load,
    ray_address,
)
from engine.errors import SpecError
from engine.run.terminal import log_path, quiet

if TYPE_CHECKING:
    from rich.console import Console


@click.command()
@click.argument("job", type=click.Path(path_type=Path), required=False)
@SETS
@RUNS
@CLUSTER
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|FOLDER",
    help="student, teacher or baseline of the job, or the folder of any local model. Default:"
    " student.",
)
@click.option(
    "--update",
    is_flag=True,
    help="Roll the job's newest student (or --model) into the endpoint that runs already.",
)
@click.option("--insecure", is_flag=True, help="Listen off loopback without TLS.")
def serve(
    job: Path | None,
    sets: Sets,
    runs: str,
    cluster: Path | None,
    models: Sets,
    update: bool,
    insecure: bool,
) -> None:
    """Put the student (or teacher, or baseline) behind an OpenAI-compatible endpoint until
    Ctrl-C."""
    with errors():
        if insecure:
            sets = (*sets, "serve.insecure=true")
        names = list(models) or ["student"]
        if job is None and update:
            raise SpecError(
                "--update wants the job whose student is new: distill serve JOB --update"
            )
        if job is None:
            _serve_folders(names, sets, runs, cluster)
            return
        spec = load(job, sets)
        log = log_path(spec.name, runs, "serve")
        with quiet(log, spec.name) as console:
            from engine import live
            from engine.run.progress import Progress

            progress = Progress(console)
            if update:
                for name in names:
                    live.update_served(spec, name, runs, progress=progress)
                    console.print(f"{name} is the newest now", highlight=False)
                return
            with live.serving(
                spec, names, runs, cluster=ray_address(cluster), progress=progress
            ) as endpoint:
                _tell_endpoint(console, progress, endpoint, names)


def _serve_folders(names: list[str], sets: Sets, runs: str, cluster: Path | None) -> None:
    from engine.job.jobfile import load_serve

    only = load_serve(list(sets))
    log = log_path("serve", runs, "serve")
    with quiet(log, "serve") as console:
        from engine import live
        from engine.run.progress import Progress

        progress = Progress(console)
        with live.serving_folders(
            only, [Path(name) for name in names], cluster=ray_address(cluster), progress=progress
        ) as endpoint:
            _tell_endpoint(console, progress, endpoint, [Path(name).name for name in names])


def _tell_endpoint(console: Console, progress: Any, endpoint: Any, names: list[str]) -> None:
    from engine.stages import serve

    guard = ", Authorization: Bearer <key>" if endpoint.api_key else ""
    told = f"serving {', '.join(names)} at {endpoint.base_url}{guard}; Ctrl-C stops it"
    console.print(told, highlight=False)
    with progress.waiting("serving"):
        serve.watch(endpoint, progress)
    console.print("leaving: what is open is answered", highlight=False)
