"""The control of one engine request, as it crosses from the API process to the worker.

It rides in `SamplingParams.extra_args` under one reserved key. In the API process it is an
`EngineControl`, a type no JSON can produce, so that a client cannot send one; on the wire to the
worker it is a plain map.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from probes.laws import NUM_PARAMETERS

CONFIG_KEY = "entrostat"
"""Key in vLLM's `additional_config` that switches the worker side on."""
LAYERS_KEY = "steering_layers"
"""Key below `CONFIG_KEY`: which decoder layers can be steered."""
VECTORS_KEY = "max_steering_vectors"
"""Key below `CONFIG_KEY`: how many kinds of steering may be in use at once."""
KEY = "entropy"
"""Key in `extra_args`; every key that begins with it is reserved."""


class DifficultyMessage(TypedDict):
    """The part of a control that reads a probe at the end of the prompt."""

    probe: str
    """Id of its artifact."""
    trace: int
    """Identifies the call that waits for the decision."""
    temperatures: list[float]
    """T0 by class; 0 keeps the request's own."""
    budgets: list[int]
    """Tokens by class; 0 sets no limit."""
    stop: int
    """Token that ends an answer at its limit."""
    price: float
    """Accuracy that a normal answer's worth of tokens may cost; negative: the class chooses."""


class SteeringMessage(TypedDict):
    """The part of a control that steers."""

    key: str
    """Names all of it: requests with the same key are steered alike."""
    add: list[tuple[str, int, float]]
    """Vector, layer, factor."""
    clamp: list[tuple[str, int, float, float]]
    """Vector, layer, and the band of the stream's component along it."""
    all: bool
    """Whether the whole prompt is steered, not only from its last token on."""


class ShuffledMessage(TypedDict):
    """The part of a control that draws temperatures from a histogram."""

    temperatures: list[float]
    cumulative: list[float]
    """Share of the weight up to and including each temperature; the last is 1."""
    seed: int
    """Of the first completion; the i-th has seed + i."""


class TruncationMessage(TypedDict):
    """The part of a control that removes unlikely tokens."""

    kind: int
    """Tag of the truncation."""
    parameters: list[float]
    call: int
    """Tells the calls of one API server apart: a preempted completion is recognized by it."""


class PhaseMessage(TypedDict):
    """The part of a control that has another law while the model thinks."""

    law: int
    """Tag of the law of the thinking phase; the request's own law is that of the answer."""
    parameters: list[float]
    start: int
    """Token that starts the thinking."""
    end: int
    """Token that ends it."""
    thinking: bool
    """Whether the prompt ends inside the thinking."""
    call: int
    """Tells the calls of one API server apart: a preempted completion is recognized by it."""


class WeakMessage(TypedDict):
    """The part of a control that ends a sample whose tokens grow too unsure."""

    window: int
    """Tokens whose mean self-certainty is compared, at most `LONGEST_WINDOW`."""
    threshold: float
    """Nats; below it, the sample ends."""
    stop: int
    """Token that ends an answer."""


class RequestMessage(TypedDict):
    """The control of one request as the worker receives it."""

    law: int
    """A value of `Law`."""
    parameters: list[float]
    trace: int
    """Identifies the `generate` call in trace records; 0 asks for no trace."""
    address: str
    """ZeroMQ endpoint that receives the trace."""
    choices: int
    """The request's `n`."""
    difficulty: DifficultyMessage | None
    steering: SteeringMessage | None
    shuffled: ShuffledMessage | None
    truncation: TruncationMessage | None
    confidence: bool
    """Whether its trace has self-certainty and collision probability."""
    state: str | None
    """Id of the confidence probe that reads the end of its prompt; None reads nothing."""
    phases: PhaseMessage | None
    weak: WeakMessage | None


class WorkerArtifact(TypedDict):
    """An artifact as a worker read it."""

    hash: str
    """Of its contents."""
    layers: list[int]
    """Of a steering vector; else empty."""
    reason: str | None
    """Why it cannot be used; None if it can."""


class WorkerStatus(TypedDict):
    """What a worker answers to `entrostat_status`."""

    steps: int
    """Sampling steps since it started."""
    failures: int
    """Controls that failed."""
    lost: dict[str, int]
    """Trace records that no API server took, by cause."""
    weight_updates: int
    """Times that weights were loaded into the model after the start."""


class EngineControl(dict[str, Any]):
    """What the worker needs to know about a request; build it with `engine_control`."""


def engine_control(
    *,
    law: int,
    parameters: Sequence[float],
    trace: int,
    address: str,
    choices: int,
    difficulty: DifficultyMessage | None = None,
    steering: SteeringMessage | None = None,
    shuffled: ShuffledMessage | None = None,
    truncation: TruncationMessage | None = None,
    confidence: bool = False,
    state: str | None = None,
    phases: PhaseMessage | None = None,
    weak: WeakMessage | None = None,
) -> EngineControl:
    """Build the control of one `generate` call.

    Args:
        law: Tag of the temperature law, from `probes.laws.law_row`.
        parameters: Its row, from there too.
        trace: Identifies the call in trace records; 0 asks for no trace.
        address: ZeroMQ endpoint that receives the trace; empty without one.
        choices: The request's `n`.
        difficulty: From `difficulty_control`; None reads no probe.
        steering: From `steering_control`; None leaves the residual stream alone.
        shuffled: From `shuffled_control`; None draws no temperatures.
        truncation: From `truncation_control`; None keeps every token.
        confidence: Whether the trace has self-certainty and collision probability.
        state: Id of the confidence probe that reads the end of the prompt; None reads nothing.
        phases: From `phase_control`; None has one law for the whole answer.
        weak: None lets the answer end by itself.
    """
    assert len(parameters) == NUM_PARAMETERS
    return EngineControl(
        law=law,
        parameters=list(parameters),
        trace=trace,
        address=address,
        choices=choices,
        difficulty=difficulty,
        steering=steering,
        shuffled=shuffled,
        truncation=truncation,
        confidence=confidence,
        state=state,
        phases=phases,
        weak=weak,
    )


def phase_control(
    *,
    law: int,
    parameters: Sequence[float],
    marks: tuple[int, int],
    thinking: bool,
    call: int,
) -> PhaseMessage:
    """Build the part of a control that has another law while the model thinks.

    Args:
        law: Tag of the law of the thinking phase.
        parameters: Its row.
        marks: Tokens that start and end the thinking.
        thinking: Whether the prompt ends inside it.
        call: A number of its own for every `generate` call of this API server.
    """
    start, end = marks
    return {
        "law": law,
        "parameters": list(parameters),
        "start": start,
        "end": end,
        "thinking": thinking,
        "call": call,
    }


def truncation_control(*, kind: int, parameters: Sequence[float], call: int) -> TruncationMessage:
    """Build the part of a control that removes unlikely tokens.

    Args:
        kind: Tag of the truncation, from `probes.truncations`.
        parameters: Its row, from there too.
        call: A number of its own for every `generate` call of this API server.
    """
    return {"kind": kind, "parameters": list(parameters), "call": call}


def shuffled_control(
    *, temperatures: Sequence[float], cumulative: Sequence[float], seed: int
) -> ShuffledMessage:
    """Build the part of a control that draws temperatures from a histogram.

    Args:
        temperatures: To draw from.
        cumulative: Share of the weight up to and including each; the last is 1.
        seed: Of the first completion; the i-th has seed + i.
    """
    return {
        "temperatures": list(temperatures),
        "cumulative": list(cumulative),
        "seed": seed,
    }


def difficulty_control(
    *,
    probe: str,
    trace: int,
    temperatures: Sequence[float] = (0.0, 0.0, 0.0),
    budgets: Sequence[int] = (0, 0, 0),
    stop: int = 0,
    price: float = -1.0,
) -> DifficultyMessage:
    """Build the part of a control that reads a probe at the end of the prompt.

    Args:
        probe: Id of its artifact.
        trace: Identifies the call that waits for the decision.
        temperatures: T0 by class; 0 keeps the request's own.
        budgets: Tokens by class; 0 sets no limit.
        stop: Token that ends an answer at its limit.
        price: Accuracy that a normal answer's worth of tokens may cost; negative: the class
            chooses.
    """
    return {
        "probe": probe,
        "trace": trace,
        "temperatures": list(temperatures),
        "budgets": list(budgets),
        "stop": stop,
        "price": price,
    }


def steering_control(
    *,
    key: str,
    add: Sequence[tuple[str, int, float]],
    clamp: Sequence[tuple[str, int, float, float]],
    everywhere: bool,
) -> SteeringMessage:
    """Build the part of a control that steers.

    Args:
        key: Names all of it: requests with the same key are steered alike.
        add: Vector, layer, multiple.
        clamp: Vector, layer, and the band of the stream's component along it.
        everywhere: Whether the prompt is steered too, not only from its last token on.
    """
    return {
        "key": key,
        "add": list(add),
        "clamp": list(clamp),
        "all": everywhere,
    }


def reserved_keys(extra_args: Mapping[str, Any] | None) -> list[str]:
    """Keys of `extra_args` that only the server itself may set, but somebody else did."""
    if not extra_args:
        return []
    return [
        key
        for key, value in extra_args.items()
        if key.startswith(KEY) and not (key == KEY and isinstance(value, EngineControl))
    ]


def refuse_reserved(extra_args: Mapping[str, Any] | None) -> None:
    """Refuse reserved keys that did not come from the server itself.

    Raises:
        ValueError: Naming the key.
    """
    for key in reserved_keys(extra_args):
        raise ValueError(
            f"`vllm_xargs.{key}` is reserved: keys that begin with `{KEY}` are set by the server, "
            "send the `entropy` field instead"
        )
