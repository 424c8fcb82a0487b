"""State shared by the routes of one API server."""

import asyncio
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.metadata import version
from typing import Any

import torch
import vllm.version
from fastapi import Request

from server.admin.overrides import OverrideFile
from server.admin.uploads import Uploads
from server.artifacts import load_artifacts
from server.audit.files import file_of_server
from server.audit.log import DecisionLog
from server.decisions.frame import ChatFrame
from server.feedback.service import FeedbackService
from server.inquiry.engine_reads import ReadCache
from server.metrics import observe
from server.planning.thinking import find_thinking_marks
from server.profiles import Profiles
from server.requests.admission import Admission
from server.requests.telemetry import Telemetry
from server.requests.workers import merge_status, on_all_workers
from server.settings import Settings
from server.wire.cards import ServerFacts
from server.wire.request import Control
from server.worker.message import CONFIG_KEY, LAYERS_KEY, VECTORS_KEY, WorkerStatus


class ServerState:
    """Profiles, artifacts and telemetry of one API server."""

    def __init__(self, settings: Settings, engine: Any, chat_template: str | None = None) -> None:
        self.settings = settings
        self.engine = engine
        shared = None if settings.supervisor is None else settings.supervisor.parent
        self.overrides = None if settings.admin_key is None else OverrideFile(shared)
        """Changes by the operator; None if there can be none."""
        self.profiles = Profiles(settings.profiles, self._uploaded_profiles())
        ours = (engine.vllm_config.additional_config or {}).get(CONFIG_KEY, {})
        self.artifacts = load_artifacts(engine.model_config, chat_template, ours.get(LAYERS_KEY))
        self.uploads = None if self.overrides is None else self._uploads(self.overrides)
        """Artifacts of the operator; None if there can be none."""
        servers = engine.vllm_config.parallel_config._api_process_count
        self.admission = _admission(ours.get(VECTORS_KEY), servers, settings.steering_queue)
        self.speculative = engine.vllm_config.speculative_config is not None
        """Whether the engine verifies draft tokens."""
        self.thinking = find_thinking_marks(engine.vllm_config)
        self.telemetry = Telemetry()
        self.feedback = FeedbackService(shared)
        self.readings = ReadCache()
        self.chat_frame: ChatFrame | None = None
        """The chat template around a question of `/v1/decisions`, once it was rendered."""
        self.decision_log = open_decision_log(settings, engine.vllm_config.parallel_config)
        self.worker_status: WorkerStatus | None = None
        """What the workers answered last."""
        self.watch: asyncio.Task[None] | None = None
        """The task that checks the workers."""

    def _uploaded_profiles(self) -> Callable[[], Mapping[str, Control]] | None:
        overrides = self.overrides
        return None if overrides is None else lambda: overrides.current().profiles

    def _uploads(self, overrides: OverrideFile) -> Uploads:
        load = partial(on_all_workers, self.engine, "entrostat_load")
        return Uploads(overrides, self.artifacts, load)

    async def sync_artifacts(self) -> None:
        """Offer what the operator uploaded at any API server; done before a request is planned."""
        if self.uploads is not None:
            await self.uploads.sync()

    @property
    def switched_off(self) -> tuple[str, ...]:
        """Controls that the operator switched off."""
        return () if self.overrides is None else self.overrides.current().off

    def served_names(self, request: Request) -> set[str]:
        """Valid values of `model`: names of the base model and the loaded adapters."""
        models = request.app.state.openai_serving_models
        return {path.name for path in models.base_model_paths} | set(models.lora_requests)

    def facts(self, request: Request) -> ServerFacts:
        """What answers depend on beside their request."""
        models = request.app.state.openai_serving_models
        status = self.worker_status
        return ServerFacts(
            **versions(),
            model=models.base_model_paths[0].name,
            dtype=str(self.artifacts.dtype).removeprefix("torch."),
            **self.artifacts.served.model_dump(),
            weight_updates=0 if status is None else status["weight_updates"],
        )

    async def ask_workers(self) -> WorkerStatus:
        """Ask all workers for their status; update the metrics; refuse artifacts of old weights.

        Raises:
            Exception: The engine does not answer.
        """
        answers = await on_all_workers(self.engine, "entrostat_status")
        status = merge_status(answers)
        known = 0 if self.worker_status is None else self.worker_status["weight_updates"]
        observe.observe_workers(status)
        if status["weight_updates"]:
            self.artifacts.mark_stale()
        if status["weight_updates"] != known:
            self.readings.clear()
        self.artifacts.count_states()
        self.worker_status = status
        return status


@cache
def versions() -> dict[str, str]:
    """Versions of Entrostat, vLLM and PyTorch."""
    return {
        "entrostat": version("entrostat"),
        "vllm": vllm.version.__version__,
        "torch": torch.__version__,
    }


def open_decision_log(settings: Settings, parallel: Any) -> DecisionLog | None:
    """The decision log of this API server, if there is to be one.

    Raises:
        OSError: Its file cannot be written.
    """
    if settings.decision_log is None:
        return None
    rank, servers = max(parallel._api_process_rank, 0), parallel._api_process_count
    return DecisionLog(
        file_of_server(settings.decision_log, rank, servers),
        settings.decision_log_max_bytes,
        settings.decision_log_files,
        prompts=settings.log_prompts,
    )


def _admission(vectors: int | None, servers: int, max_waiting: int) -> Admission | None:
    """Admission for this API server's share of the steering configs; None if they are unlimited.

    Raises:
        ValueError: There are fewer steering configs than API servers.
    """
    if vectors is None:
        return None
    if vectors < servers:
        raise ValueError(
            f"--max-steering-vectors {vectors} is too few for {servers} API servers: give at least "
            "one each"
        )
    return Admission(vectors // servers, max_waiting)


def state_of(request: Request) -> ServerState:
    """The state that the plugin stores on the app."""
    state: ServerState = request.app.state.entrostat
    return state
