"""The command `distill`: load the job, call the pipeline, print. No logic."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from engine.errors import EngineError, SpecError, Stopped, remedy_of
from engine.job.spec import JobSpec
from engine.run.terminal import log_path, quiet

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
STATES = {"reuse": "done", "resume": "unfinished", "run": "not started"}  # as `status` says them


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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(importlib.metadata.version("distill-engine"), prog_name="distill")
def main() -> None:
    """Distil a large teacher into a small student, and prove what was gained."""


def _load(job: Path, sets: Sets) -> JobSpec:
    from engine.job.jobfile import load_job

    return load_job(job, list(sets))


@contextmanager
def _errors() -> Generator[None]:
    """Engine errors become one message on stderr and an exit code; Ctrl-C and SIGTERM say how to go
    on."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except Stopped as stopped:
        click.echo(str(stopped), err=True)
        sys.exit(stopped.exit_code)
    except EngineError as error:
        Console(stderr=True).print(f"[bold red]{type(error).__name__}[/]: ", end="")
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if not (remedy := remedy_of(error)):
            raise
        click.echo(f"{error}{remedy}", err=True)
        sys.exit(EngineError.exit_code)
    except KeyboardInterrupt:
        click.echo("interrupted; what is finished is kept, the same command resumes", err=True)
        sys.exit(1)


def _ray_address(cluster: Path | None) -> str | None:
    from engine.machines.clusterfile import load_cluster

    return load_cluster(cluster).ray_address or "auto" if cluster else None


@main.command()
@of_a_job
def check(job: Path, sets: Sets, runs: str) -> None:
    """Validate a job file and what it names, and print the plan. Starts nothing."""
    with _errors():
        from engine import pipeline
        from engine.check.job import check_job, source_lines
        from engine.machines import planner

        spec = _load(job, sets)
        check_job(spec, running=pipeline.unfinished(spec, runs))
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


@main.command()
@of_a_job
@CLUSTER
@stage_options
def run(job: Path, sets: Sets, runs: str, cluster: Path | None, **options: Any) -> None:
    """Run a job: skip what is finished, resume what is not."""
    with _errors():
        _take_keys()
        spec = _load(job, sets)
        log = log_path(spec.name, runs, "run")
        with quiet(log, spec.name) as console:
            from engine import pipeline
            from engine.run.progress import Progress

            done = pipeline.run(
                spec,
                runs,
                cluster=_ray_address(cluster),
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
    from engine.machines.clusterfile import HANDED_KEYS

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


@main.command()
@click.argument("job")
@SETS
@RUNS
def status(job: str, sets: Sets, runs: str) -> None:
    """How far a job is, from its files alone. JOB is a job file or a run folder."""
    with _errors():
        from engine import pipeline
        from engine.job.jobfile import load_run
        from engine.run.lock import is_running
        from engine.run.manifests import PROGRESS, load_manifest
        from engine.run.progress import state_text
        from engine.store.paths import run_folder

        folder = run_folder(job)
        is_run = not isinstance(folder, Path) or folder.is_dir()
        if is_run:
            spec, root = load_run(folder), folder.parent
        else:
            spec, root = _load(Path(job), sets), run_folder(runs)
        table = Table("stage", "state", "progress", "folder", title=spec.name, title_justify="left")
        for stage in pipeline.plan(spec, root):
            manifest = load_manifest(stage.folder) if stage.folder else None
            state = STATES[stage.state]
            text = ""
            if manifest:
                text = f"{manifest.rows_out:,} rows in {manifest.seconds:,.0f} s"
            elif stage.folder and (stage.folder / PROGRESS).exists():
                seen = json.loads((stage.folder / PROGRESS).read_text())
                age = time.time() - seen["updated"]
                text = state_text(seen)
                state = f"unfinished, last seen {age:,.0f} s ago"
                if is_running(root / spec.name):
                    state = "running"
            folder_name = stage.folder.name if stage.folder else ""
            table.add_row(stage.stage, state, text, folder_name)
        Console().print(table)


@main.command()
@RUN
def verify(run: str) -> None:
    """Recompute every checksum, id and count of a run folder; exit 1 with what is wrong and what to
    do."""
    with _errors():
        from engine.errors import StageError
        from engine.run.verify import verify as check_run
        from engine.store.paths import run_folder

        report = check_run(run_folder(run))
        for line in report.lines:
            click.echo(line)
        if report.problems:
            raise StageError("\n".join([f"{len(report.problems)} problems", *report.problems]))


@main.command()
@RUN
@click.option("--dry-run", is_flag=True, help="Show what would go; remove nothing.")
@click.option(
    "--superseded",
    is_flag=True,
    help="Also remove the stage folders of settings that job.yaml no longer has.",
)
def gc(run: str, dry_run: bool, superseded: bool) -> None:
    """Remove what no commit record and no manifest of a run folder names; list what other settings
    left."""
    with _errors():
        from engine import pipeline
        from engine.job.jobfile import load_run
        from engine.run import gc as rubbish
        from engine.store.paths import run_folder

        folder = run_folder(run)
        removed = rubbish.gc(folder, dry_run=dry_run)
        is_old = pipeline.is_superseded(load_run(folder), folder.parent)
        old = rubbish.superseded(folder, is_old, remove=superseded and not dry_run)
        removed += old if superseded else []
        for path, size in removed:
            click.echo(f"{size:>14,}  {path}")
        verb = "would free" if dry_run else "freed"
        what = "files and folders" if superseded else "files"
        total = sum(size for _, size in removed)
        click.echo(f"{verb} {total:,} bytes in {len(removed):,} {what}")
        if old and not superseded:
            size = sum(size for _, size in old)
            click.echo(
                f"{size:,} bytes more belong to settings that job.yaml no longer has; --superseded"
                " removes them:"
            )
            for path, size in old:
                click.echo(f"{size:>14,}  {path}")


@main.command()
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
    with _errors():
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
        spec = _load(job, sets)
        log = log_path(spec.name, runs, "serve")
        with quiet(log, spec.name) as console:
            from engine import pipeline
            from engine.run.progress import Progress

            progress = Progress(console)
            if update:
                for name in names:
                    pipeline.update_served(spec, name, runs, progress=progress)
                    console.print(f"{name} is the newest now", highlight=False)
                return
            with pipeline.serving(
                spec, names, runs, cluster=_ray_address(cluster), progress=progress
            ) as endpoint:
                _tell_endpoint(console, progress, endpoint, names)


def _serve_folders(names: list[str], sets: Sets, runs: str, cluster: Path | None) -> None:
    from engine.job.jobfile import load_serve

    only = load_serve(list(sets))
    log = log_path("serve", runs, "serve")
    with quiet(log, "serve") as console:
        from engine import pipeline
        from engine.run.progress import Progress

        progress = Progress(console)
        with pipeline.serving_folders(
            only, [Path(name) for name in names], cluster=_ray_address(cluster), progress=progress
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


@main.command()
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
    with _errors():
        spec = _load(job, sets)
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
                    cluster=_ray_address(cluster),
                    progress=progress,
                    log=log,
                )
                info = done.manifests["loadtest"].info
                serving = info.model_dump(mode="json", exclude_unset=True)["serving"]
            console.print(serving_table(serving))


@main.command()
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
    with _errors():
        from engine import submission

        echo = partial(click.echo, nl=False)
        submission.submit(
            job, _load(job, sets), cluster, sets=sets, runs=runs, options=options, on_log=echo
        )


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell, e.g. eval "$(distill completion bash)"."""
    from click.shell_completion import get_completion_class

    source = get_completion_class(shell)
    assert source is not None, shell
    click.echo(source(main, {}, "distill", "_DISTILL_COMPLETE").source())


if __name__ == "__main__":
    main()
