"""The inquiry artifact that `train-probe inquiry` writes: task, predictor, calibration."""

from collections.abc import Mapping
from typing import NamedTuple, Self

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from probes.conformal import Calibration, Score, conformal_rank, conformal_threshold
from probes.inquiry.index import TaskIndex
from probes.inquiry.likelihood import AnswerModel, answer_logprobs
from probes.inquiry.table import table_logprobs
from probes.inquiry.task import Task
from probes.inquiry.words import ModelPredictor, Predictor, Queries
from probes.tensors import check_tensors


class InquirySpec(BaseModel):
    """The part of an `inquiry-calibration` manifest that describes its tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task
    predictors: tuple[ModelPredictor, ...] = Field(min_length=1)
    """Predictors with a calibration, the better one first."""
    score: Score
    fitted: tuple[str, ...]
    """Labels used to fit `likelihood`; the others were used for calibration."""


class TooFewSamples(ValueError):
    """The calibration cannot guarantee this level; the message names the highest one."""


class Inquiry(NamedTuple):
    """A loaded inquiry artifact."""

    task: Task
    lookup: TaskIndex
    predictors: tuple[ModelPredictor, ...]
    score: Score
    logprobs: Float[Tensor, "questions answers labels"]
    """ln P(answer | question, label), shape (Q, 2, K)."""
    scores: Mapping[ModelPredictor, Float[Tensor, "lengths samples"]]
    """Conformity scores of the true labels, ascending, shape (lengths, samples)."""
    table: Float[Tensor, "labels questions"]
    """Log-likelihoods of the statements, nats, shape (K, Q)."""
    model: AnswerModel
    """Maps log-likelihoods to answers."""
    known: Float[Tensor, "questions answers labels"] | None
    """ln P(answer | question, label) by the task's own table, shape (Q, 2, K); None without one."""

    @classmethod
    def from_tensors(cls, spec: InquirySpec, tensors: Mapping[str, Tensor]) -> Self:
        """Build an inquiry from a manifest and its tensors.

        Raises:
            ValueError: A tensor is missing, unexpected, of another shape or not finite.
        """
        if "likelihood" not in spec.predictors:
            raise ValueError("manifest.json: inquiry.predictors lacks `likelihood`")
        num_labels, num_queries = len(spec.task.labels), len(spec.task.queries)
        shapes = {
            "table": (num_labels, num_queries),
            "slope": (num_queries,),
            "bias": (num_queries,),
            "pooled": (2,),
        }
        names = {one: f"scores.{one}" for one in spec.predictors}
        check_tensors(
            tensors, shapes | {name: _score_shape(tensors, name) for name in names.values()}
        )
        table, *model = (tensors[name].double() for name in shapes)
        scores = {one: tensors[name].double() for one, name in names.items()}
        fitted = AnswerModel(*model)
        logprobs = answer_logprobs(table, fitted)
        if not bool(logprobs.isfinite().all()):
            raise ValueError("the tensors `table`, `slope` and `bias` give no finite probabilities")
        return cls(
            task=spec.task,
            lookup=TaskIndex(spec.task),
            predictors=spec.predictors,
            score=spec.score,
            logprobs=logprobs,
            scores=scores,
            table=table,
            model=fitted,
            known=table_logprobs(spec.task),
        )

    def available(self, queries: Queries) -> tuple[Predictor, ...]:
        """Usable predictors, the default one first; a table has no open questions."""
        has_table = self.known is not None and queries == "closed"
        return ("table", *self.predictors) if has_table else self.predictors

    def calibration(self, predictor: ModelPredictor, confidence_level: float) -> Calibration:
        """Thresholds of a predictor at a level.

        Raises:
            ValueError: The level is not between 0 and 1.
            TooFewSamples: Every set would be full.
        """
        scores = self.scores[predictor]
        num_samples = scores.shape[-1]
        if conformal_rank(num_samples, confidence_level) > num_samples:
            highest = num_samples / (num_samples + 1)
            raise TooFewSamples(
                f"{num_samples} calibration samples promise {highest:.4f} at most, "
                f"not {confidence_level}"
            )
        thresholds = conformal_threshold(scores, confidence_level)
        return Calibration(thresholds, num_samples, confidence_level, self.score)


def _score_shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """The shape of the scores, of which only the number of dimensions is known."""
    found = tensors.get(name)
    if found is not None and (found.ndim != 2 or not found.numel()):
        raise ValueError(f"the tensor `{name}` has shape {tuple(found.shape)}, not (lengths, n)")
    return () if found is None else tuple(found.shape)
