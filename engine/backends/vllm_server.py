"""vLLM's own OpenAI application around an engine in this process.

The one place that imports vLLM's server modules, which are no stable API (they moved in 0.31):
tests/upstream/test_vllm.py says what we rely on.
"""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

from engine.backends.vllm_engine import last_words
from engine.backends.vllm_prompts import render_at_once
from engine.backends.vllm_settings import engine_arguments, engine_environment
from engine.backends.vllm_stream import make_lean
from engine.errors import SpecError
from engine.machines.layout import SPANNING
from engine.serving.replica import ModelServer, ServedModel

if TYPE_CHECKING:
    from argparse import Namespace


class VllmServer(ModelServer):
    """AsyncLLM behind `build_app`, as `vllm serve` has it, in the replica's process."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        os.environ.update(engine_environment(served.model.engine.devices, served.device))

    async def start(self) -> None:
        """Load the model (minutes, for large ones)."""
        from vllm import AsyncEngineArgs
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.app import build_app
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = server_arguments(self._served)
        with last_words("the engine did not start"):
            self._engine = await asyncio.to_thread(
                AsyncLLM.from_engine_args,
                AsyncEngineArgs.from_cli_args(arguments),
                usage_context=UsageContext.OPENAI_API_SERVER,
            )
        tasks = await self._engine.get_supported_tasks()
        self.app = build_app(arguments, tasks, self._engine.model_config)
        await init_app_state(self._engine, self.app.state, arguments, tasks)
        # vLLM tells its HTTP server to exit when the engine dies; a replica looks at `has_died`.
        self.app.state.server = SimpleNamespace(should_exit=False)
        chat = getattr(self.app.state, "openai_serving_chat", None)
        if chat:  # None for a model that does not generate
            make_lean(chat)
        render_at_once(self._engine.renderer)
        config = self._engine.vllm_config
        scheduled = config.scheduler_config
        self.batch = scheduled.max_num_seqs * self._served.model.engine.data_parallel
        is_unbounded = scheduled.max_num_queued_reqs is None
        if self._served.max_queued is not None and is_unbounded:
            # How much it batches is known only now; vLLM reads the limit at each request.
            scheduled.max_num_queued_reqs = self.batch + self._served.max_queued
        names = (self._served.model.name, *self._served.adapters)
        length = config.model_config.max_model_len
        self.cards = tuple((name, length) for name in names)

    @property
    def unfinished(self) -> int:
        """Requests that the engine has."""
        return self._engine.output_processor.get_num_unfinished_requests()

    @property
    def has_died(self) -> bool:
        """Whether the engine is gone."""
        return self._engine.errored

    async def check_health(self) -> None:
        """EngineDeadError where the engine is gone."""
        await self._engine.check_health()

    def shutdown(self) -> None:
        """End the engine's processes."""
        self._engine.shutdown()


def server_arguments(served: ServedModel) -> Namespace:
    """What `vllm serve` would be started with. SpecError for an argument that it does not have."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.openai.models.protocol import LoRAModulePath
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    model = served.model
    spanning = SPANNING in os.environ
    settings = engine_arguments(
        model, served.device, spanning=spanning, compiled=served.compiled
    ) | {
        "served_model_name": [model.name],
        "disable_log_stats": False,  # /metrics is made of them
        "disable_uvicorn_access_log": True,
        "disable_fastapi_docs": True,
        "allowed_origins": [],
        "enable_log_requests": False,
    }
    if served.max_queued_tokens is not None:
        settings["max_num_queued_tokens"] = served.max_queued_tokens
    if model.reasoning_parser:
        settings["reasoning_parser"] = model.reasoning_parser
    if model.tool_parser:
        settings |= {"enable_auto_tool_choice": True, "tool_call_parser": model.tool_parser}
    if served.adapters:
        modules = [LoRAModulePath(name=name, path=path) for name, path in served.adapters.items()]
        settings |= {"enable_lora": True, "lora_modules": modules}
        settings.setdefault("max_lora_rank", 64)
        settings.setdefault("max_loras", len(modules))
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    for name, value in (settings | dict(served.server_args)).items():
        if not hasattr(arguments, name):
            raise SpecError(f"serve.server_args.{name}: vLLM's API server has no such argument")
        setattr(arguments, name, value)
    try:
        validate_parsed_serve_args(arguments)
    except (TypeError, ValueError) as error:
        raise SpecError(f"serve.server_args: {error}") from error
    return arguments
