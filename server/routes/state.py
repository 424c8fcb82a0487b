"""State shared by the routes of one API server."""

from typing import Any

from fastapi import Request

from server.artifacts import load_artifacts
from server.decisions.frame import ChatFrame
from server.inquiry.engine_reads import ReadCache
from server.profiles import Profiles
from server.requests.admission import Admission
from server.requests.telemetry import Telemetry
from server.settings import Settings
from server.worker.message import CONFIG_KEY, LAYERS_KEY, VECTORS_KEY


class ServerState:
    """Profiles, artifacts and telemetry of one API server."""

    def __init__(self, settings: Settings, engine: Any, chat_template: str | None = None) -> None:
        self.settings = settings
        self.engine = engine
        self.profiles = Profiles(settings.profiles)
        ours = (engine.vllm_config.additional_config or {}).get(CONFIG_KEY, {})
        self.artifacts = load_artifacts(engine.model_config, chat_template, ours.get(LAYERS_KEY))
        servers = engine.vllm_config.parallel_config._api_process_count
        self.admission = _admission(ours.get(VECTORS_KEY), servers, settings.steering_queue)
        self.speculative = engine.vllm_config.speculative_config is not None
        """Whether the engine verifies draft tokens."""
        self.telemetry = Telemetry()
        self.readings = ReadCache()
        self.chat_frame: ChatFrame | None = None
        """The chat template around a question of `/v1/decisions`, once it was rendered."""

    def served_names(self, request: Request) -> set[str]:
        """Valid values of `model`: names of the base model and the loaded adapters."""
        models = request.app.state.openai_serving_models
        return {path.name for path in models.base_model_paths} | set(models.lora_requests)


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
