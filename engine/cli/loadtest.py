"""The command that loads a server: the job's own models, or any server at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from engine.cli.options import CLUSTER, RUNS, SETS, Sets, errors, load, ray_address
from engine.errors import SpecError
from engine.job.spec import JobSpec
from engine.run.terminal import log_path, quiet

ONLY_URL = ("model", "prompts", "api_key_env", "tokenizer", "out")
# Options that are fields of the block `loadtest`, for who has no job: name -> (field, form, help)
FIELDS = {
    "--rates": ("rates", "[{}]", "Open loop: requests per second, as 1,2,4."),
    "--concurrency": ("concurrency", "[{}]", "Closed loop: requests in flight, as 1,4,16."),
    "--users": ("sessions", "{{users: [{}]}}", "Users who talk over several turns, as 2,8."),
    "--slo": ("slo", "{{{}}}", "What is promised, as ttft_ms=500,tpot_ms=50,percentile=99."),
    "--search": ("search", "{}", "Find the largest load within --slo: concurrency or rate."),
    "--arrivals": ("arrivals", "{}", "poisson, gamma, constant or ramp."),
    "--seconds": ("seconds", "{}", "Length of a level."),
    "--warmup": ("warmup_seconds", "{}", "Load before each level that is not measured."),
    "--max-tokens": ("max_tokens", "{}", "Longest answer."),
    "--processes": ("processes", "{}", "Processes that make the load."),
}


def with_fields(command: Any) -> Any:
    """The options of FIELDS."""
    for name, (_, _, told) in reversed(FIELDS.items()):
        command = click.option(name, help=told)(command)
    return command


@click.command()
@click.argument("job", type=click.Path(path_type=Path), required=False)
@SETS
@RUNS
@CLUSTER
@click.option("--url", help="Base URL of any OpenAI-compatible server; needs no job.")
@click.option("--model", help="The model's name at --url. Default: student with a job.")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    help="Prompts for --url: any file that a job may name. Default: the job's, or made-up words.",
)
@click.option(
    "--api-key-env", metavar="VAR", help="Environment variable that holds the key of --url."
)
@click.option(
    "--compare",
    "peers",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Result of `vllm bench serve`, guidellm or an earlier test, to be laid beside.",
)
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    help="Folder of the model's tokenizer: the server's counts are checked on a few answers.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the results of --url. Default: new."
)
@with_fields
def loadtest(
    job: Path | None,
    sets: Sets,
    runs: str,
    cluster: Path | None,
    url: str | None,
    **options: Any,
) -> None:
    """Load an endpoint, and say what it can carry and whose fault it is where it cannot.

    With JOB alone, the job's models are served and measured anew; with --url, any server is.
    """
    with errors():
        for_url = {name: options.pop(name) for name in ONLY_URL}
        peers = options.pop("peers")
        sets = (*sets, *_fields(options))
        if url is None:
            given = [name for name, value in for_url.items() if value is not None]
            if job is None or given or peers:
                raise SpecError(
                    "distill loadtest wants a JOB, or --url and --model of a server; --prompts,"
                    " --api-key-env, --compare, --tokenizer and --out go with --url"
                )
            _load_job(job, sets, runs, cluster)
        else:
            _load_url(url, job, sets, runs, for_url, peers)


def _fields(options: dict[str, Any]) -> Iterator[str]:
    for name, (field, form, _) in FIELDS.items():
        value = options[name.removeprefix("--").replace("-", "_")]
        if value is not None:
            if field == "slo":
                value = value.replace("=", ": ")
            yield f"loadtest.{field}={form.format(value)}"


def _load_job(job: Path, sets: Sets, runs: str, cluster: Path | None) -> None:
    """Measured anew each time, and never after a training that nobody asked for."""
    spec = load(job, sets)
    log = log_path(spec.name, runs, "loadtest")
    with quiet(log, spec.name) as console:
        from engine import pipeline
        from engine.run.progress import Progress
        from engine.stages.report import serving_table

        done = pipeline.run(
            spec,
            runs,
            only="loadtest",
            force=True,
            cluster=ray_address(cluster),
            progress=Progress(console),
            log=log,
        )
        info = done.manifests["loadtest"].info
        serving = info.model_dump(mode="json", exclude_unset=True)["serving"]
        console.print(serving_table(serving))
        console.print(str(done.folders["loadtest"]), highlight=False, soft_wrap=True)


def _load_url(
    url: str,
    job: Path | None,
    sets: Sets,
    runs: str,
    options: dict[str, Any],
    peers: tuple[Path, ...],
) -> None:
    """The job, where there is one, gives the load and the prompts; nothing of it is run further."""
    from engine.job.jobfile import load_loadtest

    spec = load(job, sets) if job else load_loadtest(sets)
    model = options["model"] or ("student" if job else None)
    if model is None:
        raise SpecError("--url wants the model's name there: --model NAME")
    name = spec.name if isinstance(spec, JobSpec) else "loadtest"
    log = log_path(name, runs, "loadtest")
    with quiet(log, name) as console:
        from engine import server_test
        from engine.run.progress import Progress
        from engine.stages.report import serving_table

        progress = Progress(console)
        key = options["api_key_env"]
        if options["prompts"]:
            prompts = server_test.read_prompts(options["prompts"])
        elif isinstance(spec, JobSpec):
            from engine import pipeline

            prompts = pipeline.validation_prompts(spec, runs, progress=progress)
            key = key or spec.serve.api_key_env
        else:
            prompts = server_test.made_up_prompts(spec.seed)
        out = options["out"] or log.parent.parent / log.stem
        tested = server_test.run(
            server_test.Asked(url, model, key),
            spec.loadtest,
            prompts,
            out,
            seed=spec.seed,
            compare=peers,
            tokenizer=options["tokenizer"],
            progress=progress,
        )
        console.print(serving_table(tested.serving))
        for sentence in tested.sentences:
            console.print(sentence, highlight=False)
        for path in tested.files:
            console.print(str(path), highlight=False, soft_wrap=True)
