"""How good probabilities and prediction sets are, on rows that were not used for them."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from probes.conformal import Coverage
from probes.decisions.calibration import QuestionCalibration
from probes.decisions.scores import OptionLogprobs
from training.common.metrics import calibration_error, chance_calibration_error


class Quality(NamedTuple):
    """Quality of the probabilities of some rows."""

    accuracy: float
    ece: float
    """Expected calibration error: mean gap of confidence and accuracy over ten bins of equal
    width."""
    chance_ece: float
    """What a confidence that is exactly right would show on so few rows."""
    brier: float
    """Mean squared distance to the right option, summed over the options."""
    log_loss: float
    """Mean negative log-likelihood of the right option, nats."""


def quality(probabilities: Tensor, labels: Tensor, confidence: Tensor | None = None) -> Quality:
    """Measure probabilities.

    Args:
        probabilities: Shape (n, K).
        labels: Index of the right option, shape (n,).
        confidence: Stated confidence of the best option, shape (n,); None is its probability.
    """
    best = probabilities.argmax(-1)
    right = (best == labels).double()
    stated = probabilities.max(-1).values if confidence is None else confidence
    arrays = stated.double().numpy(), right.numpy()
    truth = torch.nn.functional.one_hot(labels, probabilities.shape[-1])
    chosen = probabilities.gather(-1, labels[:, None]).clamp_min(1e-12)
    return Quality(
        accuracy=float(right.mean()),
        ece=calibration_error(*arrays),
        chance_ece=chance_calibration_error(arrays[0]),
        brier=float((probabilities - truth).square().sum(-1).mean()),
        log_loss=-float(chosen.log().mean()),
    )


def letters_formula(found: list[OptionLogprobs]) -> tuple[Tensor, Tensor]:
    """vLLM's letters: softmax over the labels in the given order; its confidence.

    Returns:
        Probabilities, shape (n, K), and confidence, the best one times the label mass, shape (n,).
    """
    rows = torch.tensor([one.letters[0] for one in found], dtype=torch.float64)
    shown = torch.softmax(rows, -1)
    return shown, shown.max(-1).values * rows.exp().sum(-1)


class SetFigures(NamedTuple):
    """Prediction sets over many random divisions of rows into calibration and test."""

    level: float
    coverage: float
    """Mean over the divisions."""
    low: float
    """Smallest share of the 2.5 % of divisions with the lowest coverage, excluded."""
    high: float
    kept: float
    """Share of divisions whose coverage is not lower than chance allows, at 99.5 %."""
    size: float
    """Mean number of values."""
    single: float
    """Share of sets of one value."""
    risk: float
    """Share of wrong answers among the sets of one value."""


def set_figures(
    calibration: QuestionCalibration,
    probabilities: Tensor,
    labels: Tensor,
    level: float,
    splits: int = 1000,
    seed: int = 0,
) -> SetFigures:
    """Coverage over random halves: one calibrates, the other is tested.

    What chance allows is a Beta-binomial: the coverage of a calibration of n rows has a Beta
    distribution, and the test rows are drawn from it. Coverage can be higher at levels below the
    accuracy, where no set is empty.

    Args:
        calibration: Gives the form; its rows are replaced.
        probabilities: Scaled, of rows that the scaling was not fitted to, shape (n, K).
        labels: Index of the right option, shape (n,).
        level: Confidence level.
        splits: Number of divisions.
        seed: Of the divisions.

    Source: Angelopoulos and Bates (arXiv 2107.07511), section C.
    """
    from scipy.stats import betabinom

    draw = torch.Generator().manual_seed(seed)
    half = len(labels) // 2
    rates, sizes, singles, risks = [], [], [], []
    for _ in range(splits):
        order = torch.randperm(len(labels), generator=draw)
        own, rest = order[:half], order[half:]
        one = QuestionCalibration.of(
            calibration.settings,
            calibration.weight,
            calibration.bias,
            probabilities[own],
            labels[own],
        )
        members = one.sets(probabilities[rest], level)
        count = members.sum(-1)
        rates.append(float(members.gather(-1, labels[rest, None]).double().mean()))
        sizes.append(float(count.double().mean()))
        alone = count == 1
        singles.append(float(alone.double().mean()))
        if bool(alone.any()):
            wrong = probabilities[rest][alone].argmax(-1) != labels[rest][alone]
            risks.append(float(wrong.double().mean()))
    rank = math.ceil((half + 1) * level)
    tested = len(labels) - half
    low = betabinom.ppf(0.005, tested, rank, half + 1 - rank)
    found = torch.tensor(rates, dtype=torch.float64)
    return SetFigures(
        level=level,
        coverage=float(found.mean()),
        low=float(found.quantile(0.025)),
        high=float(found.quantile(0.975)),
        kept=float((found >= low / tested).double().mean()),
        size=sum(sizes) / splits,
        single=sum(singles) / splits,
        risk=sum(risks) / len(risks) if risks else math.nan,
    )


def class_coverage(members: Tensor, labels: Tensor) -> dict[int, Coverage]:
    """Coverage for each right option that occurs."""
    inside = members.gather(-1, labels[:, None]).squeeze(-1)
    return {
        label: Coverage(int((labels == label).sum()), int(inside[labels == label].sum()))
        for label in sorted(set(labels.tolist()))
    }


def risk_at(probabilities: Tensor, labels: Tensor, shares: tuple[float, ...]) -> dict[float, float]:
    """Share of wrong answers among the most confident rows, by the share of rows answered."""
    order = probabilities.max(-1).values.argsort(descending=True)
    wrong = (probabilities.argmax(-1) != labels).double()[order]
    return {share: float(wrong[: max(1, round(share * len(wrong)))].mean()) for share in shares}


def order_distance(found: list[OptionLogprobs], first: slice, second: slice) -> float:
    """Mean total-variation distance of the probabilities under two groups of orders.

    0 means that the order of the options does not matter.
    """
    rows = torch.stack([torch.tensor(one.letters, dtype=torch.float64) for one in found])
    one, two = (torch.softmax(rows[:, part].mean(1), -1) for part in (first, second))
    return float((one - two).abs().sum(-1).mean() / 2)
