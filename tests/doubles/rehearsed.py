"""In place of the small models of a rehearsal, which take seconds to make: their names."""

from __future__ import annotations

from pathlib import Path

from conftest import REPOSITORY

LORA = REPOSITORY / "jobs/llama-3.1-405b-to-llama-3.1-8b-lora.yaml"


class Models:
    """As LittleModels; the folders that it names are not there."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def model(
        self,
        model: str,
        revision: str | None = None,
        *,
        speaks: str | None = None,
        layers: int = 0,
        answers: bool = False,
    ) -> str:
        """A name that tells what was asked for."""
        return f"/small/{Path(model).name}-{speaks}-{layers}"

    def tokenizer(self, model: str) -> str:
        """Likewise."""
        return f"/tokenizer/{model}"
