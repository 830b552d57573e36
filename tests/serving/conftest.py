"""A front before fake servers, and a client of it."""

import httpx
import pytest
from doubles.house import House

from engine.serving.front import FrontSettings
from engine.serving.keys import Keys
from engine.serving.limits import Limits


@pytest.fixture
def house():
    """Build a House; `keys` are bearer keys by name."""
    built = []

    def build(*models, keys=None, limits=None, **settings):
        front = FrontSettings(
            "127.0.0.1", 0, Keys.of(keys or {}), limits=Limits(**limits or {}), **settings
        )
        made = House(front, models or ("m",))
        built.append(made)
        return made

    yield build
    for each in built:
        each.close()


@pytest.fixture
def ask():
    """POST a chat to a House."""

    def post(house, body, **more):
        return httpx.post(f"{house.url}/v1/chat/completions", json=body, timeout=30, **more)

    return post
