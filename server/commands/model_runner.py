"""Which of vLLM's two model runners a server uses."""

import copy
import os
from enum import StrEnum
from typing import Any

VARIABLE = "VLLM_USE_V2_MODEL_RUNNER"


class Runner(StrEnum):
    """vLLM's model runners."""

    V1 = "v1"
    V2 = "v2"


def choose_runner(args: Any, flag: Runner | None) -> Runner:
    """The flag, else vLLM's environment variable, else vLLM's own choice for these arguments.

    Args:
        args: Parsed arguments of `vllm serve`, as they will be served.
        flag: `--model-runner`.
    """
    if flag is not None:
        return flag
    if args.watermark_config is not None:  # vLLM then uses V2, whatever the variable says
        return Runner.V2
    if variable := os.environ.get(VARIABLE):
        return Runner.V2 if variable == "1" else Runner.V1
    return _choice_of_vllm(args)


def _choice_of_vllm(args: Any) -> Runner:
    """V2 where Triton runs, unless the arguments ask for what only V1 does.

    Raises:
        ValueError: vLLM refuses the arguments.
    """
    from vllm.triton_utils import HAS_TRITON

    if not HAS_TRITON:  # as on every CPU; spares making the configuration twice
        return Runner.V1
    from vllm.engine.arg_utils import AsyncEngineArgs

    engine_args = AsyncEngineArgs.from_cli_args(copy.deepcopy(args))
    return Runner.V2 if engine_args.create_engine_config().use_v2_model_runner else Runner.V1
