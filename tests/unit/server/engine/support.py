"""What the tests of the worker side share."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.laws import Law, law_parameters
from server.engine.controller import Controller
from server.engine.publisher import Directory
from server.worker.message import KEY, engine_control

VOCAB = 64
CPU = torch.device("cpu")
PARAMETERS: dict[Law, dict[str, float]] = {
    Law.NONE: {},
    Law.FIXED: {"temperature": 0.5},
    Law.HAPO: {
        "pivot": -0.7,
        "std": 1.0,
        "scale_positive": 0.5,
        "scale_negative": -0.25,
        "tau": 0.5,
        "published": 0.0,
    },
    Law.EDT: {"theta": 0.5, "base": 0.8},
    Law.DYNATEMP: {"range": 0.5, "exponent": 1.5},
    Law.ENTROPY_TARGET: {"entropy_target": 1.0, "temperature_min": 0.1, "temperature_max": 2.0},
}


def asking(
    law: Law = Law.FIXED, trace: int = 7, address: str = "ipc:///nowhere", choices: int = 1
) -> dict[str, Any]:
    """`extra_args` of a controlled request, as they arrive in the worker."""
    control = engine_control(
        law=law,
        parameters=law_parameters(law, **PARAMETERS[law]),
        trace=trace,
        address=address,
        choices=choices,
    )
    return {KEY: dict(control)}


def random_logits(num_rows: int, vocab: int = VOCAB, scale: float = 3.0, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


class Record(dict[tuple[int, int, int], tuple[float, float]]):
    """What a publisher was given: (trace, choice, index) → (entropy, temperature)."""

    lost = 0

    def publish(
        self,
        entropy: Tensor,
        temperature: Tensor,
        slots: NDArray[np.int64] | Tensor,
        indices: NDArray[np.int64] | Tensor,
        directory: Directory,
    ) -> None:
        rows = zip(
            np.asarray(slots).tolist(),
            np.asarray(indices).tolist(),
            entropy.tolist(),
            temperature.tolist(),
            strict=True,
        )
        for slot, index, h, t in rows:
            if index >= 0 and directory.traces[slot]:
                key = (int(directory.traces[slot]), int(directory.choices[slot]), index)
                self[key] = (h, t)


def run_eagerly(controller: Controller) -> None:
    """Spare a test the compiler, which `test_kernels.py` is about."""
    controller.kernels._use(lambda function, dynamic: function)


def make_controller(num_slots: int = 8, vocab: int = VOCAB) -> tuple[Controller, Record]:
    record = Record()
    controller = Controller(num_slots, vocab, CPU, record)  # type: ignore[arg-type]
    run_eagerly(controller)
    return controller, record


def bits(logits: Tensor) -> Tensor:
    """For comparisons bit by bit, in which NaN equals itself and 0 is not -0."""
    return logits.view(torch.int32)
