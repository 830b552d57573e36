"""Commands that read and tidy the folder of a run."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from engine.cli.options import (
    RUN,
    RUNS,
    SETS,
    Sets,
    errors,
    load,
)

STATES = {"reuse": "done", "resume": "unfinished", "run": "not started"}  # as `status` says them


@click.command()
@click.argument("job")
@SETS
@RUNS
def status(job: str, sets: Sets, runs: str) -> None:
    """How far a job is, from its files alone. JOB is a job file or a run folder."""
    with errors():
        from rich.console import Console
        from rich.table import Table

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
            spec, root = load(Path(job), sets), run_folder(runs)
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


@click.command()
@RUN
def verify(run: str) -> None:
    """Recompute every checksum, id and count of a run folder; exit 1 with what is wrong and what to
    do."""
    with errors():
        from engine.errors import StageError
        from engine.run.verify import verify as check_run
        from engine.store.paths import run_folder

        report = check_run(run_folder(run))
        for line in report.lines:
            click.echo(line)
        if report.problems:
            raise StageError("\n".join([f"{len(report.problems)} problems", *report.problems]))


@click.command()
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
    with errors():
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


@click.command()
@RUN
@click.option("--cancel", is_flag=True, help="Ask the vendors to stop them.")
def batches(run: str, cancel: bool) -> None:
    """The batches of a run folder that its vendors work on, or whose answers wait there."""
    with errors():
        import asyncio

        from rich.console import Console
        from rich.table import Table

        from engine.backends.api_batch_view import seen_batches
        from engine.store.paths import run_folder

        seen = asyncio.run(seen_batches(run_folder(run), cancel=cancel))
        table = Table("teacher", "batch", "requests", "the vendor says")
        for one in seen:
            batch = one.batch
            name = batch.vendor_id or batch.name
            table.add_row(batch.teacher, name, f"{len(batch.rows):,}", one.says)
        Console().print(table if seen else "no batch is under way")
        if seen and cancel:
            click.echo(
                "what a vendor had answered by then it charges, and the job's next run takes; the"
                " run after that asks the rest again"
            )
