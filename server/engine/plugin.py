"""The worker side of the plugin: hooks a loaded model runner if it is enabled.

vLLM calls `register` in every process, possibly more than once. Nothing happens until a worker
whose `additional_config` has the key `entrostat` has loaded its model.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from vllm.distributed import get_tensor_model_parallel_rank

from server.artifacts import load_artifacts
from server.commands.startup import send_to_supervisor
from server.engine.steering import Size, SteeringControl, Vectors, num_rows
from server.engine.steering_hooks import HOOKS_VERSION, decoder_layers, guard_attention
from server.engine.uploads import load_uploaded
from server.engine.weights import count_weight_updates
from server.surface import Side, UnsupportedVllm, require
from server.worker.message import (
    CONFIG_KEY,
    LAYERS_KEY,
    VECTORS_KEY,
    WorkerArtifact,
    WorkerStatus,
)
from server.worker.supported import EngineSettings, refuse_controls, refuse_steering


def register() -> None:
    """Entry point of the group `vllm.general_plugins`."""
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    if getattr(WorkerWrapperBase.init_device, "entrostat", False):
        return
    init_device = WorkerWrapperBase.init_device

    def init_device_and_attach(wrapper: Any) -> None:
        init_device(wrapper)
        attach(wrapper.worker)

    init_device_and_attach.entrostat = True  # type: ignore[attr-defined]
    WorkerWrapperBase.init_device = init_device_and_attach


def attach(worker: Any) -> None:
    """Make a worker bind its entropy processor once the model is loaded.

    The worker also gains `entrostat_status`, which API servers call for readiness, and
    `entrostat_artifacts`, which tells them what it has loaded; `entrostat_load` loads one more.
    """
    if CONFIG_KEY not in (worker.vllm_config.additional_config or {}):
        return
    _refuse_unsupported(worker)
    load_model: Callable[..., Any] = worker.load_model

    def load_model_and_bind(*args: Any, **kwargs: Any) -> Any:
        result = load_model(*args, **kwargs)
        worker.entrostat_processor = processor = bind(worker.model_runner)
        if processor is not None:
            count_weight_updates(worker, processor.controller)
        return result

    worker.load_model = load_model_and_bind
    worker.entrostat_status = lambda: status(worker)
    worker.entrostat_artifacts = lambda: loaded_artifacts(worker)
    worker.entrostat_load = lambda folder: load_uploaded(
        getattr(worker, "entrostat_processor", None), folder, steered_layers(worker.model_runner)
    )


def _refuse_unsupported(worker: Any) -> None:
    """Refuse a version of vLLM whose runner lacks what we hook; the supervisor prints the reason.

    Raises:
        UnsupportedVllm: Naming all that is missing.
    """
    sides: tuple[Side, Side] = ("v2", "v2 runner")
    if hasattr(worker.model_runner, "input_batch"):
        sides = ("v1", "v1 runner")
    try:
        require("worker", *sides)
    except UnsupportedVllm as error:
        send_to_supervisor(failure=str(error))
        raise


def bind(runner: Any) -> Any | None:
    """Find our processor in a loaded runner, compile its kernels and hook it in.

    Returns:
        The processor, or None on a rank that does not sample.

    Raises:
        ValueError: Controls do not work beside a setting of this server.
    """
    refuse_controls(_settings(runner))
    processors = _custom_processors(runner)
    for processor in processors:
        if type(processor).__module__.startswith("server.engine.runner_v"):
            processor.controller.kernels.warm_up()
            processor.bind(runner)
            steered = steered_layers(runner)
            artifacts = load_artifacts(
                runner.model_config,
                steered=steered,
                any_template=True,
                family=type(runner.get_model()).__name__,
            )
            if heads := artifacts.heads():
                processor.controller.read_difficulty(runner.model, heads)
            if readers := artifacts.state_readers():
                processor.controller.read_states(runner.model, readers)
            if vectors := artifacts.steering_vectors():
                processor.steer(steer(runner, vectors))
            processor.controller.artifacts = artifacts.for_workers()
            processor.examine, processor.uploaded = artifacts.examine, set()
            if get_tensor_model_parallel_rank() != 0:  # all ranks sample the same rows
                processor.controller.report_to(None)
            if hasattr(runner, "input_batch"):
                _prepare_v1(runner, alone=len(processors) == 1)
            return processor
    return None


def steered_layers(runner: Any) -> list[int] | None:
    """The layers that `--steering-layers` names; None means those of the vectors."""
    layers: list[int] | None = runner.vllm_config.additional_config[CONFIG_KEY].get(LAYERS_KEY)
    return layers


def steer(runner: Any, vectors: Vectors) -> SteeringControl:
    """Hook the steered layers of a loaded model, before anything is compiled.

    Raises:
        ValueError: The model's layers are not known, or its tokens do not stay together.
    """
    config, model_config = runner.vllm_config, runner.model_config
    refuse_steering(_settings(runner))
    wanted = steered_layers(runner) or sorted({n for layers in vectors.values() for n in layers})
    ours, scheduler = config.additional_config[CONFIG_KEY], config.scheduler_config
    slots = scheduler.max_num_seqs
    graphs = config.compilation_config.max_cudagraph_capture_size or 0
    size = Size(
        slots=slots,
        rows=num_rows(slots, ours.get(VECTORS_KEY)),
        tokens=max(scheduler.max_num_batched_tokens, graphs),
    )
    stream = torch.empty(
        model_config.get_hidden_size(), dtype=model_config.dtype, device=runner.device
    )
    model = runner.get_model()
    steering = SteeringControl(size, decoder_layers(model, wanted), vectors, stream)
    guard_attention(model, min(wanted))
    # vLLM's compile cache does not see hooks: this makes what is compiled part of its key.
    config.additional_config[CONFIG_KEY] = {
        LAYERS_KEY: wanted,
        "steering_rows": size.rows,
        "steering_hooks": HOOKS_VERSION,
    }
    return steering


def _settings(runner: Any) -> EngineSettings:
    return EngineSettings.of_config(runner.vllm_config, is_v2=not hasattr(runner, "input_batch"))


def _custom_processors(runner: Any) -> list[Any]:
    if hasattr(runner, "input_batch"):  # V1
        from vllm.v1.sample.logits_processor import BUILTIN_LOGITS_PROCESSORS

        builtin = tuple(BUILTIN_LOGITS_PROCESSORS)
        everyone = runner.input_batch.logitsprocs.all
        return [processor for processor in everyone if not isinstance(processor, builtin)]
    sampler = getattr(runner, "sampler", None)
    return [] if sampler is None else list(sampler.logits_processors)


def _prepare_v1(runner: Any, *, alone: bool) -> None:
    if alone:
        # vLLM assumes that a custom processor reads the output tokens and, with asynchronous
        # scheduling, waits for them every step. Ours does not.
        runner.input_batch.logitsprocs_need_output_token_ids = False
    if runner.device.type == "cpu":
        spare_discarded_generators(runner)


def spare_discarded_generators(runner: Any) -> None:
    """Work around an engine crash on a CPU with seeded requests and chunked prompts.

    While a prompt is read in chunks, vLLM samples a token after each chunk and discards it. It
    then rewinds the request's random generator, which a CPU generator cannot do: the engine dies
    with "CPU Generator does not use offset". Here a request whose token will be thrown away lends
    no generator in the first place, so there is nothing to rewind, and its tokens are those of an
    unchunked prompt.
    """
    sample_tokens: Callable[..., Any] = runner.sample_tokens

    def sample_tokens_without_rewinding(*args: Any, **kwargs: Any) -> Any:
        generators = runner.input_batch.generators
        if not generators:
            return sample_tokens(*args, **kwargs)
        discarded = np.flatnonzero(runner.discard_request_mask.np[: runner.input_batch.num_reqs])
        spared = {row: generators.pop(row) for row in discarded.tolist() if row in generators}
        try:
            return sample_tokens(*args, **kwargs)
        finally:
            generators.update(spared)

    runner.sample_tokens = sample_tokens_without_rewinding


def loaded_artifacts(worker: Any) -> dict[str, WorkerArtifact] | None:
    """Ids of the loaded vectors and probes; None on a rank that does not sample."""
    processor = getattr(worker, "entrostat_processor", None)
    return None if processor is None else processor.controller.artifacts


def status(worker: Any) -> WorkerStatus:
    """Progress of a worker."""
    processor = getattr(worker, "entrostat_processor", None)
    if processor is None:
        return {"steps": 0, "failures": 0, "lost": {}, "weight_updates": 0}
    controller = processor.controller
    return {
        "steps": controller.steps,
        "failures": controller.failures,
        "lost": controller.lost_records,
        "weight_updates": controller.weight_updates,
    }
