"""The router by worth beside its controls, on the questions that no fit has seen."""

from typing import NamedTuple

import numpy as np

from probes.difficulty.strategies import Difficulty, RouterSpec
from training.common.metrics import Floats, Interval, interval, resample_weights
from training.common.report import markdown_table
from training.common.strategy_choice import (
    PREDICTORS,
    Indices,
    QuestionTexts,
    choose,
    split_oracle,
)
from training.difficulty.router import RouterFit, StrategyOutcomes


class RoutedChoice(NamedTuple):
    """One way to choose a strategy, on the held-out questions."""

    accuracy: float
    gain: Interval
    """Accuracy minus that of the strategy normal."""
    tokens: float
    saved: Interval
    """Share of the strategy normal's tokens."""


class RouterComparison(NamedTuple):
    """The router and its controls."""

    spec: RouterSpec
    keeps_accuracy: bool
    num_questions: int
    choices: dict[str, RoutedChoice]
    shares: list[float]
    """How often the router chose each strategy."""


def compare_router(
    fit: RouterFit,
    seen: tuple[StrategyOutcomes, QuestionTexts],
    new: tuple[StrategyOutcomes, QuestionTexts],
    samples: int,
    seed: int,
) -> RouterComparison:
    """Choose by the router and by every control at the router's default price.

    Args:
        fit: Fitted to `seen`.
        seen: What the controls learn from.
        new: The held-out questions.
        samples: Answers to each question by each strategy.
        seed: Of the bootstrap and the oracle.
    """
    price, unit = fit.spec.price, fit.spec.normal_tokens
    known, (outcomes, texts) = seen[0], new
    accuracy, tokens = outcomes.accuracy, outcomes.tokens
    own = fit.choose(outcomes.states, price)
    shares = np.bincount(own, minlength=len(Difficulty)) / len(own)
    figures = {"router": _chosen(outcomes, own)}
    figures |= {f"always {one.word}": (accuracy[one], tokens[one]) for one in Difficulty}
    figures["random at the same rates"] = (shares @ accuracy, shares @ tokens)
    for name, guess in PREDICTORS.items():
        found = (
            guess(seen[1], texts, known.accuracy),
            guess(seen[1], texts, known.tokens) / unit,
        )
        figures[name] = _chosen(outcomes, choose(*found, price))
    figures["split oracle"] = split_oracle(accuracy, tokens, samples, seed)
    weights = resample_weights(len(own), seed)
    normal = figures[f"always {Difficulty.NORMAL.word}"]
    choices = {name: _compared(one, normal, weights) for name, one in figures.items()}
    return RouterComparison(fit.spec, fit.keeps_accuracy, len(own), choices, shares.tolist())


def _chosen(outcomes: StrategyOutcomes, labels: Indices) -> tuple[Floats, Floats]:
    rows = np.arange(len(labels))
    return outcomes.accuracy[labels, rows], outcomes.tokens[labels, rows]


def _compared(
    one: tuple[Floats, Floats], normal: tuple[Floats, Floats], weights: Floats
) -> RoutedChoice:
    gain = one[0] - normal[0]
    saved = 1 - (weights @ one[1]) / (weights @ normal[1])
    return RoutedChoice(
        float(one[0].mean()),
        interval(float(gain.mean()), weights @ gain),
        float(one[1].mean()),
        interval(float(1 - one[1].mean() / normal[1].mean()), saved),
    )


def router_section(result: RouterComparison) -> str:
    """The section of the report."""
    rows = [
        (
            name,
            f"{one.accuracy:.3f}",
            f"{one.gain.value:+.3f} ({one.gain.low:+.3f} to {one.gain.high:+.3f})",
            f"{one.tokens:.1f}",
            f"{one.saved.value:.0%} ({one.saved.low:.0%} to {one.saved.high:.0%})",
        )
        for name, one in result.choices.items()
    ]
    head = ("choice", "accuracy", "minus normal", "tokens", "saved")
    shares = " / ".join(f"{share:.0%}" for share in result.shares)
    dropped = " and ".join(result.spec.dropped)
    drops = f"The strategy {dropped} is dropped: another one is better and shorter." * bool(dropped)
    return f"""## Router by worth

The state predicts accuracy and tokens of every strategy (ridge); the server takes the strategy with
the highest accuracy minus price times tokens. {_price(result)}
{drops}

On the {result.num_questions} held-out questions the router chooses easy / normal / hard for
{shares}.
{_verdict(result.choices["router"])}
The controls choose at the same price from what the kind, the words or the length of the question
predict; the split oracle is chosen on half of a question's answers and scored on the others. The
pass that reads a state before a prompt is changed is not counted.

{markdown_table(head, rows)}"""


def _price(result: RouterComparison) -> str:
    unit = f"{result.spec.normal_tokens:.1f} tokens (the mean length of a normal answer)"
    if not result.keeps_accuracy:
        return (
            "**No price keeps the accuracy of the strategy normal** on questions left out of a "
            f"fit.\nThe default price is 0, the most accurate choice; the unit is {unit}."
        )
    return (
        f"The default price, {result.spec.price:.3g} per\n{unit}, is the highest at which\n"
        "accuracy is not below the strategy normal on questions left out of a fit: its mean is "
        "not,\nand the lower bound of its interval is at most one point below."
    )


def _verdict(router: RoutedChoice) -> str:
    if router.gain.low > 0 and router.saved.low > 0:
        return "The router pays: more right answers with fewer tokens than the strategy normal."
    if router.gain.low > 0:
        return "The router is more accurate than the strategy normal, but not shown to save tokens."
    return "The router is not shown to be more accurate than the strategy normal."
