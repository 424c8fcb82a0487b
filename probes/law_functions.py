"""The functions of the temperature laws, in torch; `probes.laws` defines their parameters.

Each function is vectorized over the rows of a batch, stateless, and does not synchronize with the
device.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from probes.laws import LAWS, MAX_TEMPERATURE, MIN_TEMPERATURE, NO_LAW

Rows = Float[Tensor, " rows"]
RowParameters = Float[Tensor, "rows parameters"]
GREEDY = 1e-5
"""A request below this temperature is greedy, as in vLLM."""
LawFunction = Callable[[Rows, Rows, RowParameters, float], Rows]
"""Takes entropy in nats, T0, the laws' rows of NUM_PARAMETERS and ln of the vocabulary size;
returns T."""


def fixed(entropy: Rows, base: Rows, parameters: RowParameters, log_vocab: float) -> Rows:
    """T = temperature."""
    return parameters[..., 0]


def hapo(entropy: Rows, base: Rows, parameters: RowParameters, log_vocab: float = 0.0) -> Rows:
    """T = T0 (1 + tau h), h in [-1, 1] the scaled log-entropy: uncertain tokens are heated.

    The published code multiplies negative values by a negative scale, so that certain tokens are
    heated too; here they are cooled, as the paper intends.

    Source: HAPO (arXiv 2509.16591), `vllm/v1/sample/sampler.py` of the published code.
    """
    pivot, std, positive, negative, tau = parameters.unbind(-1)
    x = (entropy.clamp_min(1e-6).log() - pivot) / (std + 1e-6)
    h = torch.where(x > 0, x * positive, x * negative.abs()).clamp(-1.0, 1.0)
    # With a std near 0 (all calibration tokens equal), h would jump between -1 and 1.
    return torch.where(std < 1e-3, base, base * (1 + tau * h))


def edt(entropy: Rows, base: Rows, parameters: RowParameters, log_vocab: float) -> Rows:
    """T = T0 N^(theta / H): close to 0 for certain tokens, close to T0 for uncertain ones.

    Source: EDT (arXiv 2403.14541).
    """
    theta, number = parameters[..., 0], parameters[..., 1]
    return base * torch.exp(number.clamp_min(1e-12).log() * theta / entropy.clamp_min(1e-6))


def dynatemp(entropy: Rows, base: Rows, parameters: RowParameters, log_vocab: float) -> Rows:
    """T between T0 - range and T0 + range, by the entropy as a share of ln(vocab).

    llama.cpp divides by ln(candidates left after earlier filters), which shrinks under top-k and
    varies from token to token; here the divisor is fixed.

    Source: llama.cpp, `llama_sampler_temp_ext`.
    """
    reach, exponent = parameters[..., 0], parameters[..., 1]
    low = (base - reach).clamp_min(0.0)
    share = (entropy / max(log_vocab, 1e-6)).clamp(0.0, 1.0)  # ln 1 = 0 for a single token
    return low + (base + reach - low) * share.pow(exponent)


def shuffled(entropy: Rows, base: Rows, parameters: RowParameters, log_vocab: float) -> Rows:
    """T = the temperature that `probes.shuffled` drew for the token; the worker puts it there."""
    return parameters[..., 0]


FUNCTIONS: dict[str, LawFunction] = {
    "fixed": fixed,
    "hapo": hapo,
    "edt": edt,
    "dynatemp": dynatemp,
    "shuffled": shuffled,
}
"""By `type`. `entropy_target` is not among them: it needs the logits, see
`probes.entropy_target`."""
_BY_TAG = [(LAWS[name].tag, function) for name, function in FUNCTIONS.items()]


def apply_laws(
    entropy: Rows, base: Rows, law: Rows, parameters: RowParameters, log_vocab: float
) -> Rows:
    """Temperature per row for every law that needs only the entropy.

    Args:
        entropy: Nats, shape (rows,).
        base: The request's own temperature T0, shape (rows,); 0 marks a greedy row.
        law: Tags of the laws, shape (rows,).
        parameters: Shape (rows, NUM_PARAMETERS), one `row()` for each.
        log_vocab: ln of the vocabulary size.

    Returns:
        Shape (rows,). T0 for `NO_LAW`, for laws that need the logits, for greedy rows and where
        the entropy is not a number; every other row lies in [MIN_TEMPERATURE, MAX_TEMPERATURE].
    """
    result = base
    for tag, function in _BY_TAG:
        result = torch.where(law == tag, function(entropy, base, parameters, log_vocab), result)
    result = result.clamp(MIN_TEMPERATURE, MAX_TEMPERATURE)
    untouched = (base < GREEDY) | entropy.isnan() | (law == NO_LAW)
    return torch.where(untouched, base, result)
