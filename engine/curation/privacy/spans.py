"""Where finds lie in a text, and what is said before them."""

from __future__ import annotations

import re
from collections.abc import Iterator

Spans = Iterator[tuple[int, int]]
_LOOK_BACK = 40  # characters


def says(name: re.Pattern[str], text: str, start: int, look_back: int = _LOOK_BACK) -> bool:
    """Whether the words before `start` name what stands there."""
    return name.search(text, max(0, start - look_back), start) is not None
