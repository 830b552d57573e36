"""The repository's Markdown and the code blocks in it, for the tests that read them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
_FENCE = re.compile(r"( *)```(\w*)$")
_ITEM = re.compile(r" *([-*]|\d+\.) ")


@dataclass(frozen=True)
class Block:
    """A code block: fenced, or indented by four spaces, which means commands."""

    document: Path
    line: int
    language: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    def name(self) -> str:
        """For pytest."""
        return self.id


def _documents() -> list[Path]:
    found = sorted(ROOT.glob("*.md"))
    for folder in ("engine", "jobs", "clusters", "tests", "benchmarks"):
        found += sorted((ROOT / folder).rglob("*.md"))
    return found


DOCUMENTS = _documents()


def blocks(language: str | None = None) -> list[Block]:
    """All code blocks, or those of one language."""
    found = []
    for document in DOCUMENTS:
        for block in _blocks_of(document):
            if language in (None, block.language):
                found.append(block)
    return found


def _blocks_of(document: Path) -> Iterator[Block]:
    lines = document.read_text().splitlines()
    number = 0
    in_list = False
    while number < len(lines):
        line = lines[number]
        fence = _FENCE.match(line)
        if fence:
            end = number + 1
            while lines[end].strip() != "```":
                end += 1
            inside = [text.removeprefix(fence[1]) for text in lines[number + 1 : end]]
            yield Block(document, number + 1, fence[2], "\n".join(inside) + "\n")
            number = end
        elif line.startswith("    ") and not in_list:
            end = number
            while end < len(lines) and lines[end].startswith("    "):
                end += 1
            inside = [text[4:] for text in lines[number:end]]
            yield Block(document, number + 1, "sh", "\n".join(inside) + "\n")
            number = end - 1
        elif line.strip() and not line.startswith(" "):
            in_list = bool(_ITEM.match(line))
        number += 1
