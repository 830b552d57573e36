"""The command `rehearse`: the whole job in small, before it costs anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli.options import Sets, errors, load, of_a_job
from engine.run.terminal import quiet

if TYPE_CHECKING:
    from rich.console import Console


@click.command()
@of_a_job
@click.option(
    "--cluster",
    type=click.Path(path_type=Path),
    help="Cluster file of any platform: its machines must hold the job as it is.",
)
@click.option("--until", metavar="STAGE", help="Rehearse up to this stage.")
@click.option("--keep", is_flag=True, help="Keep the rehearsal's folder.")
def rehearse(
    job: Path, sets: Sets, runs: str, cluster: Path | None, until: str | None, keep: bool
) -> None:
    """Run the job in small on this machine's CPU: small models, a few rows, no API is asked."""
    with errors():
        from engine.job.jobfile import read_job

        spec = load(job, sets)
        document = read_job(job, list(sets))
        from engine import rehearsal
        from engine.run.progress import Progress

        folder = rehearsal.folder_of(spec, runs)
        log = folder / "logs" / "rehearse.log"
        with quiet(log, f"rehearsal of {spec.name}") as console:
            done = rehearsal.rehearse(
                spec,
                runs,
                document=document,
                cluster=cluster,
                until=until,
                keep=keep,
                progress=Progress(console),
                log=log,
            )
            _print(console, done, keep)


def _print(console: Console, done: Any, keep: bool) -> None:
    from rich.table import Table

    # No title of the table, which would be cut into lines of the table's width.
    console.print(
        f"rehearsal of {done.job.name}: all went through", highlight=False, soft_wrap=True
    )
    table = Table()
    for column in ("stage", "seconds", "rows in", "rows out"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in done.stages:
        counts = (f"{stage.rows_in:,}", f"{stage.rows_out:,}") if stage.rows_in else ("", "")
        table.add_row(stage.name, f"{stage.seconds:.0f}", *counts)
    total = sum(stage.seconds for stage in done.stages)
    table.add_row("all", f"{total:.0f}", "", "")
    console.print(table)
    console.print(f"in small: {'; '.join(done.changes)}", highlight=False, soft_wrap=True)
    for doubt in done.doubts:
        console.print(f"[yellow]not tried[/] {doubt}", highlight=False, soft_wrap=True)
    if keep:
        console.print(str(done.folder), highlight=False, soft_wrap=True)
