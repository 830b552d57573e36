"""In which language a text is written, by py3langid, whose model comes with it."""

from __future__ import annotations


def language_of(text: str | None) -> str | None:
    """ISO 639-1 code (`en`); None for null and for what is too short to tell."""
    raise NotImplementedError
