"""jobs/FIELDS.md is made from the spec as it is, and has every field once."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from engine.job.spec import (
    AnthropicTeacherSpec,
    EngineSpec,
    FakeTeacherSpec,
    GenerateSpec,
    JobSpec,
    JsdLoss,
    TrainSpec,
    VllmTeacherSpec,
)

ROOT = Path(__file__).parents[2]


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_fields", ROOT / "jobs/make_fields.py")
    sys.modules["make_fields"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_fields = load_script()


def section(heading: str) -> str:
    """The text below a heading, up to the next one of any size."""
    text = make_fields.document().partition(f" {heading}\n")[2]
    assert text, heading
    return re.split(r"^#", text, flags=re.MULTILINE)[0]


def test_the_file_is_fresh():
    assert make_fields.TARGET.read_text() == make_fields.document(), "python jobs/make_fields.py"


@pytest.mark.parametrize(
    ("heading", "block"),
    [
        ("The job", JobSpec),
        ("`generate`", GenerateSpec),
        ("`train`", TrainSpec),
        ("Engines", EngineSpec),
    ],
)
def test_a_block_has_a_line_for_each_of_its_fields(heading, block):
    named = re.findall(r"^\| `(\w+)`", section(heading), re.MULTILINE)
    assert named == list(block.model_fields)


def test_a_kind_has_its_own_fields_and_no_others():
    named = {}
    for kind in (VllmTeacherSpec, AnthropicTeacherSpec, FakeTeacherSpec, JsdLoss):
        name = kind.model_fields["kind"].default
        named[name] = re.findall(r"^\| `(\w+)`", section(f"`kind: {name}`"), re.MULTILINE)
    assert named == {
        "vllm": ["revision", "reasoning_parser", "tool_parser", "trust_remote_code"],
        "anthropic": [],
        "fake": ["fake", "concurrency", "prices"],
        "jsd": ["beta"],
    }


@pytest.mark.parametrize(
    ("block", "field", "words"),
    [
        (JobSpec, "seed", "whole number from 0, below 2,147,483,648"),
        (JobSpec, "name", "name of letters, digits, `.`, `_` and `-`"),
        (JobSpec, "device", "`gpu` or `cpu`"),
        (GenerateSpec, "teachers", "list of a teacher, at least 1"),
        (GenerateSpec, "rows_in_flight", "whole number from 1, or null"),
        (TrainSpec, "loss", "a loss"),
        (TrainSpec, "teacher", "block, or null"),
        (EngineSpec, "engine_args", "map"),
        (EngineSpec, "replicas", "whole number, or list of whole number"),
    ],
)
def test_types_are_words(block, field, words):
    assert make_fields.in_words(block.model_fields[field]) == words


def test_every_field_has_a_text_and_says_what_it_decides():
    rows = re.findall(r"^\| `\w+` \|.*$", make_fields.document(), re.MULTILINE)
    assert len(rows) > 140
    for row in rows:
        *_, decides, text, _ = re.split(r"(?<!\\)\|", row)
        assert decides.strip() in ("identity", "placement"), row
        assert text.strip(), row
