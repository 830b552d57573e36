"""The pictures in the READMEs, from a finished run of the quickstart and what it printed:

python -m benchmarks.quickstart.pictures runs/quickstart printed.txt

`printed.txt` is the output of `distill run`. A picture shows lines of it as they stand there; what
changes while a stage works, and what names a folder of the machine, is left out.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import MONOKAI

from engine.stages.report import summary_table
from engine.stages.report.plots import plots

ROOT = Path(__file__).parents[2]
TERMINAL = ROOT / ".github/quickstart.svg"
PLOTS = ROOT / "engine/stages/report"
COLUMNS = 78
# By what a plot shows: the name of its file.
NAMES = {
    "Scores on": "quality",
    "Training and": "loss",
    "Output tokens": "throughput",
    "Time to first": "first_token",
}
_SETTLED = re.compile(r"\w+ +(done|reused) ")
# rich's frame, without the fonts that it would fetch from a server
FRAME = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px;
  line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


def terminal_svg(report: dict[str, Any], printed: str) -> str:
    """The stages as they ended, and the table and its sentences."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    for line in printed.splitlines():
        if _SETTLED.match(line):
            console.print(line, highlight=False)
    console.print(summary_table(report))
    return console.export_svg(title="", code_format=FRAME, theme=MONOKAI, unique_id="quickstart")


def plot_svgs(report: dict[str, Any], metrics: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """(name of the file, SVG) of each plot, on white: a page may be dark."""
    for plot in plots(report, metrics):
        for start, name in NAMES.items():
            if plot.caption.startswith(start):
                head, end, body = plot.svg.partition(">")
                yield name, f'{head}{end}<rect width="100%" height="100%" fill="white"/>{body}'


def main() -> None:
    """Write them, and say how large they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("printed", type=Path)
    options = parser.parse_args()
    report = json.loads((options.run / "report.json").read_text())
    (train,) = options.run.glob("4-train-*/metrics.jsonl")
    metrics = [json.loads(line) for line in train.read_text().splitlines()]
    pictures = {TERMINAL: terminal_svg(report, options.printed.read_text())}
    for name, svg in plot_svgs(report, metrics):
        pictures[PLOTS / f"{name}.svg"] = svg
    for path, svg in pictures.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(svg, encoding="utf-8")
        print(f"{len(svg):>8,} bytes  {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
