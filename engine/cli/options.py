"""What several commands share: arguments, options, and how errors end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from engine.errors import EngineError, Preempted, SpecError, Stopped, remedy_of
from engine.job.spec import JobSpec
from engine.machines.running_cluster import LAST_WORDS

Sets = tuple[str, ...]  # what an option gives that may be repeated
JOB = click.argument("job", type=click.Path(path_type=Path))
SETS = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Override one field, e.g. train.learning_rate=3e-5.",
)
RUNS = click.option(
    "--runs",
    default="runs",
    show_default=True,
    help="Folder that holds the runs; up to curate also s3://bucket/folder, gs://…",
)
RUN = click.argument("run")
CLUSTER = click.option(
    "--cluster", type=click.Path(path_type=Path), help="Cluster file; none: a local Ray."
)


def of_a_job(command: Any) -> Any:
    """The job file, its overrides and the folder of its runs."""
    return JOB(SETS(RUNS(command)))


def stage_options(command: Any) -> Any:
    """The options that choose what a run does."""
    for option in (
        click.option(
            "--strict",
            is_flag=True,
            help="Bad input lines end the run instead of going to quarantine.",
        ),
        click.option("--force", is_flag=True, help="Make the chosen stages again, in new folders."),
        click.option(
            "--retry",
            type=click.Choice(["failed"]),
            help="Ask the teachers again for rows that ended in `error`.",
        ),
        click.option("--until", metavar="STAGE", help="Run up to this stage."),
        click.option(
            "--from",
            "from_",
            metavar="STAGE",
            help="Run from this stage on; earlier ones must be finished.",
        ),
        click.option("--only", metavar="STAGE", help="Run this stage alone."),
    ):
        command = option(command)
    return command


def load(job: Path, sets: Sets) -> JobSpec:
    from engine.job.jobfile import load_job

    return load_job(job, list(sets))


@contextmanager
def errors(*, second_start: bool = True) -> Generator[None]:
    """Engine errors become one message on stderr and an exit code; Ctrl-C and SIGTERM say how to go
    on. Without a `second_start`, an error that has a name ends with 0 and tells its code: only
    what is nobody's mistake (a node that is taken away, a kill, a bug) is worth another cluster."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except Stopped as stopped:
        click.echo(str(stopped), err=True)
        sys.exit(stopped.exit_code)
    except EngineError as error:
        name = click.style(type(error).__name__, fg="red", bold=True)
        click.echo(f"{name}: {error}", err=True)
        if not second_start and not isinstance(error, Preempted):
            click.echo(f"{LAST_WORDS} {error.exit_code}", err=True)
            sys.exit(0)
        sys.exit(error.exit_code)
    except OSError as error:
        if not (remedy := remedy_of(error)):
            raise
        click.echo(f"{error}{remedy}", err=True)
        sys.exit(EngineError.exit_code)
    except KeyboardInterrupt:
        click.echo("interrupted; what is finished is kept, the same command resumes", err=True)
        sys.exit(1)


def ray_address(cluster: Path | None) -> str | None:
    """Where to join the cluster of a file; None without one. SpecError for a file whose cluster
    does not run yet."""
    if cluster is None:
        return None
    from engine.machines.native_file import read_native_file
    from engine.machines.running_cluster import load_cluster

    if read_native_file(cluster).platform != "running":
        raise SpecError(
            f"{cluster} is a file of machines that do not run yet; hand the job over: distill"
            f" submit JOB --cluster {cluster}"
        )
    return load_cluster(cluster).ray_address or "auto"
