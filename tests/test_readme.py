"""What READMEs, CONTRIBUTING and CHANGELOG show works as it stands there: job files load, commands
parse, links and paths lead somewhere. Their Python is run in test_readme_code.py."""

import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import click
import pytest
from documents import DOCUMENTS, README, ROOT, Block, blocks

from engine.cli import main
from engine.job.jobfile import load_job
from engine.job.spec import JobSpec
from engine.job.yamlfile import read_document
from engine.rows.records import SCHEMA_VERSION
from engine.run.manifests import FORMAT

LANGUAGES = {"sh", "yaml", "python", "text", "mermaid"}
# Files that a document tells the reader to make.
TOLD = {"jobs/my-first.yaml"}
# Programs that are not ours: it is enough that the shell finds them.
OTHERS = ("cp", "curl", "docker", "git", "kubectl", "openssl", "ray", "sbatch", "sky")
OURS = ("distill", "make", "pytest", "python", "python3")
STUB = """#!/bin/sh
printf '%s\\037' "${0##*/}" "$@" >> "$CALLS"
printf '\\n' >> "$CALLS"
"""


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_there_are_blocks_of_every_language(language):
    assert blocks(language)


def test_every_block_says_in_which_language_it_is():
    unknown = [block.id for block in blocks() if block.language not in LANGUAGES]
    assert unknown == []


@pytest.mark.parametrize("block", blocks("yaml"), ids=Block.name)
def test_yaml_is_a_job_a_cluster_or_a_block_of_a_job(block, tmp_path):
    file = tmp_path / "shown.yaml"
    file.write_text(block.text)
    shown = read_document(file).data
    if "version" in shown:
        load_job(file)
    elif "address" in shown:
        from engine.machines.running_cluster import load_cluster

        load_cluster(file)
    else:
        for name, fields in shown.items():
            JobSpec.model_fields[name].annotation.model_validate(fields)


def test_the_readmes_job_is_the_quickstart_in_short(tmp_path):
    (shown,) = [block for block in blocks("yaml") if block.document == README]
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    (tmp_path / "shown.yaml").write_text(shown.text)
    ours, quickstart = load_job(tmp_path / "shown.yaml"), load_job(ROOT / "jobs/quickstart.yaml")
    for stage in ("generate", "curate", "train", "evaluate"):
        identities = [getattr(job, stage).identity_fields() for job in (ours, quickstart)]
        assert identities[0] == identities[1], stage


def test_the_job_with_most_of_it_has_teachers_of_two_kinds(tmp_path):
    (shown,) = [block for block in blocks("yaml") if block.document == ROOT / "jobs/README.md"]
    (tmp_path / "shown.yaml").write_text(shown.text)
    vllm, openai = load_job(tmp_path / "shown.yaml").generate.teachers
    assert (vllm.kind, vllm.devices, openai.kind) == ("vllm", 16, "openai")


@pytest.fixture
def shell(tmp_path):
    """Run lines in bash, where every program that a document may name only notes how it was
    called; returns the calls."""
    programs = tmp_path / ".venv/bin"
    stubs = [programs / name for name in (*OURS, *OTHERS)]
    for script in ROOT.glob("benchmarks/**/*.sh"):
        stubs.append(tmp_path / script.relative_to(ROOT))
    for stub in stubs:
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text(STUB)
        stub.chmod(0o755)

    def run(lines: str) -> list[list[str]]:
        calls = tmp_path / "calls"
        calls.write_text("")
        command = [shutil.which("bash"), "-eu", "-c", "cd() { :; }\n" + lines]
        environment = {"PATH": str(programs), "CALLS": str(calls)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return [line.split("\037")[:-1] for line in calls.read_text().splitlines()]

    return run


@pytest.mark.parametrize("block", blocks("sh"), ids=Block.name)
def test_commands_are_ones_that_exist(block, shell):
    calls = shell(block.text)
    assert calls
    for call in calls:
        check(*call)


def check(program: str, *arguments: str) -> None:
    """A call of one of our programs is one that it takes, and files that it names are there."""
    if program in CHECKS:
        CHECKS[program](list(arguments))
    for argument in arguments:
        if re.fullmatch(r"(jobs|clusters|tests|engine)/.*\.\w+", argument):
            assert argument in TOLD or (ROOT / argument).exists(), argument


def check_distill(arguments: list[str]) -> None:
    """The command and its options parse; nothing runs."""
    context = click.Context(main)
    name, command, rest = main.resolve_command(context, arguments)
    command.make_context(name, rest, parent=context)


def check_make(arguments: list[str]) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(arguments) <= set(targets)


def check_python(arguments: list[str]) -> None:
    """A module or script that is there, and has the options."""
    if arguments[0] == "-m":
        file = ROOT / (arguments[1].replace(".", "/") + ".py")
    else:
        file = ROOT / arguments[0]
    source = file.read_text()
    for argument in arguments[1:]:
        option = argument.strip("[]")
        if option.startswith("--"):
            assert f'"{option}"' in source, f"{file} has no {option}"


def check_pytest(arguments: list[str]) -> None:
    """Files and functions that are there, and markers that the project has."""
    settings = (ROOT / "pyproject.toml").read_text()
    for option, argument in zip(["", *arguments], arguments, strict=False):
        if option == "-m":
            for marker in set(argument.split()) - {"not", "and", "or"}:
                assert f'"{marker}: ' in settings, marker
        elif argument != "-m":
            file, _, function = argument.partition("::")
            assert f"def {function}" in (ROOT / file).read_text()


CHECKS = {
    "distill": check_distill,
    "make": check_make,
    "pytest": check_pytest,
    "python": check_python,
    "python3": check_python,
}


@pytest.mark.parametrize(
    "line",
    [
        "distill check",
        "distill run jobs/quickstart.yaml --untill curate",
        "distill walk jobs/quickstart.yaml",
        "make quickstop",
        "python -m benchmarks.nothing.run",
        "python -m benchmarks.generation.run --jason x",
        "pytest tests/rows/test_metrics.py::test_nothing",
        'pytest -m "not sloow"',
        "kubectl apply -f clusters/nowhere.yaml",
    ],
)
def test_a_command_that_does_not_exist_is_found(line, shell):
    (call,) = shell(line)
    with pytest.raises((click.UsageError, AssertionError, FileNotFoundError)):
        check(*call)


def test_a_program_that_does_not_exist_is_found(shell):
    with pytest.raises(AssertionError, match="command not found"):
        shell("destill run jobs/quickstart.yaml")


def test_what_is_linked_to_exists():
    missing = []
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
            path, _, anchor = target.partition("#")
            if "://" in target:
                continue
            file = (document.parent / path).resolve() if path else document
            if not file.exists() or (anchor and anchor not in anchors(file)):
                missing.append(f"{document.relative_to(ROOT)}: {target}")
    assert missing == []


def anchors(document: Path) -> set[str]:
    """The headings of a document as GitHub names them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(words.replace(" ", "-"))
    return found


def test_files_that_are_named_exist():
    missing = []
    for document in DOCUMENTS:
        for name in re.findall(r"`([\w./-]+\.(?:py|sh|in|jinja))`", document.read_text()):
            places = (ROOT, ROOT / "engine", document.parent)
            if not any((place / name).exists() for place in places):
                missing.append(f"{document.relative_to(ROOT)}: {name}")
    assert missing == []


def test_the_readme_is_short_and_prose_is_not_wide():
    lines = README.read_text().splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 110] == []
    wide = []
    for document in DOCUMENTS:
        is_older = document.is_relative_to(ROOT / "benchmarks")
        if is_older or document.name == "FIELDS.md":  # the second is generated
            continue
        for number, line in enumerate(document.read_text().splitlines(), 1):
            if len(line) > 120 and not line.startswith("|"):
                wide.append(f"{document.relative_to(ROOT)}:{number}")
    assert wide == []


def test_the_changelog_has_the_versions_of_today():
    text = (ROOT / "CHANGELOG.md").read_text()
    rows = re.findall(r"^\| (rows|manifests|job file)[^|]*\| (\d+) \|", text, re.MULTILINE)
    job_version = JobSpec.model_fields["version"].default
    today = {"rows": SCHEMA_VERSION, "manifests": FORMAT, "job file": job_version}
    assert {what: int(version) for what, version in rows} == today


def test_pictures_are_small_whole_and_fetch_nothing():
    pictures = [*ROOT.glob(".github/*.svg"), *ROOT.glob("engine/**/*.svg")]
    assert pictures
    assert sum(os.path.getsize(picture) for picture in pictures) <= 500_000
    for picture in pictures:
        ElementTree.parse(picture)
        assert not re.search(r'(href|src)="?(http|file|/)|url\(["\']?http', picture.read_text())
