"""The block `serve`: the endpoint, and how the student's engine runs behind it."""

from __future__ import annotations

from pydantic import model_validator

from engine.job.spec.base import EnvironmentVariable, placement
from engine.job.spec.engines import EngineSpec


class ServeSpec(EngineSpec):
    """Checkpoint -> an OpenAI-compatible endpoint. A teacher that is served brings an engine of its
    own."""

    host: str = placement("127.0.0.1")
    """Address to listen on; anything but loopback demands api_key_env."""
    port: int = placement(8000, ge=1, le=65535)
    """Port to listen on."""
    api_key_env: EnvironmentVariable | None = placement(None)
    """Name of the environment variable that holds the bearer key; with it every route wants the
    key."""
    start_timeout_s: float = placement(900, gt=0)
    """Longest wait for the endpoint to be ready."""

    @model_validator(mode="after")
    def _replicas_do_not_grow(self) -> ServeSpec:
        if isinstance(self.replicas, list):
            raise ValueError(f"serve.replicas={self.replicas}; give a number: they do not grow yet")
        return self
