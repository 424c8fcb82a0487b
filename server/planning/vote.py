"""Checks the control `vote`: several answers are sampled, and the most frequent one is returned."""

from server.errors import BadControl
from server.planning.refusals import RequestParams
from server.wire.request import Control, VoteControl

_MODEL_LENGTHS = 8
"""Tokens that all samples together may have, in lengths of the model."""
_EXCLUDED = ("inquiry", "difficulty", "steering", "abstain")


def plan_vote(control: Control, params: RequestParams) -> VoteControl:
    """Refuse a vote that the request rules out, or that takes too much.

    Args:
        control: A control with `vote` set.
        params: The request's other parameters.

    Raises:
        BadControl: Names the field.
    """
    wanted = control.vote
    assert wanted is not None
    if not params.supports_inquiry:
        _refuse("entropy.vote", "votes are taken in /v1/chat/completions only")
    for field in _EXCLUDED:
        if getattr(control, field) is not None:
            _refuse(f"entropy.{field}", "contradicts `entropy.vote`: leave one out")
    if control.confidence is not None and control.confidence.probe is not None:
        _refuse(
            "entropy.confidence.probe",
            "is calibrated for single answers, not for `entropy.vote`: leave one out",
        )
    if params.num_choices > 1:
        _refuse("n", "`entropy.vote` returns one answer")
    if params.temperature == 0:
        _refuse("temperature", "all samples of a greedy `entropy.vote` would be equal")
    if params.has_tools:
        _refuse("tools", "contradicts `entropy.vote`: leave one out")
    if control.trace == "tokens" and params.streams:
        _refuse("entropy.trace", '"tokens" in a stream shows one sample: use "summary"')
    if wanted.n > params.max_samples:
        _refuse("entropy.vote.n", f"this server samples at most {params.max_samples} answers")
    longest = params.max_tokens or params.max_model_len
    if params.max_model_len and wanted.n * longest > _MODEL_LENGTHS * params.max_model_len:
        limit = _MODEL_LENGTHS * params.max_model_len
        _refuse(
            "entropy.vote.n",
            f"{wanted.n} answers of {longest} tokens are more than {limit:,} tokens: set "
            "`max_tokens`, or ask for fewer",
        )
    return wanted


def _refuse(param: str, reason: str) -> None:
    raise BadControl(f"`{param}`: {reason}", param)
