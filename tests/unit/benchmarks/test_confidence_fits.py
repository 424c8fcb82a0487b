"""A probe on a task left out, and boosted trees, where what they should find is known."""

import numpy as np

from benchmarks.boosting import boosted, compare
from benchmarks.machine import describe
from benchmarks.transfer import page
from training.common.selective import auroc
from training.selective.confidence import fit_data
from training.selective.rows import GradedAnswer, GradedAnswers


def answers(name: str, sign: float, number: int = 120) -> GradedAnswers:
    """Right where `logprob_mean`, times a sign, is high, or `entropy_max` is in the middle."""
    draw, rows = np.random.default_rng(0), []
    for question in range(number):
        doubt, spread = draw.normal(), draw.uniform(0, 3)
        right = bool(sign * doubt > 0) if sign else bool(1 < spread < 2)
        scores = {"logprob_mean": float(doubt), "entropy_max": float(spread)}
        rows.append(GradedAnswer(f"{name} {question}", "", right, scores))
    return GradedAnswers(rows, 0.7, 2048)


def test_a_probe_carries_to_a_task_that_is_alike_and_not_to_one_that_is_turned() -> None:
    tasks = {"one": answers("one", 1), "same": answers("same", 1), "turned": answers("turned", -1)}
    lines = page("a model", tasks, describe("benchmarks.transfer")).splitlines()
    found = {tuple(line.split(" | ")[:2]): line.split(" | ")[2] for line in lines if "| " in line}
    assert float(found["| one", "same"][:5]) > 0.95
    assert float(found["| one", "turned"][:5]) < 0.05
    assert ("| one", "same and turned") in found


def test_trees_find_what_a_curve_cannot() -> None:
    data = fit_data(answers("middle", 0, 240))
    wrong, once = (1 - data.right)[:, None], np.full((1, 240), 1 / 240)
    assert auroc(-boosted(data, 0)[:, None], wrong, once)[0] > 0.95
    logistic, trees = compare(answers("middle", 0, 240))
    assert float(logistic[1]) < 0.7 < float(trees[1])
