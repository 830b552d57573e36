"""The file that says what a good answer is."""

from __future__ import annotations

from pathlib import Path

from engine.errors import SpecError

EXAMPLE = "jobs/rubrics/helpful.txt"


def load_rubric(field: str, path: str) -> str:
    """The text of a rubric. SpecError names the `field` of the job where there is none to read."""
    file = Path(path)
    remedy = f"write what a good answer is into a text file ({EXAMPLE} is one), and name it there"
    if not file.exists():
        raise SpecError(f"{field}: there is no file {path}; {remedy}")
    if not file.is_file():
        raise SpecError(f"{field}: {path} is a folder; {remedy}")
    try:
        text = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise SpecError(f"{field}: {path} is no UTF-8 text ({error}); save it as UTF-8") from None
    if not text:
        raise SpecError(f"{field}: {path} is empty; {remedy}")
    return text
