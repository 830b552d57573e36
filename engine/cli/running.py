"""Commands that run a job, here or on a cluster."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from engine.cli.options import (
    CLUSTER,
    Sets,
    errors,
    load,
    of_a_job,
    ray_address,
    stage_options,
)
from engine.run.terminal import log_path, quiet


@click.command()
@of_a_job
def check(job: Path, sets: Sets, runs: str) -> None:
    """Validate a job file and what it names, and print the plan. Starts nothing."""
    with errors():
        from engine import pipeline
        from engine.check.job import check_job, source_lines
        from engine.check.plan import tail_lines
        from engine.errors import EngineError
        from engine.machines import planner

        spec = load(job, sets)
        tail = tail_lines(spec)
        try:
            check_job(spec, running=pipeline.unfinished(spec, runs))
        except EngineError:  # who sizes a job has no data yet
            _echo(tail)
            raise
        click.echo(f"{spec.name}: {spec.task}, device {spec.device}")
        for line in source_lines(spec):
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


@click.command()
@of_a_job
@CLUSTER
@stage_options
def run(job: Path, sets: Sets, runs: str, cluster: Path | None, **options: Any) -> None:
    """Run a job: skip what is finished, resume what is not."""
    with errors():
        _take_keys()
        spec = load(job, sets)
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


@click.command()
@of_a_job
@click.option(
    "--cluster",
    type=click.Path(path_type=Path),
    required=True,
    help="Cluster file of a running Ray cluster.",
)
@stage_options
def submit(job: Path, sets: Sets, runs: str, cluster: Path, **options: Any) -> None:
    """Run a job on a running cluster: submit it, follow its log, exit with its result."""
    with errors():
        from engine import submission

        echo = partial(click.echo, nl=False)
        submission.submit(
            job, load(job, sets), cluster, sets=sets, runs=runs, options=options, on_log=echo
        )
