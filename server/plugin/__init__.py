"""API server side of the plugin: replaces vLLM's routes and creates the shared state."""

import asyncio
import logging
import signal
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.datastructures import State

from server.commands.startup import announce_when_ready
from server.settings import settings
from server.surface import TESTED, require
from server.worker.message import CONFIG_KEY

logger = logging.getLogger("vllm.entrostat")


class EntrostatPlugin:
    """Entry point of the group `vllm.endpoint_plugins`."""

    name = "entrostat"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Attach our routes; vLLM lets them replace its routes of the same path and method.

        Raises:
            UnsupportedVllm: The installed vLLM lacks names that the routes need.
        """
        require("api")
        from server.routes.table import attach_routes

        attach_routes(app, app.state.args)
        app.include_router(APIRouter(lifespan=_telemetry_until_shutdown))

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Load profiles and artifacts, start telemetry, wrap the handlers and their engine."""
        # After the check of `attach_router`: these modules import from vLLM.
        from vllm.renderers.chat_utils import load_chat_template
        from vllm.version import __version__ as vllm_version

        from server.metrics import observe
        from server.requests.generation import ControlledEngine
        from server.requests.merge import HANDLERS, add_reports
        from server.requests.workers import WorkerWatch, on_all_workers
        from server.routes.state import ServerState
        from server.tracing import start as start_tracing

        _check(engine_client.vllm_config)
        start_tracing(engine_client.vllm_config)
        template = load_chat_template(getattr(args, "chat_template", None))
        server = ServerState(settings(), engine_client, template)
        server.artifacts.keep_common(await on_all_workers(engine_client, "entrostat_artifacts"))
        server.artifacts.count_states()
        observe.set_versions(version("entrostat"), vllm_version)
        alone = engine_client.vllm_config.parallel_config._api_process_count == 1
        workers = WorkerWatch(engine_client, server.ask_workers, alone=alone)
        server.telemetry.start()
        controlled = ControlledEngine(engine_client)
        for name, method in HANDLERS.items():
            if (handler := getattr(state, name, None)) is not None:
                handler.engine_client = controlled
                setattr(handler, method, add_reports(getattr(handler, method)))
        state.entrostat = server
        loop = asyncio.get_running_loop()
        server.watch = loop.create_task(workers.run(), name="entrostat-workers")
        loop.add_signal_handler(signal.SIGHUP, server.profiles.reload)
        models = [path.name for path in state.openai_serving_models.base_model_paths]
        self._announcement = loop.create_task(
            announce_when_ready(state, models, sorted(server.profiles))
        )
        logger.info(
            "entrostat: profiles %s; %d artifacts for this model",
            ", ".join(server.profiles),
            len(server.artifacts),
        )


@asynccontextmanager
async def _telemetry_until_shutdown(app: FastAPI) -> AsyncIterator[None]:
    """Stop the telemetry receiver and delete its socket on shutdown; end the status checks."""
    yield
    if (watching := app.state.entrostat.watch) is not None:
        watching.cancel()
    await app.state.entrostat.telemetry.stop()
    await asyncio.to_thread(app.state.entrostat.feedback.close)
    if (overrides := app.state.entrostat.overrides) is not None:
        overrides.close()
    if (log := app.state.entrostat.decision_log) is not None:
        await asyncio.to_thread(log.close)


def _check(config: Any) -> None:
    """Refuse to start without the worker side; warn about an untested version of vLLM.

    Raises:
        ValueError: The worker side is disabled, so that controls could not be applied.
    """
    processors = [str(name) for name in config.model_config.logits_processors or ()]
    ours = any("server.engine.runner_v" in name for name in processors)
    if not ours or CONFIG_KEY not in (config.additional_config or {}):
        raise ValueError(
            "the entrostat plugin is enabled without its worker side: start with "
            "`entrostat serve`, or add "
            "--logits-processors server.engine.runner_v1:EntropyProcessorV1 "
            f"--additional-config '{{\"{CONFIG_KEY}\": {{}}}}'"
        )
    from vllm.version import __version__

    if not __version__.startswith(f"{TESTED}."):
        logger.warning("entrostat: tested with vLLM %s.*, this is %s", TESTED, __version__)
