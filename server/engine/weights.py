"""Updates of the weights at run time: counted, because artifacts fit the first weights."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from server.worker.message import RequestMessage


def count_weight_updates(worker: Any, controller: Any) -> None:
    """Count whenever weights are loaded into a running model, by vLLM or a worker extension.

    vLLM's updates begin with `start_weight_update` or `reload_weights` (`reset_weights` randomizes
    them); what an extension loads goes through the model's own `load_weights`.
    """

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def count_and_call(*args: Any, **kwargs: Any) -> Any:
            controller.weight_updates += 1
            return call(*args, **kwargs)

        return count_and_call

    model = worker.model_runner.get_model()
    for owner, name in (
        (worker, "start_weight_update"),
        (worker, "reload_weights"),
        (worker, "reset_weights"),
        (model, "load_weights"),
    ):
        if hasattr(owner, name):
            setattr(owner, name, counted(getattr(owner, name)))


def refuse_unusable(request: RequestMessage, can_steer: bool, weight_updates: int) -> None:
    """Refuse a control whose artifact a worker lacks, or that was made for other weights.

    Args:
        request: The control.
        can_steer: Whether the worker has steering vectors.
        weight_updates: Times that weights were loaded after the start.

    Raises:
        RuntimeError: The request goes on without its control.
    """
    steered, has_probe = request["steering"] is not None, request["difficulty"] is not None
    if steered and not can_steer:
        raise RuntimeError("this worker has no steering vectors")
    if weight_updates and (steered or has_probe):
        raise RuntimeError("the weights were updated since probes and vectors were made")
