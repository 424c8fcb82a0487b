"""Builders of the truncations of a request; `clients.entropy` exports them."""

Truncation = dict[str, str | float]
"""A truncation in its JSON form; `top_n_sigma`, `p_less` and `mirostat` build one."""


def top_n_sigma(n: float = 1.0) -> Truncation:
    """Keep tokens whose logit is at most `n` standard deviations below the highest.

    Source: arXiv 2411.07641.
    """
    return {"type": "top_n_sigma", "n": n}


def p_less(*, normalized: bool = False) -> Truncation:
    """Keep tokens at least as likely as the probability that two samples are equal.

    Args:
        normalized: Lower the threshold so that it is 0 for a uniform distribution.

    Source: arXiv 2509.23234.
    """
    return {"type": "p_less", "normalized": normalized}


def mirostat(surprise_target: float = 3.465736, *, learning_rate: float = 0.1) -> Truncation:
    """Mirostat 2: keep the mean surprise of the sampled tokens at a target.

    Args:
        surprise_target: Nats; llama.cpp's `tau` in bits times 0.693.
        learning_rate: llama.cpp's `eta`.

    Source: arXiv 2007.14966.
    """
    return {
        "type": "mirostat",
        "surprise_target": surprise_target,
        "learning_rate": learning_rate,
    }
