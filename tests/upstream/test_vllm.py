"""Inside vLLM: what engine/backends/vllm_*.py lean on beyond `LLM` and `vllm serve`. All of it is
read from source: nothing here imports vLLM."""

from __future__ import annotations

import pytest

from engine.asking.completions import STATUS_OF_FINISH
from engine.backends.library_names import (
    fields_of,
    literal_values,
    mapping_keys,
    package_folder,
)
from engine.backends.vllm_settings import ENGINE_FIELDS
from upstream.source_text import fields, parameters, text

LLM_ENGINE = "vllm/v1/engine/llm_engine.py"
ASYNC_LLM = "vllm/v1/engine/async_llm.py"
OUTPUTS = "vllm/v1/engine/output_processor.py"
LOGPROBS = "vllm/v1/engine/logprobs.py"
SAMPLING = "vllm/sampling_params.py"
PARSERS = "vllm/reasoning/abs_reasoning_parsers.py"
TOOL_PARSERS = "vllm/tool_parsers/abstract_tool_parser.py"
RENDERER = "vllm/renderers/base.py"
LAUNCHERS = "vllm/entrypoints/launchers"
SET_BY_THE_SERVER = {
    "served_model_name",
    "disable_log_stats",
    "disable_uvicorn_access_log",
    "disable_fastapi_docs",
    "allowed_origins",
    "enable_log_requests",
    "reasoning_parser",
    "enable_lora",
    "lora_modules",
    "max_lora_rank",
    "enable_auto_tool_choice",
    "tool_call_parser",
    "max_num_queued_tokens",
}

# The two engines


def test_an_engine_is_stepped_and_fed_from_outside():
    engine = "LLMEngine"
    takes = parameters(LLM_ENGINE, f"{engine}.from_engine_args")
    assert takes[:3] == ["cls", "engine_args", "usage_context"]
    takes = parameters(LLM_ENGINE, f"{engine}.add_request")
    assert takes[:4] == ["self", "request_id", "prompt", "params"]
    assert parameters(LLM_ENGINE, f"{engine}.abort_request")[:2] == ["self", "request_ids"]
    assert parameters(LLM_ENGINE, f"{engine}.step") == ["self"]
    assert "LLM_CLASS = 'LLM_CLASS'" in text("vllm/usage/usage_lib.py", "UsageContext")


def test_the_async_engine_takes_the_same():
    takes = parameters(ASYNC_LLM, "AsyncLLM.from_engine_args")
    assert takes[:2] == ["cls", "engine_args"]
    assert "usage_context" in takes
    takes = parameters(ASYNC_LLM, "AsyncLLM.generate")
    assert takes[:4] == ["self", "prompt", "sampling_params", "request_id"]
    assert "class EngineDeadError" in text("vllm/v1/engine/exceptions.py", "EngineDeadError")


@pytest.mark.parametrize(
    ("file", "engine"), [(LLM_ENGINE, "LLMEngine"), (ASYNC_LLM, "AsyncLLM")], ids=["sync", "async"]
)
def test_an_engine_holds_its_configuration_and_its_output_processor(file, engine):
    built = text(file, f"{engine}.__init__")
    assert "self.vllm_config = vllm_config" in built
    assert "self.output_processor = OutputProcessor(" in built
    assert "output_processor.process_outputs(" in text(file, engine), "nothing passes there"


def test_a_dead_engine_process_is_a_flag_of_its_client():
    clients = "vllm/v1/engine/core_client.py"
    assert "engine_dead" in fields(clients, "BackgroundResources")
    assert "self.resources = BackgroundResources(" in text(clients, "MPClient.__init__")
    assert "self.engine_core = EngineCoreClient.make_client(" in text(
        LLM_ENGINE, "LLMEngine.__init__"
    )
    assert "resources" not in text(clients, "InprocClient.__init__"), "it is watched, too"


# The server


def test_an_application_is_built_and_filled_as_vllm_does_it():
    built = parameters(f"{LAUNCHERS}/app.py", "build_app")
    assert built == ["args", "supported_tasks", "model_config"]
    filled = parameters(f"{LAUNCHERS}/api_server/app_state.py", "init_app_state")
    assert filled == ["engine_client", "state", "args", "supported_tasks"]
    assert parameters(f"{LAUNCHERS}/cli_args.py", "make_arg_parser") == ["parser"]
    assert parameters("vllm/engine/arg_utils.py", "EngineArgs.from_cli_args") == ["cls", "args"]
    own = text(f"{LAUNCHERS}/api_server/entry.py")
    assert "build_app(args, supported_tasks, model_config)" in own
    assert "init_app_state(engine_client, app.state, args, supported_tasks)" in own
    assert "OPENAI_API_SERVER" in text("vllm/usage/usage_lib.py", "UsageContext")


def test_an_engine_says_what_it_can_how_it_is_and_what_it_has():
    for asked in ("get_supported_tasks", "check_health", "errored"):
        assert parameters(ASYNC_LLM, f"AsyncLLM.{asked}") == ["self"]
    assert parameters(ASYNC_LLM, "AsyncLLM.shutdown") == ["self", "timeout"]
    assert "self.model_config = " in text(ASYNC_LLM, "AsyncLLM.__init__")
    assert parameters(OUTPUTS, "OutputProcessor.get_num_unfinished_requests") == ["self"]


def test_an_engine_that_is_full_says_503_before_an_answer_begins():
    """serving/exchange.py tells it as 429; of the rest only 500 and 501 come of a request."""
    limits = text(ASYNC_LLM, "AsyncLLM.check_admission")
    assert "self.scheduler_config.max_num_queued_reqs" in limits, "read at each request"
    assert "current_requests + n > max_num_reqs" in limits
    assert "self.scheduler_config = vllm_config.scheduler_config" in text(
        ASYNC_LLM, "AsyncLLM.__init__"
    )
    for full in ("QueueOverflowError", "MaxQueuedTokensError"):
        assert f"raise {full}()" in limits
        assert "HTTPStatus.SERVICE_UNAVAILABLE" in text("vllm/exceptions.py", full)
    before = text("vllm/entrypoints/generate/base/serving.py", "GenerateBaseServing._preflight")
    assert "self.engine_client.check_admission(n)" in before
    errors = "vllm/entrypoints/serve/exception_handling/error_response.py"
    told = text(errors, "create_error_response")
    assert "status_code = exc.http_status" in told
    assert "NOT_IMPLEMENTED" in told
    assert "SERVICE_UNAVAILABLE" not in told


def test_handlers_stop_the_server_that_the_application_names():
    assert "app.state.server = server" in text(f"{LAUNCHERS}/launcher.py")
    stopped = text(f"{LAUNCHERS}/launcher.py", "terminate_if_errored")
    assert "server.should_exit = True" in stopped
    handlers = "vllm/entrypoints/serve/exception_handling/handlers/vllm_error.py"
    assert "terminate_if_errored(server=req.app.state.server" in text(handlers)


def test_a_renderer_hands_the_template_and_the_tokenizer_to_a_thread():
    assert "make_async(self._tokenize_prompt, executor" in text(RENDERER)
    asked = "await self._tokenize_prompt_async(prompt, params)"
    assert asked in text(RENDERER, "BaseRenderer._tokenize_singleton_prompt_async")
    own = "vllm/renderers/hf.py"
    assert "make_async(safe_apply_chat_template, executor" in text(own)
    assert "await self._apply_chat_template_async(" in text(own, "HfRenderer.render_messages_async")
    assert parameters(own, "safe_apply_chat_template")[:3] == [
        "model_config",
        "tokenizer",
        "conversation",
    ]


def test_the_servers_arguments_have_the_names_that_are_set():
    arguments = set(fields("vllm/engine/arg_utils.py", "EngineArgs"))
    arguments |= set(fields("vllm/engine/arg_utils.py", "AsyncEngineArgs"))
    for block in ("BaseFrontendArgs", "FrontendArgs"):
        arguments |= set(fields(f"{LAUNCHERS}/cli_args.py", block))
    assert arguments >= SET_BY_THE_SERVER
    adapter = fields("vllm/entrypoints/openai/models/protocol.py", "LoRAModulePath")
    assert adapter[:2] == ["name", "path"]


# Log-probabilities, kept as arrays


def test_each_output_passes_one_method_with_its_request_and_its_arrays():
    takes = parameters(OUTPUTS, "OutputProcessor.process_outputs")
    assert takes[:2] == ["self", "engine_core_outputs"]
    inside = text(OUTPUTS, "OutputProcessor.process_outputs")
    assert "self.request_states.get(req_id)" in inside
    assert "req_state.logprobs_processor.update_from_output(engine_core_output)" in inside
    outputs = fields("vllm/v1/engine/__init__.py", "EngineCoreOutput")
    assert {"request_id", "new_logprobs"} <= set(outputs)
    assert "frozen" not in text("vllm/v1/engine/__init__.py", "EngineCoreOutput")
    arrays = fields("vllm/v1/outputs.py", "LogprobsLists")
    assert arrays[:2] == ["logprob_token_ids", "logprobs"]


def test_an_output_without_arrays_adds_nothing_to_the_list_that_an_answer_gets():
    assert "if output.new_logprobs is not None:" in text(
        LOGPROBS, "LogprobsProcessor.update_from_output"
    )
    assert text("vllm/logprobs.py", "create_sample_logprobs").endswith(
        "return FlatLogprobs() if flat_logprobs else []"
    )
    assert "flat_logprobs: bool = False" in text(SAMPLING, "SamplingParams")
    answer = text(OUTPUTS, "RequestState._new_completion_output")
    assert "logprobs = self.logprobs_processor.logprobs" in answer
    assert "logprobs=logprobs" in answer


# What a request asks for, and how it ends


def test_loops_are_ended_by_the_engine():
    loops = fields(SAMPLING, "RepetitionDetectionParams")
    assert loops == ["max_pattern_size", "min_pattern_size", "min_count"]
    asked = {"repetition_detection", "detokenize", "output_kind", "logprobs", "seed"}
    assert asked <= set(fields(SAMPLING, "SamplingParams"))
    assert "FINAL_ONLY" in text(SAMPLING, "RequestOutputKind")


def test_each_ending_of_an_answer_has_a_status():
    endings = text("vllm/v1/engine/__init__.py", "FINISH_REASON_STRINGS")
    for ending in ("stop", "length", "abort", "error", "repetition"):
        assert f"'{ending}'" in endings
        assert ending in STATUS_OF_FINISH
    assert endings.count("'") == 10, f"an ending that no status is known for: {endings}"


def test_a_reasoning_parser_takes_a_whole_text():
    takes = parameters(PARSERS, "ReasoningParser.extract_reasoning")
    assert takes == ["self", "model_output", "request"]
    returns = text(PARSERS, "ReasoningParser.extract_reasoning")
    assert "-> tuple[str | None, str | None]" in returns
    manager = "ReasoningParserManager"
    assert parameters(PARSERS, f"{manager}.get_reasoning_parser") == ["cls", "name"]
    assert parameters(PARSERS, f"{manager}.list_registered") == ["cls"]
    request = "vllm/entrypoints/openai/chat_completion/protocol.py"
    assert "messages" in fields(request, "ChatCompletionRequest")


def test_a_tool_parser_is_made_for_one_answer_and_takes_a_whole_text():
    parser = "ToolParser"
    assert parameters(TOOL_PARSERS, f"{parser}.__init__") == ["self", "tokenizer", "tools"]
    takes = parameters(TOOL_PARSERS, f"{parser}.extract_tool_calls")
    assert takes == ["self", "model_output", "request"]
    assert parameters(TOOL_PARSERS, f"{parser}.adjust_request") == ["self", "request"]
    manager = "ToolParserManager"
    assert parameters(TOOL_PARSERS, f"{manager}.get_tool_parser") == ["cls", "name"]
    assert parameters(TOOL_PARSERS, f"{manager}.list_registered") == ["cls"]
    protocol = "vllm/entrypoints/generate/base/protocol.py"
    found = fields(protocol, "ExtractedToolCallInformation")
    assert {"tools_called", "tool_calls", "content"} <= set(found)
    request = "vllm/entrypoints/openai/chat_completion/protocol.py"
    assert {"tools", "skip_special_tokens"} <= set(fields(request, "ChatCompletionRequest"))
    hermes = "vllm/tool_parsers/hermes_tool_parser.py"
    assert "tool_call_start_token" in fields(hermes, "Hermes2ProToolParser")
    registered = mapping_keys(
        package_folder("vllm") / "tool_parsers/__init__.py", "_TOOL_PARSERS_TO_REGISTER"
    )
    assert {"hermes", "llama3_json", "mistral"} <= set(registered)


# Names that `distill check` reads from the source


def test_the_source_names_methods_types_and_arguments():
    vllm = package_folder("vllm")
    methods = vllm / "model_executor/layers/quantization/__init__.py"
    assert "fp8" in literal_values(methods, "QuantizationMethods")
    assert {"auto", "fp8"} <= set(literal_values(vllm / "config/cache.py", "CacheDType"))
    known = fields_of(vllm / "engine/arg_utils.py", "EngineArgs", "AsyncEngineArgs")
    unknown = ENGINE_FIELDS.keys() - set(known)
    assert not unknown, f"vLLM has no {sorted(unknown)} any more"
    written = {"disable_log_stats", "enforce_eager", "enable_chunked_prefill"}
    assert written | {"max_num_batched_tokens"} <= set(known)


# Variables


@pytest.mark.parametrize(
    ("variable", "file"),
    [
        ("VLLM_ENABLE_V1_MULTIPROCESSING", "vllm/envs.py"),
        ("VLLM_CPU_OMP_THREADS_BIND", "vllm/envs.py"),
        ("VLLM_NO_USAGE_STATS", "vllm/envs.py"),
        ("DO_NOT_TRACK", "vllm/envs.py"),
    ],
)
def test_a_variable_is_still_read(variable, file):
    assert f"'{variable}'" in text(file)


def test_threads_of_a_cpu_engine_can_be_left_unbound():
    assert "vllm_mask == 'nobind'" in text("vllm/utils/ompmultiprocessing.py")


def test_an_engine_chooses_long_rope_once_by_its_longest_length():
    rope = "vllm/model_executor/layers/rotary_embedding/phi3_long_rope_scaled_rope.py"
    assert "self.use_long_rope = max_model_len > original_max_position_embeddings" in text(rope)
