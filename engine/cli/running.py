"""Commands that run a job, here or on a cluster."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli.options import (
    CLUSTER,
    Sets,
    errors,
    load,
    of_a_job,
    ray_address,
    stage_options,
)
from engine.job.spec import JobSpec
from engine.run.terminal import log_path, quiet

if TYPE_CHECKING:
    from rich.console import Console


@click.command()
@of_a_job
@click.option(
    "--cluster",
    type=click.Path(path_type=Path),
    help="Cluster file of any platform: can its machines hold the job?",
)
def check(job: Path, sets: Sets, runs: str, cluster: Path | None) -> None:
    """Validate a job file and what it names, and print the plan. Starts nothing."""
    with errors():
        from engine import pipeline
        from engine.check.job import check_job, source_lines
        from engine.check.plan import tail_lines
        from engine.errors import EngineError
        from engine.machines import planner

        spec = load(job, sets)
        tail = tail_lines(spec, cluster)
        try:
            is_here = cluster is None or _require_machines(spec, cluster)
            check_job(spec, running=pipeline.unfinished(spec, runs), is_here=is_here)
        except EngineError:  # who sizes a job has no data yet
            _echo(tail)
            raise
        click.echo(f"{spec.name}: {spec.task}, device {spec.device}")
        for line in source_lines(spec) if is_here else ():
            click.echo(f"  {line}")
        for stage in pipeline.plan(spec, runs):
            folder_name = stage.folder.name if stage.folder else ""
            click.echo(f"  {stage.stage:<9} {stage.state:<7}{folder_name}")
        wants = planner.plan_devices(spec)
        click.echo(f"GPUs wanted: {wants.devices if spec.device == 'gpu' else 0}")
        for line in wants.lines():
            click.echo(f"  {line}")
        _echo(tail)


def _echo(lines: list[str]) -> None:
    for line in lines:
        click.echo(line)


def _require_machines(spec: JobSpec, cluster: Path) -> bool:
    """Whether the job would find this machine's disk there. SpecError where the file's machines
    cannot hold it."""
    from engine.machines.holding import require_machines
    from engine.machines.native_file import read_native_file
    from engine.submission.running import sees_our_disk

    file = read_native_file(cluster)
    require_machines(spec, file)
    return sees_our_disk(file)


@click.command()
@of_a_job
@CLUSTER
@click.option("--fetch", is_flag=True, help="Fetch the models first, once for all replicas.")
@click.option(
    "--no-second-start",
    is_flag=True,
    help="For clusters that start anew after any exit code but 0: end with 0 after an error that"
    " has a name, and say its code.",
)
@stage_options
def run(
    job: Path,
    sets: Sets,
    runs: str,
    cluster: Path | None,
    fetch: bool,
    no_second_start: bool,
    **options: Any,
) -> None:
    """Run a job: skip what is finished, resume what is not."""
    with errors(second_start=not no_second_start):
        _take_keys()
        spec = load(job, sets)
        if fetch:
            from engine.submission.fetch import fetch as fetch_all

            fetch_all(spec, partial(click.echo, nl=False))
        log = log_path(spec.name, runs, "run")
        with quiet(log, spec.name) as console:
            from engine import pipeline
            from engine.run.progress import Progress

            done = pipeline.run(
                spec,
                runs,
                cluster=ray_address(cluster),
                progress=Progress(console),
                log=log,
                **options,
            )
            for name, manifest in done.manifests.items():
                for warning in manifest.info.warnings:
                    console.print(f"[yellow]warning[/] {name}: {warning}", highlight=False)
            if "report" in done.folders:
                _print_report(console, done)


def _take_keys() -> None:
    """In a job that was submitted with keys; elsewhere Ray is not even imported."""
    from engine.machines.running_cluster import HANDED_KEYS

    if HANDED_KEYS in os.environ:
        from engine.backends import ray_secrets

        ray_secrets.take()


def _print_report(console: Console, done: Any) -> None:
    from engine.stages.report import comparison_tables, summary_table

    folder = done.folders["report"]
    report = json.loads((folder / "report.json").read_text())
    console.print(summary_table(report), *comparison_tables(report))
    for path in sorted(done.root.glob("report.*")):
        console.print(str(path), highlight=False, soft_wrap=True)
