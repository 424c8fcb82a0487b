import numpy as np

from benchmarks.difficulty.folds import commonest, out_of_fold
from training.difficulty.fit import Data


def planted(gap: float) -> Data:
    """Three classes along one direction each, two tasks: the first is mostly easy."""
    chance = np.random.default_rng(0)
    labels = np.arange(150) % 3
    features = chance.normal(size=(150, 6))
    features[np.arange(150), labels] += gap
    tasks = np.where((labels == 0) | (chance.random(150) < 0.1), "sums", "words")
    return Data(features, labels, tasks, chance.integers(5, 50, 150))


def test_every_question_is_classified_by_what_the_others_say() -> None:
    data = planted(gap=5.0)
    assert (out_of_fold(data, data.labels, seed=0) == data.labels).mean() > 0.95


def test_nothing_leaks_from_a_question_into_its_own_class() -> None:
    data = planted(gap=0.0)
    agreement = (out_of_fold(data, data.labels, seed=0) == data.labels).mean()
    assert agreement < 0.5


def test_the_commonest_class_of_a_task_is_learnt_from_other_questions() -> None:
    data = planted(gap=0.0)
    labels = commonest(data, seed=0)
    assert set(labels[data.tasks == "sums"].tolist()) == {0}
    assert 0 not in labels[data.tasks == "words"]
