"""What is kept of an answer until somebody says whether it was right: no text, only digests."""

import hashlib
import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

from server.metrics.predicted import predicted_accuracy
from server.wire.report import Report

AnswerKind = Literal["completion", "inquiry", "decision"]
_DIGEST = 6
"""Bytes; two of 255 values share a digest in one of 10^10 questions."""


class PredictionSet(NamedTuple):
    """The values that an answer could have, and which of them are in its prediction set."""

    values: tuple[bytes, ...]
    """Digests of all values."""
    members: tuple[int, ...]
    """Places of those in the set."""
    best: int
    """Place of the most probable value."""
    level: float | None
    """Confidence level of the set; None if it is not calibrated."""
    artifact: str
    """Id of the calibration; empty without one."""


class AnswerFacts(NamedTuple):
    """One choice of an answer, or the answer to one question of a decision."""

    kind: AnswerKind
    entropy: float | None = None
    """Mean entropy per token, in nats."""
    difficulty: str | None = None
    """Class of the question."""
    prediction: PredictionSet | None = None
    predicted: dict[str, float] | None = None
    """Predicted probability that it is right, by what predicted it."""

    def to_bytes(self) -> bytes:
        """Serialize as JSON."""
        found = self.prediction
        packed = None
        if found is not None:
            digests = b"".join(found.values).hex()
            packed = [digests, found.members, found.best, found.level, found.artifact]
        facts = [self.kind, self.entropy, self.difficulty, packed, self.predicted]
        return json.dumps(facts).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "AnswerFacts":
        """Read what `to_bytes` wrote."""
        kind, entropy, difficulty, packed, predicted = json.loads(content)
        if packed is None:
            return cls(kind, entropy, difficulty, predicted=predicted)
        digests, members, best, level, artifact = packed
        joined = bytes.fromhex(digests)
        values = tuple(joined[at : at + _DIGEST] for at in range(0, len(joined), _DIGEST))
        prediction = PredictionSet(values, tuple(members), best, level, artifact)
        return cls(kind, entropy, difficulty, prediction, predicted)


def digest(value: str | bool | int) -> bytes:
    """Digest of a value; `true` and `"true"` are different values."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=_DIGEST).digest()


def prediction_set(
    values: Sequence[str | bool | int],
    members: Sequence[bool],
    best: int,
    level: float | None,
    artifact: str,
) -> PredictionSet:
    """Keep a prediction set.

    Args:
        values: All values.
        members: Whether each is in the set.
        best: Place of the most probable value.
        level: Confidence level; None if it is not calibrated.
        artifact: Id of the calibration; empty without one.
    """
    inside = tuple(place for place, member in enumerate(members) if member)
    return PredictionSet(tuple(map(digest, values)), inside, best, level, artifact)


def completion_facts(report: Report) -> AnswerFacts:
    """What is kept of a completion or of a turn of an inquiry."""
    difficulty = None if report.difficulty is None else report.difficulty.label
    turn = report.inquiry
    if turn is None:
        predicted = predicted_accuracy(report) or None
        return AnswerFacts("completion", report.entropy_mean, difficulty, predicted=predicted)
    labels = list(turn.probabilities)
    inside = set(turn.prediction_set)
    prediction = prediction_set(
        labels,
        [label in inside for label in labels],
        max(range(len(labels)), key=lambda place: turn.probabilities[labels[place]]),
        turn.confidence_level if turn.calibrated else None,
        turn.task,
    )
    return AnswerFacts("inquiry", prediction=prediction)
