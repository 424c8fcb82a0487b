"""Calibrated probabilities and prediction sets of a decision, from labeled rows.

The guarantee is that of split conformal prediction: if the rows of the calibration and the inputs
of the server are exchangeable, the set contains the right value with the confidence level, over all
inputs (`marginal`) or over the inputs of each right value (`by_class`).
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, Self, get_args

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from probes.conformal import (
    Score,
    conformal_rank,
    conformal_threshold,
    conformity_scores,
)
from probes.decisions.question import DecisionQuestion
from probes.decisions.scores import ReadSettings
from probes.strict import StrictModel

Method = Literal["temperature", "dirichlet"]
"""One scale for each read, or a full matrix and a bias for each option."""


class CalibratedQuestion(StrictModel):
    """One question of a `decision-calibration` artifact."""

    name: str
    """Name in the rows and in the report."""
    question: DecisionQuestion
    """The question; a request asks it if everything is equal."""
    settings: ReadSettings
    """How it is read."""
    method: Method
    """How its probabilities are scaled."""


class DecisionSpec(StrictModel):
    """The part of a `decision-calibration` manifest that describes its tensors."""

    questions: tuple[CalibratedQuestion, ...] = Field(min_length=1)
    """Its questions; question i has the tensors `i.weight`, `i.bias`, `i.probabilities` and
    `i.labels`."""


class TooFewRows(ValueError):
    """The calibration cannot guarantee this level; the message names the highest one."""


def rows_needed(confidence_level: float) -> int:
    """Smallest number of calibration rows whose sets can be smaller than full at a level."""
    rows = 1
    while conformal_rank(rows, confidence_level) > rows:
        rows += 1
    return rows


class QuestionCalibration(NamedTuple):
    """The scaling of a question's evidence and its calibration rows."""

    settings: ReadSettings
    weight: Float[Tensor, "options reads*options"]
    """Shape (K, reads * K); logits are weight @ evidence + bias."""
    bias: Float[Tensor, " options"]
    """Shape (K,)."""
    scores: Mapping[Score, Float[Tensor, " rows"]]
    """Conformity score of the right option of each calibration row, shape (n,)."""
    labels: Int[Tensor, " rows"]
    """Index of the right option of each row, shape (n,)."""

    @classmethod
    def of(
        cls,
        settings: ReadSettings,
        weight: Float[Tensor, "options evidence"],
        bias: Float[Tensor, " options"],
        probabilities: Float[Tensor, "rows options"],
        labels: Int[Tensor, " rows"],
    ) -> Self:
        """A calibration from the scaled probabilities of its rows, shape (n, K)."""
        scores: dict[Score, Tensor] = {}
        for score in get_args(Score):
            every = conformity_scores(probabilities, score)
            scores[score] = every.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        return cls(settings, weight, bias, scores, labels)

    def scaled(
        self, evidence: Float[Tensor, "*batch reads options"]
    ) -> Float[Tensor, "*batch options"]:
        """Calibrated probabilities, shape (..., K).

        Args:
            evidence: From `features`, shape (..., reads, K).
        """
        return scaled(evidence, self.weight, self.bias)

    def sets(
        self,
        probabilities: Float[Tensor, "*batch options"],
        confidence_level: float,
        score: Score = "lac",
        *,
        by_class: bool = False,
    ) -> Bool[Tensor, "*batch options"]:
        """Prediction sets, bool, shape (..., K); an empty one gets the most probable option.

        A level below the accuracy would leave sets of uncertain inputs empty. With that option they
        cover more, never less.

        Raises:
            TooFewRows: The level is too high for the number of rows.
        """
        limits = self.thresholds(confidence_level, score, by_class=by_class)
        members = conformity_scores(probabilities, score) <= limits
        best = torch.nn.functional.one_hot(probabilities.argmax(-1), len(limits)).bool()
        return members | (best & ~members.any(-1, keepdim=True))

    def thresholds(
        self, confidence_level: float, score: Score = "lac", *, by_class: bool = False
    ) -> Float[Tensor, " options"]:
        """Largest conformity score at which each option belongs to a set, shape (K,).

        By class, options with too few rows for the level share the rows of all of them; with too
        few together, they are in every set.

        Raises:
            TooFewRows: The level is too high for all rows together.
        """
        count, size = len(self.labels), len(self.bias)
        if conformal_rank(count, confidence_level) > count:
            raise TooFewRows(
                f"{count} calibration rows promise {count / (count + 1):.4f} at most, not "
                f"{confidence_level}"
            )
        own = self.scores[score]
        if not by_class:
            return conformal_threshold(own, confidence_level).expand(size).clone()
        counts = torch.bincount(self.labels, minlength=size)
        few = torch.tensor(
            [conformal_rank(int(one), confidence_level) > int(one) for one in counts]
        )
        limits = torch.full((size,), math.inf, dtype=own.dtype)
        for label in (~few).nonzero().flatten().tolist():
            limits[label] = conformal_threshold(own[self.labels == label], confidence_level)
        shared = own[few[self.labels]]
        if len(shared) and conformal_rank(len(shared), confidence_level) <= len(shared):
            limits[few] = conformal_threshold(shared, confidence_level)
        return limits


def scaled(
    evidence: Float[Tensor, "*batch reads options"],
    weight: Float[Tensor, "options reads*options"],
    bias: Float[Tensor, " options"],
) -> Float[Tensor, "*batch options"]:
    """Softmax of weight @ evidence + bias, shape (..., K).

    Args:
        evidence: Shape (..., reads, K).
        weight: Shape (K, reads * K).
        bias: Shape (K,).
    """
    return torch.softmax(evidence.flatten(-2) @ weight.T + bias, -1)


class DecisionCalibration(NamedTuple):
    """A loaded `decision-calibration` artifact."""

    questions: Mapping[DecisionQuestion, QuestionCalibration]

    @classmethod
    def from_tensors(cls, spec: DecisionSpec, tensors: Mapping[str, Tensor]) -> Self:
        """Build a calibration from a manifest and its tensors.

        Raises:
            ValueError: A tensor is missing, has a wrong shape or holds wrong numbers.
        """
        found = {}
        for number, one in enumerate(spec.questions):
            size, reads = len(one.question.options), len(one.settings.reads)
            weight = _tensor(tensors, f"{number}.weight", (size, reads * size))
            bias = _tensor(tensors, f"{number}.bias", (size,))
            rows = _tensor(tensors, f"{number}.probabilities", (None, size))
            labels = _tensor(tensors, f"{number}.labels", (len(rows),)).long()
            if not len(rows) or not bool(((labels >= 0) & (labels < size)).all()):
                raise ValueError(f"the tensor `{number}.labels` names no options")
            found[one.question] = QuestionCalibration.of(one.settings, weight, bias, rows, labels)
        return cls(found)


def _tensor(tensors: Mapping[str, Tensor], name: str, shape: tuple[int | None, ...]) -> Tensor:
    if name not in tensors:
        raise ValueError(f"the tensor `{name}` is missing")
    found = tensors[name].double()
    fits = found.ndim == len(shape) and all(
        want in (None, have) for want, have in zip(shape, found.shape, strict=False)
    )
    if not fits:
        raise ValueError(f"the tensor `{name}` has shape {tuple(found.shape)} instead of {shape}")
    if not bool(found.isfinite().all()):
        raise ValueError(f"the tensor `{name}` holds no finite numbers")
    return found
