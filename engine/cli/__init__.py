"""The command `distill`: load the job, call the pipeline, print. No logic."""

from __future__ import annotations

import click

from engine.cli.endpoint import serve
from engine.cli.loadtest import loadtest
from engine.cli.plan import plan
from engine.cli.rehearsing import rehearse
from engine.cli.running import check, run
from engine.cli.runs import batches, gc, status, verify
from engine.cli.submitting import fetch, logs, stop, submit


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="distill-engine", prog_name="distill")
def main() -> None:
    """Distil a large teacher into a small student, and prove what was gained."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell, e.g. eval "$(distill completion bash)"."""
    from click.shell_completion import get_completion_class

    source = get_completion_class(shell)
    assert source is not None, shell
    click.echo(source(main, {}, "distill", "_DISTILL_COMPLETE").source())


for command in (
    check,
    plan,
    rehearse,
    run,
    status,
    verify,
    gc,
    batches,
    serve,
    loadtest,
    submit,
    logs,
    stop,
    fetch,
    completion,
):
    main.add_command(command)
