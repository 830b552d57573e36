"""An answer as it came: bytes and moments, nothing read yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

WHOLE, CLOSED, TIMEOUT, GARBLED, NOTHING = "whole", "closed", "timeout", "garbled", "nothing"


@dataclass(frozen=True)
class Answer:
    """One answer. Moments are time.perf_counter's, one for each part of the body; two parts of one
    segment have the same."""

    ended: float
    end: str = WHOLE  # | closed: cut | timeout | garbled: no HTTP | nothing: no byte came
    code: int = 0  # of HTTP; 0: it did not come
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    parts: Sequence[bytes] = ()
    arrived: Sequence[float] = ()
    fault: str = ""  # of what is not whole
    is_reusable: bool = False  # the connection it came by
