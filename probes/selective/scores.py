"""Words that requests and reports use, and the scores of an answer."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

Promise = Literal["joint", "selective"]
"""What an abstention promises; see `probes.selective.abstention`."""
AnswerKind = Literal["auto", "boxed", "numeric", "choice", "line", "exact", "json"]
"""How the answers of a vote are compared; see `probes.selective.votes`."""
StopRule = Literal["none", "lead", "beta", "consensus"]
"""When a vote ends early; see `probes.selective.votes`."""
Cluster = Literal["answer", "judge", "entailment"]
"""How samples are grouped: by their answers, or by what the model says of pairs of them."""
VoteWeight = Literal["none", "probability", "self_certainty", "tail", "bottom", "lowest"]
"""What a vote counts: one, the probability of a token of its sample, or its self-certainty; see
`probes.confidence.certainty_weight`."""
LONGEST_WINDOW = 2048
"""Tokens of a window that decides about a vote: DeepConf's, and what a worker keeps."""
Estimator = Literal["discrete", "likelihood"]
"""How the probability of a cluster is estimated; see `probes.selective.semantic`."""
ScoreName = Literal[
    "entropy_mean",
    "entropy_max",
    "varentropy_mean",
    "logprob_mean",
    "logprob_sum",
    "num_tokens",
    "logprob_min",
    "self_certainty_mean",
    "self_certainty_window_min",
    "collision_mean",
    "probability",
    "high_entropy",
]
"""Fields of a report; the last six are fields of its `confidence`."""
Predicted = Literal["probability", "high_entropy"]
"""What a confidence probe predicts: that the answer is right, or that answers disagree."""

SCORE_NAMES: tuple[ScoreName, ...] = get_args(ScoreName)
CONFIDENCE_SCORES: tuple[ScoreName, ...] = SCORE_NAMES[SCORE_NAMES.index("logprob_min") :]
"""Scores that a request gets with the control `confidence` only."""
PREDICTED: tuple[Predicted, ...] = get_args(Predicted)
"""Scores that a request gets with a probe only."""
MEASURED: tuple[ScoreName, ...] = tuple(name for name in SCORE_NAMES if name not in PREDICTED)
"""Scores that are measured at the tokens of an answer."""

_RISES_WITH_CERTAINTY = {
    "logprob_mean",
    "logprob_sum",
    "logprob_min",
    "self_certainty_mean",
    "self_certainty_window_min",
    "collision_mean",
    "probability",
}


def uncertainty(score: ScoreName, value: float) -> float:
    """The score such that higher means more doubt: negated if it rises with certainty."""
    return -value if score in _RISES_WITH_CERTAINTY else value


def score_value(scores: Mapping[str, Any], name: ScoreName) -> float:
    """The value of a score; NaN where it is missing or null.

    Args:
        scores: By name; other keys do not matter.
        name: Which one.
    """
    value = scores.get(name)
    return float("nan") if value is None else float(value)
