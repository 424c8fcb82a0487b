"""The names of vLLM that the server imports, calls or replaces, and the check that they exist.

vLLM logs and skips a plugin that cannot be imported: the server would start without controls. So
every process checks its part of `SURFACE` first, and the tests check all of it. A check imports
only modules that its process imports anyway.
"""

import dis
import inspect
from functools import reduce
from importlib import import_module
from typing import Any, Literal, NamedTuple

TESTED = "0.32"
"""Version of vLLM that `pyproject.toml` allows; the check decides, not the number."""

Side = Literal["serve", "api", "v1", "v2", "worker", "v1 runner", "v2 runner"]
"""`entrostat serve`, API server, logits processor, worker, and the worker's model runner."""


class UnsupportedVllm(ValueError):
    """The installed vLLM lacks names that the server needs."""


class Name(NamedTuple):
    """One object of vLLM and what the server uses of it."""

    module: str
    path: str
    """Dotted path within the module."""
    parameters: tuple[str, ...] = ()
    """Parameters that it is called with."""
    attributes: tuple[str, ...] = ()
    """Attributes, fields or methods, of the class or set by its `__init__`."""

    def problem(self) -> str | None:
        """What is missing or changed, or None."""
        try:
            found = reduce(getattr, self.path.split("."), import_module(self.module))
        except ImportError as error:
            return f"`{self.module}` cannot be imported ({error})"
        except AttributeError:
            return f"`{self.module}` has no `{self.path}`"
        if lost := [name for name in self.attributes if not _has(found, name)]:
            return f"`{self.module}.{self.path}` has no `{lost[0]}`"
        if lost := [name for name in self.parameters if not _takes(found, name)]:
            return f"`{self.module}.{self.path}` takes no `{lost[0]}`"
        return None


CLI_MODULES = ("vllm.entrypoints.common.cli_args", "vllm.entrypoints.launchers.cli_args")
"""Where `make_arg_parser` is: since vLLM 0.33, and before."""
STARTUP_MODULES = ("vllm.entrypoints.common.startup", "vllm.entrypoints.serve.utils.api_utils")
"""Where `cli_env_setup` is: since vLLM 0.33, and before."""
QUESTION_MODULES = (
    "vllm.entrypoints.openai.decisions.question_types",
    "vllm.entrypoints.generate.structured_decisions.question_types",
)
"""Where `get_question_type` and its error are: since vLLM 0.33, and before."""
STATE_MODULES = (
    "vllm.entrypoints.openai.decisions.strategies",
    "vllm.entrypoints.generate.structured_decisions.strategies",
)
"""Where `state_text` is: since vLLM 0.33, and before."""

_E = "vllm.entrypoints"
_DECISIONS = f"{_E}.generate.structured_decisions"
_SAMPLER = "vllm.v1.sample.logits_processor"
_SAMPLER_V2 = "vllm.v1.worker.gpu.sample.logits_processor"

SURFACE: dict[Side, tuple[Name, ...]] = {
    "serve": (
        Name(f"{_E}.cli.serve", "ServeSubcommand", (), ("subparser_init", "validate", "cmd")),
        Name("vllm.utils.argparse_utils", "FlexibleArgumentParser"),
        Name("vllm.logger", "configure_logging_from_args"),
        Name("vllm.triton_utils", "HAS_TRITON"),
        Name(
            "vllm.engine.arg_utils",
            "AsyncEngineArgs",
            (),
            ("from_cli_args", "create_engine_config"),
        ),
        Name("vllm.config", "VllmConfig", (), ("use_v2_model_runner",)),
        Name("vllm.logger", "init_logger"),
        Name("vllm.platforms", "current_platform.is_cpu"),
        Name("vllm.utils.torch_utils", "async_tensor_h2d", ("data", "device", "out")),
        Name("vllm.distributed", "get_tensor_model_parallel_rank"),
        Name("vllm.v1.worker.worker_base", "WorkerWrapperBase.init_device"),
    ),
    "api": (
        Name("vllm", "envs.VLLM_API_KEY"),
        Name("vllm.version", "__version__"),
        Name("vllm.config", "ModelConfig", (), ("get_hidden_size", "get_total_num_hidden_layers")),
        Name("vllm.config", "ParallelConfig", (), ("_api_process_count",)),
        Name("vllm.exceptions", "GenerationError"),
        Name("vllm.exceptions", "VLLMClientError"),
        Name("vllm.exceptions", "VLLMValidationError"),
        Name("vllm.inputs", "TextPrompt"),
        Name("vllm.inputs", "tokens_input", ("cache_salt",)),
        Name("vllm.renderers", "TokenizeParams", ("max_total_tokens", "add_special_tokens")),
        Name("vllm.renderers.base", "BaseRenderer.tokenize_prompts_async"),
        Name("vllm.renderers.base", "BaseRenderer.get_eos_token_id"),
        Name("vllm.renderers.chat_utils", "load_chat_template"),
        Name("vllm.sampling_params", "RequestOutputKind.DELTA"),
        Name("vllm.sampling_params", "StructuredOutputsParams", ("json",)),
        Name(
            "vllm.sampling_params",
            "SamplingParams",
            ("logprob_token_ids", "logprobs", "prompt_logprobs", "seed", "structured_outputs"),
            ("extra_args", "ignore_eos", "max_tokens", "min_tokens", "n", "output_kind"),
        ),
        Name(
            "vllm.v1.engine.async_llm",
            "AsyncLLM",
            (),
            (
                *("generate", "add_request", "get_num_unfinished_requests"),
                *("check_health", "collective_rpc", "renderer", "model_config"),
            ),
        ),
        Name(f"{_E}.anthropic.api_router", "create_messages", ("request", "raw_request")),
        Name(f"{_E}.anthropic.api_router", "count_tokens", ("request", "raw_request")),
        Name(f"{_E}.anthropic.protocol", "AnthropicCountTokensRequest"),
        Name(f"{_E}.anthropic.protocol", "AnthropicMessagesRequest", (), ("output_config",)),
        Name(f"{_E}.anthropic.protocol", "AnthropicErrorResponse"),
        Name(f"{_E}.anthropic.protocol", "AnthropicMessagesResponse"),
        Name(
            f"{_E}.anthropic.serving",
            "AnthropicServingMessages",
            (),
            ("create_messages", "render_chat_request", "_merge_inline_system"),
        ),
        Name(
            f"{_E}.anthropic.serving",
            "AnthropicServingMessages.to_chat_completion_request",
            ("merge_inline_system",),
        ),
        Name(f"{_E}.generate.label_reads", "next_token_label_reads", ("lora_request",)),
        Name(f"{_DECISIONS}.protocol", "DecisionUsage"),
        Name(f"{_DECISIONS}.protocol", "QuestionDiagnostics"),
        Name(f"{_DECISIONS}.protocol", "QuestionSpec"),
        Name(f"{_DECISIONS}.protocol", "StructuredDecisionRequest"),
        Name(f"{_DECISIONS}.protocol", "StructuredDecisionResponse"),
        Name(f"{_E}.openai.chat_completion.api_router", "create_chat_completion"),
        Name(f"{_E}.openai.chat_completion.api_router", "create_batch_chat_completion"),
        Name(f"{_E}.openai.chat_completion.batch_serving", "OpenAIServingChatBatch"),
        Name(f"{_E}.openai.chat_completion.protocol", "BatchChatCompletionRequest"),
        Name(f"{_E}.openai.chat_completion.protocol", "ChatCompletionRequest"),
        Name(f"{_E}.openai.chat_completion.protocol", "ChatCompletionResponse"),
        Name(f"{_E}.openai.chat_completion.protocol", "ChatCompletionResponseChoice"),
        Name(
            f"{_E}.openai.chat_completion.serving",
            "OpenAIServingChat",
            (),
            ("create_chat_completion", "enable_prompt_tokens_details", "render_chat_request"),
        ),
        Name(f"{_E}.openai.chat_completion.serving", "OpenAIServingChat._check_model"),
        Name(f"{_E}.openai.completion.api_router", "create_completion"),
        Name(f"{_E}.openai.completion.protocol", "CompletionRequest"),
        Name(f"{_E}.openai.completion.protocol", "CompletionResponse"),
        Name(f"{_E}.openai.completion.protocol", "CompletionResponseChoice"),
        Name(f"{_E}.openai.completion.serving", "OpenAIServingCompletion.create_completion"),
        Name(
            f"{_E}.openai.models.serving",
            "OpenAIServingModels",
            (),
            ("base_model_paths", "lora_requests", "show_available_models"),
        ),
        Name(f"{_E}.openai.responses.api_router", "create_responses"),
        Name(f"{_E}.openai.responses.protocol", "ResponsesRequest"),
        Name(f"{_E}.openai.responses.protocol", "ResponsesResponse"),
        Name(f"{_E}.openai.responses.serving", "OpenAIServingResponses.create_responses"),
        Name(f"{_E}.serve.engine.protocol", "ErrorResponse"),
        Name(f"{_E}.serve.engine.protocol", "ModelCard"),
        Name(f"{_E}.serve.middleware.authenticate", "AuthenticationMiddleware"),
        Name(f"{_E}.serve.tokenize.api_router", "tokenize", ("request", "raw_request")),
        Name(f"{_E}.serve.tokenize.api_router", "detokenize", ("request", "raw_request")),
        Name(f"{_E}.serve.tokenize.protocol", "DetokenizeRequest"),
        Name(f"{_E}.serve.tokenize.protocol", "TokenizeRequest"),
        Name(f"{_E}.serve.utils.api_utils", "load_aware_call"),
        Name(f"{_E}.serve.utils.api_utils", "validate_json_request"),
        Name(f"{_E}.serve.utils.api_utils", "with_cancellation"),
        Name(f"{_E}.serve.utils.sse_keep_alive", "with_sse_keep_alive"),
        Name("vllm.v1.engine.core_client", "AsyncMPClient.call_utility_all_async", ("method",)),
        Name("vllm.lora.request", "LoRARequest", (), ("lora_path",)),
    ),
    "worker": (
        Name(
            "vllm.v1.worker.gpu_worker",
            "Worker",
            (),
            ("load_model", "reload_weights", "start_weight_update", "update_weights"),
        ),
    ),
    "v1": (
        Name("vllm.sampling_params", "SamplingParams", (), ("extra_args", "temperature")),
        Name(_SAMPLER, "BUILTIN_LOGITS_PROCESSORS"),
        Name(_SAMPLER, "BatchUpdate", (), ("removed", "added", "moved")),
        Name(
            _SAMPLER,
            "LogitsProcessor",
            (),
            ("apply", "is_argmax_invariant", "update_state", "validate_params"),
        ),
        Name(_SAMPLER, "MoveDirectionality.SWAP"),
    ),
    "v1 runner": (
        Name("vllm.v1.sample.sampler", "Sampler.sample", ("logits",)),
        Name(
            "vllm.v1.worker.gpu_model_runner",
            "GPUModelRunner",
            (),
            ("discard_request_mask", "get_model", "input_batch", "sample_tokens", "sampler"),
        ),
        Name(
            "vllm.v1.worker.gpu_model_runner",
            "GPUModelRunner._prepare_inputs",
            ("scheduler_output", "num_scheduled_tokens"),
        ),
        Name(
            "vllm.v1.worker.gpu_input_batch",
            "InputBatch",
            (),
            (
                "generators",
                "logitsprocs",
                "logitsprocs_need_output_token_ids",
                "num_computed_tokens_cpu",
                "num_prompt_tokens",
                "num_reqs",
                "num_tokens_no_spec",
                "req_ids",
            ),
        ),
    ),
    "v2": (
        Name("vllm.sampling_params", "SamplingParams", (), ("extra_args", "temperature")),
        Name(
            _SAMPLER_V2,
            "LogitsContext",
            (),
            ("expanded_idx_mapping", "expanded_local_pos", "idx_mapping_np", "pos"),
        ),
        Name(
            _SAMPLER_V2,
            "LogitsProcessor",
            (),
            ("add_request", "apply", "apply_staged_writes", "validate_params"),
        ),
        Name(
            _SAMPLER_V2,
            "LogitsProcRequestState",
            (),
            ("device", "max_num_reqs", "prompt_len", "vocab_size"),
        ),
    ),
    "v2 runner": (
        Name(
            "vllm.v1.worker.gpu.model_runner",
            "GPUModelRunner",
            (),
            ("get_model", "req_states", "sampler"),
        ),
        Name(
            "vllm.v1.worker.gpu.model_runner",
            "GPUModelRunner.sample",
            ("hidden_states", "input_batch"),
        ),
        Name(
            "vllm.v1.worker.gpu.model_runner",
            "GPUModelRunner.prepare_inputs",
            ("scheduler_output",),
        ),
        Name(
            "vllm.v1.worker.gpu.states",
            "RequestState",
            (),
            ("index_to_req_id", "num_computed_tokens_np", "prompt_len"),
        ),
        Name(
            "vllm.v1.worker.gpu.input_batch",
            "InputBatch",
            (),
            (
                "cu_num_logits_np",
                "idx_mapping",
                "idx_mapping_np",
                "num_draft_tokens",
                "num_scheduled_tokens",
                "query_start_loc_np",
                "seq_lens_cpu_upper_bound",
            ),
        ),
    ),
}
"""What each process uses of vLLM."""


def problems(*sides: Side) -> list[str]:
    """Describe every name of these processes that the installed vLLM lacks."""
    found = [name.problem() for side in sides for name in SURFACE[side]]
    return [problem for problem in dict.fromkeys(found) if problem is not None]


def require(*sides: Side) -> None:
    """Check the names of these processes.

    Raises:
        UnsupportedVllm: Some are missing; one sentence that lists them.
    """
    if found := problems(*sides):
        from vllm.version import __version__

        raise UnsupportedVllm(
            f"vLLM {__version__} does not fit this release of Entrostat, which supports vLLM "
            f"{TESTED}.*: {'; '.join(found)}"
        )


def first_module(modules: tuple[str, ...], name: str) -> Any:
    """Return `name` from the first of several modules that has it.

    Raises:
        UnsupportedVllm: None of them has it.
    """
    for module in modules:
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise UnsupportedVllm(f"`{name}` is in none of the modules {', '.join(modules)} of vLLM")


def _takes(function: Any, parameter: str) -> bool:
    return parameter in inspect.signature(function).parameters


def _has(owner: Any, attribute: str) -> bool:
    """Whether a class has an attribute, declares it as a field, or sets it when it is created."""
    if hasattr(owner, attribute):
        return True
    for one in inspect.getmro(owner) if inspect.isclass(owner) else ():
        if attribute in vars(one).get("__annotations__", {}):
            return True
        init = inspect.unwrap(vars(one).get("__init__", owner))
        stored = dis.get_instructions(init) if inspect.isfunction(init) else ()
        if any(step.opname == "STORE_ATTR" and step.argval == attribute for step in stored):
            return True
    return False
