"""Checks the controls `vote` and `semantic`, which sample several answers to one conversation."""

from typing import Literal, NoReturn

from server.errors import BadControl
from server.planning.refusals import RequestParams, missing_question
from server.wire.request import EXCLUDED_BY, MAX_JUDGED, Control, SemanticControl, VoteControl

_MODEL_LENGTHS = 8
"""Tokens that all samples together may have, in lengths of the model."""


def plan_vote(control: Control, params: RequestParams) -> VoteControl | None:
    """Refuse a vote that the request rules out, or that takes too much.

    Raises:
        BadControl: Names the field.
    """
    if control.vote is None:
        return None
    _refuse_samples("vote", control.vote.n, control, params)
    if params.temperature == 0:
        _refuse("temperature", "all samples of a greedy `entropy.vote` would be equal")
    wanted = control.vote
    if control.trace == "none" and (wanted.weight != "none" or wanted.reads_certainty):
        _refuse("entropy.trace", '"none" measures nothing for `entropy.vote`')
    if wanted.weight != "none" and wanted.stop != "none":
        _refuse("entropy.vote.stop", "counts votes: leave out `weight` or `stop`")
    uses_windows = wanted.percentile > 0 or wanted.weight in ("tail", "bottom", "lowest")
    if uses_windows and params.max_tokens is not None and wanted.window > params.max_tokens:
        _refuse(
            "entropy.vote.window",
            f"a window of {wanted.window} tokens is longer than an answer of {params.max_tokens}",
        )
    return wanted


def plan_semantic(control: Control, params: RequestParams) -> SemanticControl | None:
    """Refuse samples that the request rules out, or that take too much.

    Raises:
        BadControl: Names the field.
    """
    wanted = control.semantic
    if wanted is None:
        return None
    if control.trace == "none":
        _refuse("entropy.trace", '"none" leaves out the report of `entropy.semantic`')
    _refuse_samples("semantic", wanted.n + (wanted.reply == "answer"), control, params)
    if wanted.cluster == "answer":
        return wanted
    if wanted.n > MAX_JUDGED:
        _refuse(
            "entropy.semantic.n",
            f"`cluster` {wanted.cluster} compares the samples in pairs: at most {MAX_JUDGED}",
        )
    if reason := missing_question(params):
        _refuse("entropy.semantic.cluster", reason)
    return wanted


def _refuse_samples(
    name: Literal["vote", "semantic"], answers: int, control: Control, params: RequestParams
) -> None:
    """Refuse what rules out several samples, and too many.

    Args:
        name: Of the control.
        answers: How many are sampled.
        control: With the control set.
        params: The request's other parameters.
    """
    if not params.supports_inquiry:
        _refuse(f"entropy.{name}", "works in /v1/chat/completions only")
    for field in EXCLUDED_BY[name]:
        if getattr(control, field) is not None:
            _refuse(f"entropy.{field}", f"contradicts `entropy.{name}`: leave one out")
    if name == "vote" and control.confidence is not None and control.confidence.probe is not None:
        _refuse(
            "entropy.confidence.probe",
            "is calibrated for single answers, not for `entropy.vote`: leave one out",
        )
    if params.num_choices > 1:
        _refuse("n", f"`entropy.{name}` returns one answer")
    if params.has_tools:
        _refuse("tools", f"contradicts `entropy.{name}`: leave one out")
    if control.trace == "tokens" and params.streams:
        _refuse("entropy.trace", '"tokens" in a stream shows one sample: use "summary"')
    if answers > params.max_samples:
        _refuse(f"entropy.{name}.n", f"this server samples at most {params.max_samples} answers")
    longest = params.max_tokens or params.max_model_len
    limit = _MODEL_LENGTHS * params.max_model_len
    if params.max_model_len and answers * longest > limit:
        _refuse(
            f"entropy.{name}.n",
            f"{answers} answers of {longest} tokens are more than {limit:,} tokens: set "
            "`max_tokens`, or ask for fewer",
        )


def _refuse(param: str, reason: str) -> NoReturn:
    raise BadControl(f"`{param}`: {reason}", param)
