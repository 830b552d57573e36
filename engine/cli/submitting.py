"""Commands that hand a job to a cluster, follow it there, stop it, and fetch what it needs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from engine.cli.options import Sets, errors, load, of_a_job, stage_options

ECHO = partial(click.echo, nl=False)


@click.command()
@of_a_job
@click.option(
    "--cluster",
    type=click.Path(path_type=Path),
    required=True,
    help="Cluster file of any platform: a RayJob, a Slurm script, a SkyPilot task, a running"
    " cluster, …",
)
@click.option("--dry-run", is_flag=True, help="Print exactly what would be handed over.")
@click.option("--detach", is_flag=True, help="Do not wait: `distill logs` follows it.")
@stage_options
def submit(
    job: Path,
    sets: Sets,
    runs: str,
    cluster: Path,
    dry_run: bool,
    detach: bool,
    **options: Any,
) -> None:
    """Run a job on a cluster: hand it over, follow its log, exit with its result. One that is there
    already is joined; Ctrl-C leaves it running."""
    with errors():
        from engine import submission
        from engine.submission.request import build_request

        spec = load(job, sets)
        request = build_request(job, spec, sets=sets, runs=runs, options=options)
        _followed(
            job,
            partial(
                submission.submit, request, cluster, dry_run=dry_run, detach=detach, on_log=ECHO
            ),
        )


@click.command()
@of_a_job
def logs(job: Path, sets: Sets, runs: str) -> None:
    """Follow the last submission of a job to its end, and exit with its result."""
    with errors():
        from engine import submission

        name = load(job, sets).name
        _followed(job, partial(submission.read_log, name, runs, ECHO))


@click.command()
@of_a_job
def stop(job: Path, sets: Sets, runs: str) -> None:
    """Ask the last submission of a job to end; what is finished is kept."""
    with errors():
        from engine import submission

        submission.stop(load(job, sets).name, runs, ECHO)


@click.command()
@of_a_job
def fetch(job: Path, sets: Sets, runs: str) -> None:
    """Bring the job's models and data sets from the hub into this machine's cache (HF_HOME)."""
    with errors():
        from engine.submission.fetch import fetch as fetch_all

        fetch_all(load(job, sets), ECHO)


def _followed(job: Path, work: Any) -> None:
    try:
        work()
    except KeyboardInterrupt:
        click.echo(
            f"no longer followed; the job goes on there. distill logs {job} follows it again,"
            f" distill stop {job} ends it",
            err=True,
        )
        raise SystemExit(1) from None
