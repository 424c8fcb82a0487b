"""What the tests of the worker side share."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.laws import (
    NO_LAW,
    NO_ROW,
    DynatempLaw,
    EdtLaw,
    EntropyTargetLaw,
    FixedLaw,
    HapoLaw,
    HapoStatistics,
    ShuffledLaw,
    TemperatureLaw,
    law_row,
)
from probes.truncations import Mirostat, PLess, TopNSigma, Truncation
from server.engine.controller import Controller
from server.engine.publisher import Directory
from server.requests.telemetry import TracedToken
from server.worker.message import (
    KEY,
    DifficultyMessage,
    PhaseMessage,
    RequestMessage,
    SteeringMessage,
    WeakMessage,
    engine_control,
    phase_control,
    shuffled_control,
    truncation_control,
)

VOCAB = 64
CPU = torch.device("cpu")
STATISTICS = HapoStatistics(pivot=-0.7, std=1.0, scale_positive=0.5, scale_negative=-0.25)
FIXED = FixedLaw(temperature=0.5)
HAPO = HapoLaw(tau=0.5)
EDT = EdtLaw()
DYNATEMP = DynatempLaw(exponent=1.5)
ENTROPY_TARGET = EntropyTargetLaw(entropy_target=1.0, side="both")
TOP_N_SIGMA, P_LESS, MIROSTAT = TopNSigma(n=1.5), PLess(), Mirostat(surprise_target=1.0)
TRUNCATIONS: tuple[Truncation, ...] = (TOP_N_SIGMA, P_LESS, MIROSTAT)
SHUFFLED = ShuffledLaw(temperatures=(0.25, 0.5, 1.0, 2.0), weights=(1.0, 2.0, 0.0, 1.0))
ALL_LAWS: tuple[TemperatureLaw | None, ...] = (None, FIXED, HAPO, EDT, DYNATEMP, ENTROPY_TARGET)


def asking(
    law: TemperatureLaw | None = FIXED,
    trace: int = 7,
    address: str = "ipc:///nowhere",
    choices: int = 1,
    seed: int = 0,
    truncation: Truncation | None = None,
    confidence: bool = False,
    state: str | None = None,
    phases: PhaseMessage | None = None,
    weak: WeakMessage | None = None,
) -> dict[str, Any]:
    """`extra_args` of a controlled request, as they arrive in the worker."""
    tag, row = law_row(law, STATISTICS)
    shuffled = None
    if isinstance(law, ShuffledLaw):
        shuffled = shuffled_control(
            temperatures=law.temperatures, cumulative=law.cumulative(), seed=seed
        )
    cut = None
    if truncation is not None:
        cut = truncation_control(kind=truncation.tag, parameters=truncation.row(), call=trace)
    control = engine_control(
        law=tag,
        parameters=row,
        trace=trace,
        address=address,
        choices=choices,
        shuffled=shuffled,
        truncation=cut,
        confidence=confidence,
        state=state,
        phases=phases,
        weak=weak,
    )
    return {KEY: dict(control)}


def while_thinking(
    law: TemperatureLaw | None,
    marks: tuple[int, int],
    *,
    thinking: bool = False,
    call: int = 7,
) -> PhaseMessage:
    """Another law while the model thinks.

    Args:
        law: Of the thinking phase.
        marks: Tokens that start and end it.
        thinking: Whether the prompt ends inside it.
        call: As the trace of the request.
    """
    tag, row = law_row(law, STATISTICS)
    return phase_control(law=tag, parameters=row, marks=marks, thinking=thinking, call=call)


def thinks(tokens: Sequence[int], marks: tuple[int, int], thinking: bool) -> list[bool]:
    """Whether each of these tokens is one of the thinking phase, told one by one."""
    found = []
    for token in tokens:
        found.append(thinking)
        thinking = (thinking or token == marks[0]) and token != marks[1]
    return found


def request(
    steering: SteeringMessage | None = None, difficulty: DifficultyMessage | None = None
) -> RequestMessage:
    """A request under no law, as it arrives in the worker."""
    control = engine_control(
        law=NO_LAW,
        parameters=NO_ROW,
        trace=7,
        address="ipc:///nowhere",
        choices=1,
        difficulty=difficulty,
        steering=steering,
    )
    return cast(RequestMessage, dict(control))


def random_logits(num_rows: int, vocab: int = VOCAB, scale: float = 3.0, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


class Record(dict[tuple[int, int, int], TracedToken]):
    """What a publisher was given: (trace, choice, index) → what was measured."""

    lost: ClassVar[dict[str, int]] = {}

    def publish(
        self,
        values: Sequence[Tensor | None],
        slots: NDArray[np.int64] | Tensor,
        indices: NDArray[np.int64] | Tensor,
        directory: Directory,
    ) -> None:
        unknown = [math.nan] * len(slots)
        rows = zip(
            np.asarray(slots).tolist(),
            np.asarray(indices).tolist(),
            *(unknown if column is None else column.tolist() for column in values),
            strict=True,
        )
        for slot, index, *measured in rows:
            if index >= 0 and directory.traces[slot]:
                key = (int(directory.traces[slot]), int(directory.choices[slot]), index)
                self[key] = TracedToken._make(measured)


def run_eagerly(controller: Controller) -> None:
    """Spare a test the compiler, which `test_kernels.py` is about."""
    controller.kernels.compile_with(lambda function, dynamic: function)


def make_controller(num_slots: int = 8, vocab: int = VOCAB) -> tuple[Controller, Record]:
    record = Record()
    controller = Controller(num_slots, vocab, CPU, record)  # type: ignore[arg-type]
    run_eagerly(controller)
    return controller, record


def bits(logits: Tensor) -> Tensor:
    """For comparisons bit by bit, in which NaN equals itself and 0 is not -0."""
    return logits.view(torch.int32)
