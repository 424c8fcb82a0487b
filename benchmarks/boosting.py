"""Gradient-boosted trees beside the logistic regression of a confidence probe, on the same folds.

python -m benchmarks.boosting quiz.jsonl sums.jsonl --title "0.5B" --out confidence-boosting
"""

from collections.abc import Mapping

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import GroupKFold

from benchmarks.graded import write_comparison
from benchmarks.machine import markdown
from training.common.metrics import (
    Floats,
    calibration_error,
    interval,
    resample_weights,
)
from training.common.report import markdown_table
from training.common.selective import auroc
from training.selective.confidence import fit_data
from training.selective.fit import FOLDS, FitData, cross_fitted, folds
from training.selective.rows import GradedAnswers

_TREES = (10, 25, 50, 100)
_RATE, _LEAVES, _LEAST = 0.1, 8, 10
"""Learning rate, leaves of a tree, answers of a leaf."""


def boosted(data: FitData, seed: int) -> Floats:
    """Probability of every answer by trees that other questions chose the number of and fitted."""
    found = np.zeros(len(data.right))
    for fitted, left_out in folds(data, seed + 1):
        part = data.take(fitted)
        number = min(_TREES, key=lambda trees: _loss(part, trees, seed))
        model = _trees(number, seed).fit(part.matrix(tuple(part.columns)), part.right)
        rest = data.take(left_out).matrix(tuple(data.columns))
        found[left_out] = model.predict_proba(rest)[:, 1]
    return found


def _trees(number: int, seed: int) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        learning_rate=_RATE,
        max_iter=number,
        max_leaf_nodes=_LEAVES,
        min_samples_leaf=_LEAST,
        early_stopping=False,
        random_state=seed,
    )


def _loss(data: FitData, trees: int, seed: int) -> float:
    """Cross-validated, by questions."""
    matrix, losses = data.matrix(tuple(data.columns)), []
    split = GroupKFold(FOLDS, shuffle=True, random_state=seed)
    for fitted, rest in split.split(matrix, groups=data.groups):
        model = _trees(trees, seed).fit(matrix[fitted], data.right[fitted])
        losses.append(log_losses(model.predict_proba(matrix[rest])[:, 1], data.right[rest]).mean())
    return float(np.mean(losses))


def log_losses(probability: Floats, right: Floats) -> Floats:
    """Negative log-likelihood of every answer, nats."""
    likelihood = np.where(right > 0, probability, 1 - probability).clip(1e-6)
    found: Floats = -np.log(likelihood)
    return found


def compare(answers: GradedAnswers, seed: int = 0) -> list[list[str]]:
    """Both on answers to questions that were left out: AUROC, ECE, log loss, and differences."""
    data = fit_data(answers)
    logistic = cross_fitted(data, [tuple(data.columns)], seed)[0]
    trees = boosted(data, seed)
    numbers = np.unique(data.groups, return_inverse=True)[1]
    weights = resample_weights(int(numbers.max()) + 1, seed)[:, numbers]
    wrong, once = (1.0 - data.right)[:, None], np.full((1, len(data.right)), 1 / len(data.right))

    def areas(probability: Floats, by: Floats) -> Floats:
        return auroc(-probability[:, None], wrong, by)

    lines = []
    for name, own in (("logistic regression", logistic), ("boosted trees", trees)):
        gap = areas(own, weights) - areas(logistic, weights)
        value = float(areas(own, once)[0] - areas(logistic, once)[0])
        losses = log_losses(own, data.right) - log_losses(logistic, data.right)
        area = interval(value, gap[~np.isnan(gap)])
        loss = interval(float(losses.mean()), weights @ losses / weights.sum(1))
        lines.append(
            [
                name,
                f"{float(areas(own, once)[0]):.3f}",
                f"{calibration_error(own, data.right):.3f}",
                f"{float(log_losses(own, data.right).mean()):.3f}",
                *(
                    ["", ""]
                    if own is logistic
                    else [
                        f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})"
                        for one in (area, loss)
                    ]
                ),
            ]
        )
    return lines


def page(title: str, tasks: Mapping[str, GradedAnswers], facts: dict[str, object]) -> str:
    """The result as Markdown."""
    lines = []
    for name, answers in tasks.items():
        lines += [[f"{name}, {len(answers.rows)}", *line] for line in compare(answers)]
    header = ["answers", "fit", "AUROC", "ECE", "log loss", "AUROC minus logistic"]
    table = markdown_table([*header, "log loss minus logistic"], lines)
    made = "\n".join(markdown(facts))
    return f"""# Boosted trees for a confidence probe: {title}

{made}

{table}

Both see the same scores of the report and are scored on questions that neither chose nor fitted
them. The logistic regression is that of `train-probe confidence` on all scores, with its choice of
a curve; the number of trees ({", ".join(map(str, _TREES))}) is chosen by cross-validation over
questions. Intervals are 95 % bootstraps over questions; a lower log loss is better.
"""


def main() -> None:
    """Compare and write the page."""
    write_comparison("benchmarks.boosting", __doc__, page)


if __name__ == "__main__":
    main()
