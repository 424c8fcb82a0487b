"""Names and parameters of the truncations. Does not import torch.

A truncation removes unlikely tokens before one is sampled, at the temperature T that the request or
its law sets. `probes.truncation_functions` implements one function for each.
"""

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field

from probes.laws import require_type
from probes.strict import RequestModel

NO_TRUNCATION = 0
"""Tag of a request that samples from every token."""
NUM_PARAMETERS = 2
"""Length of a truncation's row."""


class _Truncation(RequestModel):
    """Base of the truncations."""

    model_config = ConfigDict(json_schema_extra=require_type)

    tag: ClassVar[int]
    """Identifies the truncation in the worker."""

    def row(self) -> tuple[float, ...]:
        """The parameters as `NUM_PARAMETERS` numbers, in the order of the fields."""
        values = tuple(float(value) for name, value in self if name != "type")
        return (*values, *[0.0] * (NUM_PARAMETERS - len(values)))


class TopNSigma(_Truncation):
    """Keep tokens whose logit is at most `n` standard deviations below the highest."""

    type: Literal["top_n_sigma"] = "top_n_sigma"
    """Name of the truncation."""
    n: float = Field(1.0, gt=0.0, le=100.0)
    """Standard deviations of the allowed logits. The kept tokens do not depend on T."""


class PLess(_Truncation):
    """Keep tokens at least as likely as the probability that two samples are equal."""

    type: Literal["p_less"] = "p_less"
    """Name of the truncation."""
    normalized: bool = False
    """Lower the threshold to 0 for a uniform distribution, instead of 1 / (allowed tokens)."""


class Mirostat(_Truncation):
    """Mirostat 2: keep the mean surprise of the sampled tokens at a target."""

    type: Literal["mirostat"] = "mirostat"
    """Name of the truncation."""
    surprise_target: float = Field(3.465736, ge=1e-3, le=15.0)
    """Target of the mean surprise in nats; llama.cpp's `tau` in bits times 0.693. The default is
    its 5 bits."""
    learning_rate: float = Field(0.1, gt=0.0, le=1.0)
    """Step of the limit mu after each token; llama.cpp's `eta`."""


Truncation = Annotated[TopNSigma | PLess | Mirostat, Field(discriminator="type")]
"""Any truncation, by `type`."""
TRUNCATIONS: dict[str, type[_Truncation]] = {
    one.model_fields["type"].default: one for one in get_args(get_args(Truncation)[0])
}
"""Every truncation by its `type`."""
for _number, _one in enumerate(TRUNCATIONS.values(), start=1):
    _one.tag = _number
