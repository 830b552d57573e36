"""The command `plan`: what a job takes, before anything runs or is paid."""

from __future__ import annotations

from pathlib import Path

import click

from engine.cli.options import JOB, SETS, Sets, errors, load


@click.command()
@JOB
@SETS
@click.option("--rows", type=click.IntRange(1), help="Training prompts; none: those of the data.")
@click.option("--prompt-tokens", type=click.FloatRange(1), help="Tokens of a prompt on average.")
@click.option("--answer-tokens", type=click.FloatRange(1), help="Tokens of an answer on average.")
@click.option(
    "--cluster",
    type=click.Path(path_type=Path),
    help="Cluster file of any platform: its machines and their prices.",
)
@click.option(
    "--gpu",
    metavar="NAME[:figure=N,…]",
    help="Accelerator where the job names none; with figures also one that is not known here.",
)
@click.option(
    "--price",
    "prices",
    multiple=True,
    metavar="NAME=USD",
    help="US dollars per GPU-hour, e.g. H200=3.5.",
)
@click.option(
    "--from-run",
    metavar="RUN",
    help="A run folder whose measured speed and lengths count in place of assumptions.",
)
def plan(
    job: Path,
    sets: Sets,
    rows: int | None,
    prompt_tokens: float | None,
    answer_tokens: float | None,
    cluster: Path | None,
    gpu: str | None,
    prices: Sets,
    from_run: str | None,
) -> None:
    """Tell what a job takes: GPUs, hours, dollars and bytes by stage, and what would be better."""
    with errors():
        from engine.check.plan import Asked, plan_lines
        from engine.machines.native_file import read_native_file
        from engine.machines.prices import prices_given
        from engine.machines.work import Seen

        seen = Seen(rows=rows, prompt_tokens=prompt_tokens, answer_tokens=answer_tokens)
        given = prices_given(prices)
        spec = load(job, sets)
        file = read_native_file(cluster) if cluster else None
        for line in plan_lines(spec, Asked(seen, file, gpu, given, from_run)):
            click.echo(line)
