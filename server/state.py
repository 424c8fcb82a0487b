"""What the routes of one API server share."""

from pathlib import Path
from typing import Any

from fastapi import Request

from probes.artifact import ModelIdentity
from server.artifacts import Artifacts, shipped_artifacts
from server.profiles import Profiles
from server.settings import Settings
from server.telemetry import Telemetry


class ServerState:
    """Profiles, artifacts and telemetry of one API server."""

    def __init__(self, settings: Settings, engine: Any) -> None:
        self.settings = settings
        self.engine = engine
        self.profiles = Profiles(settings.profiles)
        roots = [shipped_artifacts()]
        if settings.artifacts is not None:
            roots.insert(0, settings.artifacts)
        self.artifacts = Artifacts(roots, _identify(engine.model_config))
        self.telemetry = Telemetry()

    def served_names(self, request: Request) -> set[str]:
        """Names a request may put into `model`: the base model's and the adapters'."""
        models = request.app.state.openai_serving_models
        return {path.name for path in models.base_model_paths} | set(models.lora_requests)


def _identify(model_config: Any) -> ModelIdentity:
    checkpoint = Path(model_config.model)
    if not checkpoint.is_dir():  # a hub id: vLLM has it in the hub's cache by now
        from huggingface_hub import snapshot_download

        checkpoint = Path(
            snapshot_download(
                model_config.model, revision=model_config.revision, local_files_only=True
            )
        )
    return ModelIdentity.of(checkpoint)


def state_of(request: Request) -> ServerState:
    """The state that the plugin left on the app."""
    state: ServerState = request.app.state.entrostat
    return state
