"""The figure of an evaluation: accuracy against tokens and pass@k, risk against coverage."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.common.selective import error_by_coverage
from training.evaluation.answers import ArmAnswers, join
from training.evaluation.arms import ArmKind, EvaluationArm
from training.evaluation.results import DrawnAnswers, EvaluationResult

_LOOKS: dict[ArmKind, tuple[str, str]] = {
    "fixed": ("o", "0.4"),
    "min_p": ("D", "C4"),
    "law": ("s", "C0"),
    "mean": ("+", "C2"),
    "shuffled": ("x", "C3"),
    "truncation": ("P", "C6"),
    "strategy": ("^", "C5"),
    "router": ("*", "C1"),
    "profile": ("s", "C0"),
}
"""Marker and color of every kind of arm."""


def draw_figure(
    result: EvaluationResult, arms: list[EvaluationArm], drawn: DrawnAnswers, plain: str, k: int
) -> Figure:
    """Three panels; the curve of fixed temperatures is a line."""
    figure = Figure(figsize=(15, 5), layout="constrained")
    tokens, passed, risk = figure.subplots(1, 3)
    accuracy = {name: one.accuracy.value for name, one in result.arms.items()}
    _scatter(tokens, arms, {n: one.tokens.value for n, one in result.arms.items()}, accuracy)
    tokens.set(xlabel="tokens of an answer", ylabel="accuracy", title="Accuracy and cost")
    routers = [router for router in result.routers.values()]
    for router in routers:
        for name, (right, spent) in router.choices.items():
            if not name.startswith(("always", "router")):
                tokens.plot(spent.value, right.value, "v", color="C5", markersize=5)
                tokens.annotate(name, (spent.value, right.value), fontsize=6, color="C5")
    chat = [arm for arm in arms if arm.kind not in ("strategy", "router")]
    _scatter(passed, chat, {n: one.pass_at_k.value for n, one in result.arms.items()}, accuracy)
    passed.set(xlabel=f"pass@{k}", ylabel="accuracy", title=f"Accuracy and pass@{k}")
    _risk(risk, join(drawn.choosing[plain], drawn.scoring[plain]))
    return figure


def _scatter(
    axes: Axes, arms: list[EvaluationArm], x: dict[str, float], y: dict[str, float]
) -> None:
    shown = [arm for arm in arms if arm.name in x]
    curve = [arm.name for arm in shown if arm.kind == "fixed"]
    axes.plot([x[name] for name in curve], [y[name] for name in curve], "-", color="0.7")
    labeled = set()
    for arm in shown:
        marker, color = _LOOKS[arm.kind]
        label = arm.kind if arm.kind not in labeled else None
        labeled.add(arm.kind)
        axes.plot(x[arm.name], y[arm.name], marker, color=color, label=label)
        if arm.kind not in ("mean", "shuffled"):
            axes.annotate(arm.name, (x[arm.name], y[arm.name]), fontsize=6)
    axes.legend(fontsize=7)


def _risk(axes: Axes, answers: ArmAnswers) -> None:
    wrong = (1.0 - answers.right).ravel()
    coverage = np.arange(1, len(wrong) + 1) / len(wrong)
    scores = {
        "entropy_mean": answers.entropy_mean,
        "mean logprob (stock)": -answers.logprob_mean,
        "answer length": answers.tokens,
        "perfect order": 1.0 - answers.right,
    }
    for name, score in scores.items():
        if not np.isnan(score).any():
            axes.plot(coverage, error_by_coverage(score.ravel(), wrong), label=name)
    axes.axhline(wrong.mean(), color="0.7", linestyle="--", label="random order")
    axes.set(xlabel="coverage", ylabel="share of wrong answers", title="Risk and coverage")
    axes.legend(fontsize=7)
