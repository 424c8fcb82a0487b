"""Names and parameters of the temperature laws. Does not import torch.

A law maps the entropy H of a token's distribution and the request's own temperature T0 to the
temperature T at which the token is sampled. The wire, profiles, the policy config and the docs use
these models; `probes.law_functions` implements one function for each.
"""

from itertools import accumulate
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, get_args

from pydantic import ConfigDict, Field, model_validator

from probes.strict import RequestModel

MIN_TEMPERATURE = 0.01
"""A float32 softmax below this temperature is one-hot; vLLM has the same limit."""
MAX_TEMPERATURE = 100.0
NUM_PARAMETERS = 5
"""Length of a law's row."""
NO_LAW = 0
"""Tag of a request whose own temperature applies."""
NO_ROW: tuple[float, ...] = (0.0,) * NUM_PARAMETERS
"""Row of a request without a law."""


class HapoStatistics(NamedTuple):
    """The distribution of a model's per-token log-entropies; `fit_hapo` makes them."""

    pivot: float
    """A quantile of ln H."""
    std: float
    """Root mean square of ln H about the pivot."""
    scale_positive: float
    """Maps the upper end of the standardized values to 1; > 0."""
    scale_negative: float
    """Maps the lower end to -1 after its magnitude is taken; < 0 as published."""


def require_type(schema: dict[str, Any]) -> None:
    """Mark `type` as required: the discriminator of the union needs it."""
    schema["properties"]["type"].pop("default")
    schema["required"] = ["type", *schema.get("required", [])]


class _Law(RequestModel):
    """Base of the laws."""

    model_config = ConfigDict(json_schema_extra=require_type)

    tag: ClassVar[int]
    """Identifies the law in the worker."""
    needs_logits: ClassVar[bool] = False
    """Whether the law needs the logits, not only the entropy."""

    def row(self, statistics: HapoStatistics | None = None) -> tuple[float, ...]:
        """The law's parameters as `NUM_PARAMETERS` numbers, in the order its function reads them.

        Args:
            statistics: Of the model; only `HapoLaw` needs them.
        """
        values = self._values(statistics)
        return (*values, *[0.0] * (NUM_PARAMETERS - len(values)))

    def _values(self, statistics: HapoStatistics | None) -> tuple[float, ...]:
        return tuple(float(value) for name, value in self if name != "type")


class FixedLaw(_Law):
    """The same temperature for every token, whatever the request's own is."""

    type: Literal["fixed"] = "fixed"
    """Name of the law."""
    temperature: float = Field(ge=0.01, le=2.0)
    """Temperature of every token."""


class HapoLaw(_Law):
    """HAPO: heat uncertain tokens and cool certain ones by at most `tau`, relative to T0."""

    type: Literal["hapo"] = "hapo"
    """Name of the law."""
    tau: float = Field(0.05, ge=0.0, lt=1.0)
    """Relative half-width: T stays inside [T0 (1 - tau), T0 (1 + tau)]."""
    statistics: str | None = Field(None, max_length=200)
    """Id of an `entropy-statistics` artifact; default: the served model's own."""

    def _values(self, statistics: HapoStatistics | None) -> tuple[float, ...]:
        if statistics is None:
            raise ValueError("the law `hapo` needs the entropy statistics of the model")
        return (*statistics, self.tau)


class EdtLaw(_Law):
    """EDT: T = T0 base^(theta / H)."""

    type: Literal["edt"] = "edt"
    """Name of the law."""
    theta: float = Field(0.5, gt=0.0, le=100.0)
    """Nats. The higher, the more entropy it takes to approach T0."""
    base: float = Field(0.8, gt=0.0, lt=1.0)
    """Share of T0 at H = theta."""


class DynatempLaw(_Law):
    """llama.cpp's dynamic temperature: T0 - range at no entropy, T0 + range at the highest."""

    type: Literal["dynatemp"] = "dynatemp"
    """Name of the law."""
    range: float = Field(0.5, ge=0.0, le=2.0)
    """Half-width of the interval of temperatures around T0."""
    exponent: float = Field(1.0, gt=0.0, le=10.0)
    """Exponent of H / ln(vocabulary size)."""


_BETWEEN = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0, 1.2, 1.5, 1.9, 3.0, 5.0, 8.0)
"""Temperatures that the schema uses to separate the two limits."""


def _order_limits(schema: dict[str, Any]) -> None:
    """Approximate "temperature_min < temperature_max", which JSON schema cannot express.

    The server accepts everything that the schema allows, and also limits that are closer together.
    """
    require_type(schema)
    low, high = (schema["properties"][f"temperature_{end}"]["default"] for end in ("min", "max"))
    schema["anyOf"] = [
        {
            "properties": {
                "temperature_min": {"maximum": between},
                "temperature_max": {"exclusiveMinimum": between},
            },
            "required": [
                *(["temperature_min"] if between < low else []),
                *(["temperature_max"] if between >= high else []),
            ],
        }
        for between in _BETWEEN
    ]


Side = Literal["ceiling", "floor", "both"]
"""Which tokens an entropy target changes."""
SIDES: dict[Side, float] = {"ceiling": 0.0, "floor": 1.0, "both": 2.0}
"""Value of each side in the row of an entropy target."""


class EntropyTargetLaw(_Law):
    """Keep the entropy of every token's distribution below, above or at a target.

    T* is the temperature at which the distribution has the target's entropy, inside the limits.
    """

    model_config = ConfigDict(json_schema_extra=_order_limits)

    needs_logits: ClassVar[bool] = True

    type: Literal["entropy_target"] = "entropy_target"
    """Name of the law."""
    entropy_target: float = Field(ge=1e-9, le=15.0)
    """Target entropy, nats."""
    temperature_min: float = Field(0.1, ge=0.01, le=10.0)
    """Lower limit of T*."""
    temperature_max: float = Field(2.0, ge=0.01, le=10.0)
    """Upper limit of T*."""
    side: Side = "ceiling"
    """`ceiling` cools uncertain tokens: T = min(T0, T*). `floor` heats certain tokens:
    T = max(T0, T*). `both` does both: T = T*, whatever T0 is."""

    @model_validator(mode="after")
    def _limits_in_order(self) -> Self:
        if self.temperature_min >= self.temperature_max:
            raise ValueError(
                f"temperature_min ({self.temperature_min}) must be smaller than "
                f"temperature_max ({self.temperature_max})"
            )
        return self

    def _values(self, statistics: HapoStatistics | None) -> tuple[float, ...]:
        limits = (self.temperature_min, self.temperature_max)
        return (self.entropy_target, *limits, SIDES[self.side])


NUM_BINS = 64
"""Most temperatures of a histogram."""


_LENGTHS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32, 48, 64)
"""Lengths of a histogram with weights that the schema lists."""


def _same_length(schema: dict[str, Any]) -> None:
    """Approximate "one weight for each temperature", which JSON schema cannot express.

    The server accepts everything that the schema allows, and also weights of other lengths.
    """
    require_type(schema)
    schema["properties"]["weights"]["anyOf"][0]["contains"] = {"exclusiveMinimum": 0}
    of_length = [{"minItems": length, "maxItems": length} for length in _LENGTHS]
    schema["anyOf"] = [
        {"properties": {"weights": {"type": "null"}}},
        *({"properties": {"temperatures": one, "weights": one}} for one in of_length),
    ]


class ShuffledLaw(_Law):
    """Draw every token's temperature from a histogram, independently of the entropy.

    The control of an evaluation: with the temperatures that another law applied, in random order,
    it shows what that law gains by its order. The same `seed` draws the same temperatures.
    """

    model_config = ConfigDict(json_schema_extra=_same_length)

    type: Literal["shuffled"] = "shuffled"
    """Name of the law."""
    temperatures: tuple[Annotated[float, Field(ge=0.01, le=100.0)], ...] = Field(
        min_length=1, max_length=NUM_BINS
    )
    """Temperatures to draw from."""
    weights: tuple[Annotated[float, Field(ge=0.0, le=1e9)], ...] | None = Field(
        None, min_length=1, max_length=NUM_BINS
    )
    """How often each is drawn, relative to the others; default: all equally often."""

    @model_validator(mode="after")
    def _one_weight_each(self) -> Self:
        if self.weights is not None and len(self.weights) != len(self.temperatures):
            raise ValueError(
                f"there are {len(self.temperatures)} temperatures and {len(self.weights)} weights: "
                "give one weight for each temperature"
            )
        if self.weights is not None and not sum(self.weights) > 0:
            raise ValueError("at least one weight must be above 0")
        return self

    def _values(self, statistics: HapoStatistics | None) -> tuple[float, ...]:
        return ()

    def cumulative(self) -> tuple[float, ...]:
        """Share of the weight up to and including each temperature; the last is 1."""
        weights = self.weights or (1.0,) * len(self.temperatures)
        sums = tuple(accumulate(weights))
        return tuple(share / sums[-1] for share in sums)


TemperatureLaw = Annotated[
    FixedLaw | HapoLaw | EdtLaw | DynatempLaw | EntropyTargetLaw | ShuffledLaw,
    Field(discriminator="type"),
]
"""Any law, by `type`."""
LAWS: dict[str, type[_Law]] = {
    law.model_fields["type"].default: law for law in get_args(get_args(TemperatureLaw)[0])
}
"""Every law by its `type`."""
for _number, _law in enumerate(LAWS.values(), start=1):
    _law.tag = _number


def law_row(
    law: "TemperatureLaw | None", statistics: HapoStatistics | None = None
) -> tuple[int, tuple[float, ...]]:
    """Tag and parameters of a law, as sent to the worker.

    Args:
        law: None for the request's own temperature.
        statistics: Of the model; only `HapoLaw` needs them.

    Raises:
        ValueError: The law needs statistics and there are none.
    """
    return (NO_LAW, NO_ROW) if law is None else (law.tag, law.row(statistics))
