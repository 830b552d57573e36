"""The block `serve`: the endpoint, and how the student's engine runs behind it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from engine.job.spec.base import EnvironmentVariable, Name, placement
from engine.job.spec.engines import EngineSpec

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServeSpec(EngineSpec):
    """Checkpoint -> an OpenAI-compatible endpoint. A teacher that is served brings an engine of its
    own. `replicas: [0, 4]` starts the first one when somebody asks."""

    least_replicas: ClassVar[int] = 0

    host: str = placement("127.0.0.1")
    """Address to listen on; anything but loopback demands a key, and TLS or `insecure`."""
    port: int = placement(8000, ge=1, le=65535)
    """Port to listen on."""
    api_key_env: EnvironmentVariable | None = placement(None)
    """Name of the environment variable that holds the bearer key; with it every route wants the
    key."""
    api_keys: dict[Name, EnvironmentVariable] = placement({})
    """Several keys: a name for each, which the access log shows, and its environment variable."""
    api_keys_file: str | None = placement(None)
    """YAML file of names and keys, which only its owner may read; read where the command runs."""
    tls_cert: str | None = placement(None)
    """Certificate (PEM) as the nodes see it; with it the endpoint speaks https."""
    tls_key: str | None = placement(None)
    """Its private key (PEM)."""
    insecure: bool = placement(False)
    """Allow keys and prompts off loopback without TLS, where something else encrypts."""
    open_health: bool = placement(False)
    """Answer /health and /-/healthz without a key; they say nothing else."""
    cors_origins: list[str] = placement([])
    """Origins whose pages may read answers; none: no page of another origin may."""
    fronts: int = placement(1, ge=1)
    """Processes that listen on the port; more than one where one core is too few for all bytes."""
    routing: Literal["least_open", "prefix"] = placement("least_open")
    """Which replica is asked: the least busy one, or one near that which knows most of the prompt's
    beginning."""
    target_open: float = placement(16.0, gt=0)
    """Open requests per replica that a range of `replicas` aims at."""
    upscale_delay_s: float = placement(10.0, ge=0)
    """How long there must be too many for a further replica to start."""
    downscale_delay_s: float = placement(300.0, ge=0)
    """How long there must be too few for a replica to leave."""
    drain_s: float = placement(120.0, ge=0)
    """How long a replica that leaves may answer what it has."""
    max_queued: int = placement(512, ge=0)
    """Requests per model, and per front, beyond what its engines decode at a time; more get 429. An
    engine takes no more sequences either, from whichever front."""
    max_queued_tokens: int | None = placement(None, ge=1)
    """Prompt tokens, per replica, of requests that have no first token yet; more get 429. Allowed
    seconds to the first token x prompt tokens that an engine reads per second; none: no bound."""
    wait_s: float = placement(60.0, ge=0)
    """How long a request waits for a replica where there is none; then 503."""
    header_timeout_s: float = placement(20.0, gt=0)
    """How long a client may take to send its headers, its body, or to read on."""
    max_body_mib: float = placement(8.0, gt=0)
    """Longest body of a request in MiB."""
    max_connections: int = placement(4_000, ge=1)
    """Clients that may be connected to a front; for more, idle ones are closed, then new ones get
    503. Fewer where the process may open fewer files (`ulimit -n`)."""
    adapters: dict[Name, str] = placement({})
    """LoRA adapters on the base (`--model baseline`, or a folder) by the names under which they are
    asked: folders, such as the one that `train.lora.keep_adapter` leaves."""
    server_args: dict[str, Any] = placement({})
    """Further arguments of vLLM's API server, by its names: `{enable_auto_tool_choice: true,
    tool_call_parser: hermes}`."""
    start_timeout_s: float = placement(900, gt=0)
    """Longest wait for the endpoint to be ready."""

    def inside(self, engine: EngineSpec) -> ServeSpec:
        """The same for this machine alone, with models that run as `engine` says and nothing that
        changes what they say: where a stage asks for itself."""
        changes: dict[str, Any] = {"host": LOOPBACK[0], "server_args": {}, "adapters": {}}
        changes |= {"tls_cert": None, "tls_key": None, "insecure": False, "cors_origins": []}
        for name in EngineSpec.model_fields:
            changes[name] = getattr(engine, name)
        return self.model_copy(update=changes)

    @property
    def is_on_loopback(self) -> bool:
        """Whether only this machine can come."""
        return self.host in LOOPBACK

    @property
    def has_keys(self) -> bool:
        """Whether a key is wanted."""
        return bool(self.api_key_env or self.api_keys or self.api_keys_file)

    def key_variables(self) -> dict[str, str]:
        """{field: environment variable} of each key."""
        named = {f"serve.api_keys.{name}": variable for name, variable in self.api_keys.items()}
        if self.api_key_env:
            named["serve.api_key_env"] = self.api_key_env
        return named

    @model_validator(mode="after")
    def _closed_to_others(self) -> ServeSpec:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("serve.tls_cert and serve.tls_key go together; give both")
        if self.is_on_loopback:
            return self
        if not self.has_keys:
            raise ValueError(
                f"serve.host={self.host} is not loopback: serve.api_key_env must name a key's"
                " environment variable"
            )
        if not (self.tls_cert or self.insecure):
            raise ValueError(
                f"serve.host={self.host} is not loopback, and without TLS everybody on the way"
                " reads the key: give serve.tls_cert and serve.tls_key, or, where something else"
                " encrypts, --insecure"
            )
        return self
