"""What several test modules share: one Ray cluster, one vLLM server, small prompt files, a job with
the fake teacher."""

import ast
import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from ipaddress import ip_address
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.result import machine
from benchmarks.serving.stand_ins import free_port
from engine import pipeline
from engine.errors import StageError
from engine.job.jobfile import dump_job, load_job
from engine.job.spec import JobSpec
from engine.rows.records import STATUSES
from engine.run import parts
from engine.run.identity import git_commit, versions

REPOSITORY = Path(__file__).parents[1]
KEY = "a-key-for-tests"
SHORT_QUICKSTART = [
    "prompts.limit=160",
    "generate.teachers.0.replicas=1",  # another engine's start is longer than so few answers
    "train.epochs=2",
    "train.checkpoint_steps=5",
]
SERVER_KEY_ENV = (
    "DISTILL_TEST_SERVER_KEY"  # set in every process of the cluster; the vLLM server takes any key
)


def pytest_addoption(parser):
    parser.addoption(
        "--proof-json",
        type=Path,
        help="write what ran, how long it took and what it recorded (`make proof`) to this file",
    )


def pytest_terminal_summary(terminalreporter, config):
    """The result of `make proof` in the form of benchmarks/proofs/results: commit, versions, and of
    each test what it recorded."""
    if target := config.getoption("proof_json"):
        ran = [
            report
            for word in ("passed", "failed")
            for report in terminalreporter.getreports(word)
            if report.when == "call"
        ]
        proofs = {
            report.head_line: {
                "passed": report.passed,
                "seconds": round(report.duration, 1),
                **dict(report.user_properties),
            }
            for report in ran
        }
        result = {
            "git_commit": git_commit(),
            "versions": versions(),
            "machine": machine(),
            "proofs": proofs,
        }
        target.write_text(json.dumps(result, indent=1) + "\n")


SHARED = {"ray_cluster", "quickstart_run"}  # fixtures of a whole session


def pytest_configure(config):
    """Ctrl-C is heard: a shell without job control starts what it puts into the background deaf to
    it, pytest and its workers too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Under pytest-xdist a file stays on one worker, and so do all whose tests ask for the one
    Ray cluster: Ray and engines leave the other core idle for nearly half of their time."""
    from xdist.scheduler import LoadScopeScheduling

    shared = set()
    for path in (REPOSITORY / "tests").rglob("test_*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        asked = {node.arg for node in nodes if isinstance(node, ast.arg)}
        asked |= {str(node.value) for node in nodes if isinstance(node, ast.Constant)}
        if SHARED & asked:
            shared.add(str(path.relative_to(REPOSITORY)))
    config.option.loadscopereorder = False  # by numbers of tests: the slow files have few

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return "cluster" if file in shared else file

    return ByFile(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """What takes longest begins first, so that no worker ends long before the other."""
    if hasattr(config, "workerinput"):
        shared = {item.path for item in items if SHARED & set(item.fixturenames)}
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: (item.path not in shared, item.path not in slow))


@pytest.fixture(scope="session")
def layout_scenarios(tmp_path_factory):
    """Run tests/drivers/layout_scenarios.py on so many nodes; returns what it saw."""

    def facts(nodes):
        folder = tmp_path_factory.mktemp("layouts")
        tests = REPOSITORY / "tests"
        environment = os.environ | {
            "PYTHONPATH": f"{REPOSITORY}:{tests}",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        environment.pop("RAY_ADDRESS", None)
        driver = str(tests / "drivers/layout_scenarios.py")
        command = [sys.executable, driver, str(folder), str(nodes)]
        with (folder / "log").open("wb") as log:
            scenarios = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            status = scenarios.wait(600)
        finally:
            _kill_with_children(scenarios)
        assert status == 0, (folder / "log").read_text()[-4000:]
        return json.loads((folder / "facts.json").read_text())

    return facts


def _kill_with_children(process):
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory):
    """One local Ray cluster for the whole session."""
    from engine.backends import proxy_guard, ray_cluster
    from engine.rehearsal import api_server, ground

    environment = {
        SERVER_KEY_ENV: "any",
        ground.KEY_VARIABLE: api_server.KEY,
        "RAY_metrics_report_interval_ms": "1000",  # Ray's own: each ten seconds
    }
    environment |= proxy_guard.HOOK  # for test_ray_serve_config.py
    with ray_cluster.connected(
        None, shared=tmp_path_factory.getbasetemp(), environment=environment, num_cpus=4
    ):
        yield


@pytest.fixture(scope="session")
def session_cluster(ray_cluster):
    """Environment of a command that joins that cluster in place of starting its own: this
    process's, as the cluster's start left it."""
    import ray

    address = ray.get_runtime_context().gcs_address
    return os.environ | {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token"}


@pytest.fixture(scope="session")
def quickstart_job():
    """The quickstart with fewer rows, and an endpoint behind KEY."""
    os.environ["DISTILL_TEST_KEY"] = KEY
    sets = [
        *SHORT_QUICKSTART,
        f"serve.port={free_port()}",
        "serve.api_key_env=DISTILL_TEST_KEY",
        "serve.server_args={enable_auto_tool_choice: true, tool_call_parser: hermes}",
        "loadtest.models=[student]",
        "loadtest.concurrency=[2]",
        "loadtest.rates=[4.0]",
        "loadtest.seconds=2",
        "loadtest.warmup_seconds=0.5",
    ]
    return load_job(REPOSITORY / "jobs/quickstart.yaml", sets)


@pytest.fixture(scope="session")
def quickstart_run(quickstart_job, ray_cluster, tmp_path_factory):
    """The whole of it, once per session, on the real components."""
    return pipeline.run(quickstart_job, tmp_path_factory.mktemp("runs"))


_OF_RAY = re.compile(r"ray::|raylet|gcs_server|ray/dashboard|ray/_private")


def open_to_others() -> list[tuple[str, str, int]]:
    """(name, address, port) of what Ray's processes under this one listen on, where another machine
    could reach it."""
    found = []
    for each in psutil.Process().children(recursive=True):
        try:
            if not _OF_RAY.search(" ".join(each.cmdline())):
                continue  # what other tests left running
            found += [
                (each.name(), *connection.laddr)
                for connection in each.net_connections("inet")
                if connection.status == "LISTEN"
            ]
        except psutil.Error:  # it ended meanwhile
            continue
    assert found, "something listens, or this looks at the wrong processes"
    return [
        (name, address, port)
        for name, address, port in found
        if not ip_address(address.removeprefix("::ffff:")).is_loopback
    ]


def statuses(folder: Path) -> dict[tuple[str, int, int], str]:
    """(teacher, prompt_id, sample) -> status of every visible row of a generate folder."""
    rows = parts.final_rows(parts.accepted_records(folder))
    columns = (rows.teacher, rows.prompt_id, rows.sample_index, rows.status)
    return {
        (rows.teachers[teacher], prompt_id, sample): STATUSES[status]
        for teacher, prompt_id, sample, status in zip(
            *(column.tolist() for column in columns), strict=True
        )
    }


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory):
    """Address of one vLLM server of the quickstart's teacher ("quickstart") for both API protocols,
    in float32; it wants no key."""
    from engine.backends.vllm_settings import engine_environment

    port = free_port()
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(REPOSITORY / "jobs/quickstart/teacher"),
        "--served-model-name",
        "quickstart",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--dtype",
        "float32",
        "--enforce-eager",
        "--no-enable-chunked-prefill",
        "--max-num-batched-tokens",
        "8192",
        "--max-num-seqs",
        "32",
        "--kv-cache-memory-bytes",
        str(2**28),
        "--generation-config",
        "vllm",
        "--disable-log-stats",
    ]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env=os.environ | engine_environment(1, "cpu"), stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + 300
        while not _healthy(f"http://127.0.0.1:{port}/health"):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the vLLM server did not start: {log.read_text()[-3000:]}")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _healthy(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


def stream_together(shards, build, *, what, **_):
    """`ray_data.stream` in this process: one replica, which gets all shards at once; errors as
    Ray's stream raises them."""
    if not shards:
        return

    async def work():
        try:
            worker = build()
        except Exception as error:
            raise StageError(f"{what}: {error}") from error
        return await asyncio.gather(*(worker(shard) for shard in shards))

    yield from asyncio.run(work())


def write_prompts(path: Path, count: int, first: int = 0) -> Path:
    rows = [
        {"prompt": f"What is {n} plus {n + 1}? #### {2 * n + 1}", "reference": str(2 * n + 1)}
        for n in range(first, first + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def fake_job(tmp_path):
    """Build a job whose teacher repeats the prompt's words; its model folder is never read."""

    def build(count: int = 40, **changes) -> JobSpec:
        job = {
            "name": "fake",
            "task": "math",
            "device": "cpu",
            "prompts": {
                "train": str(write_prompts(tmp_path / "train.jsonl", count)),
                "validation": str(write_prompts(tmp_path / "validation.jsonl", 8, first=1000)),
            },
            "generate": {
                "teachers": [{"name": "t", "kind": "fake", "model": "fake"}],
                "sampling": {"temperature": 0.0},
            },
            "train": {
                "student": str(REPOSITORY / "jobs/quickstart/student"),
                "init": "random",
                "block_tokens": 256,
                "tokenizer": str(REPOSITORY / "jobs/quickstart/teacher"),
            },
            "loadtest": {"models": []},
        }
        for name, block in changes.items():
            job[name] = (
                job[name] | block
                if isinstance(block, dict) and isinstance(job.get(name), dict)
                else block
            )
        return JobSpec.model_validate(job)

    return build


@pytest.fixture
def job_file(fake_job, tmp_path):
    """Write a job of fake_job to a file."""

    def write(*arguments, **changes):
        (tmp_path / "job.yaml").write_text(dump_job(fake_job(*arguments, **changes)))
        return tmp_path / "job.yaml"

    return write


def distill(*arguments, cwd=None, **options):
    """The command as a user types it."""
    command = [sys.executable, "-m", "engine.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, **options)


def save_tiny(folder: Path, architecture: str, **config) -> Path:
    """A random model of three narrow layers with the quickstart's tokenizer."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(REPOSITORY / "jobs/quickstart/teacher")
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 1024,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    torch.manual_seed(0)
    model = getattr(transformers, f"{architecture}ForCausalLM")(
        getattr(transformers, f"{architecture}Config")(**shape | config)
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_deepseek(tmp_path_factory):
    """DeepSeek-V3 in small: latent attention, and experts from the second layer on."""
    return save_tiny(
        tmp_path_factory.mktemp("deepseek"),
        "DeepseekV3",
        num_key_value_heads=4,
        moe_intermediate_size=64,
        n_shared_experts=1,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        topk_method="noaux_tc",
        first_k_dense_replace=1,
        kv_lora_rank=512,
        q_lora_rank=64,
        qk_rope_head_dim=64,
        v_head_dim=128,
        qk_nope_head_dim=128,
    )


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """Llama 3.1 in small: grouped heads, and its own stretched RoPE."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    }
    return save_tiny(
        tmp_path_factory.mktemp("llama"), "Llama", num_key_value_heads=2, rope_parameters=rope
    )


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB, and a function that fills it up."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("only root may mount a file system")

    def fill():
        with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(bytes(512)):
                pass

    yield disk, fill
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture
def answer_here():
    """Run prompts and generate of a job in this process, without Ray; publishes and returns
    generate's folder."""
    from engine.backends import fake
    from engine.run.context import Context
    from engine.run.manifests import finished, publish
    from engine.stages import generate

    def answer(job, runs, *, supersede=False):
        pipeline.run(job, runs, until="prompts")
        folders = {plan.stage: plan.folder for plan in pipeline.plan(job, runs)}
        inputs, out = {"prompts": finished(folders["prompts"])}, folders["generate"]
        (out / "data").mkdir(parents=True, exist_ok=True)
        counts = generate.run(
            job.generate, inputs, out, Context(job.name, job.task, job.seed), stream=fake.stream
        )
        cache = out.parent.parent / ".cache" / "content.json"
        identity = pipeline.STAGES[1].identity(job, inputs, cache)
        publish(out, "generate", identity, counts, 0.0, supersede=supersede)
        return out

    return answer
