"""What somebody who asks served models sees of them: an address, a key, for as long as they are
wanted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol


class LiveEndpoint(Protocol):
    """Where models answer."""

    base_url: str
    api_key: str | None


# serves these models for the length of the block
OpenEndpoint = Callable[[list[str]], AbstractContextManager[LiveEndpoint]]
