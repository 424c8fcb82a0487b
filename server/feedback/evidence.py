"""Evidence that prediction sets cover the right value less often than their confidence level.

A betting test that may be looked at after every answer. For a bet f in (0, 1) and a set at level
1 - a, the factor is 1 + f * (1/a - 1) if the set misses the right value and 1 - f otherwise. If
sets miss with a probability of at most a, its expectation is at most 1. The evidence starts anew
with every answer, so that a shift is noticed however late it comes:

    M <- (M + 1) * factor

M is the e-detector of Shin, Ramdas and Rinaldo (arXiv 2203.03532, Shiryaev-Roberts form), averaged
over bets. As long as the sets hold their level, the mean number of answers until M reaches c is at
least c.
"""

from collections.abc import Sequence

BETS = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Small bets notice a small loss of coverage, large ones a large loss soon."""
ALARM = 10_000.0
"""Evidence of an alarm: without a loss of coverage, one in 10,000 answers or more."""
_LARGEST = 1e30
NO_EVIDENCE = (0.0,) * len(BETS)


def updated(evidence: Sequence[float], level: float, covered: bool) -> tuple[float, ...]:
    """Evidence by bet after one more answer.

    Args:
        evidence: Before, by bet.
        level: Confidence level of the set, in (0, 1).
        covered: Whether the set had the right value.
    """
    odds = level / (1.0 - level)
    return tuple(
        min((one + 1.0) * (1.0 - bet if covered else 1.0 + bet * odds), _LARGEST)
        for one, bet in zip(evidence, BETS, strict=True)
    )


def total(evidence: Sequence[float]) -> float:
    """The evidence over all bets."""
    return sum(evidence) / len(BETS)
