"""Figure of a steering report: layers, validity, held-out tasks, drift."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.steering.results import SteeringResult

_SHOWN = 6
"""Number of layers with their own curve: those whose entropy rises most."""


def draw(facts: SteeringResult) -> Figure:
    """Draw the four panels."""
    figure = Figure(figsize=(12, 9), layout="constrained")
    layers, action_probability_mass, tested, drift = figure.subplots(2, 2).flat
    _draw_layers(facts, layers, action_probability_mass)
    _draw_tests(facts, tested)
    _draw_drift(facts, drift)
    return figure


def _best_layers(facts: SteeringResult) -> list[int]:
    """The layers with the widest span of valid entropies, in order."""
    spans = {layer: curve.entropy_span(facts.share) for layer, curve in facts.curves.items()}
    chosen = sorted(spans, key=lambda layer: -spans[layer])[:_SHOWN]
    return sorted({*chosen, facts.choice.layer})


def _draw_layers(facts: SteeringResult, entropy: Axes, action_probability_mass: Axes) -> None:
    for layer, curve in facts.curves.items():
        if layer not in _best_layers(facts):
            entropy.plot(curve.strengths, curve.entropy, color="0.85", zorder=0)
            action_probability_mass.plot(
                curve.strengths, curve.action_probability_mass, color="0.85", zorder=0
            )
    for layer in _best_layers(facts):
        curve, wide = facts.curves[layer], 3 if layer == facts.choice.layer else 1
        entropy.plot(curve.strengths, curve.entropy, "o-", lw=wide, ms=3, label=f"layer {layer}")
        action_probability_mass.plot(
            curve.strengths,
            curve.action_probability_mass,
            "o-",
            lw=wide,
            ms=3,
            label=f"layer {layer}",
        )
    least = facts.share * facts.curves[facts.choice.layer].interpolate(0.0)[1]
    action_probability_mass.axhline(least, color="0.4", linestyle=":", label="valid above this")
    for axes in (entropy, action_probability_mass):
        axes.axvline(facts.choice.strength, color="0.4", linestyle="--")
        axes.set(xlabel="strength, multiples of the stream's norm")
        axes.legend(fontsize=7)
    entropy.set(ylabel="entropy over actions, nats", title="Validation runs, all layers")
    action_probability_mass.set(
        ylabel="probability of any action", title="Valid answers, all layers"
    )


def _draw_tests(facts: SteeringResult, axes: Axes) -> None:
    for number, (task, test) in enumerate(facts.tests.items()):
        curve, color = test.curve, f"C{number}"
        axes.plot(curve.strengths, curve.entropy, "o-", ms=3, color=color, label=task)
        shuffled = test.controls["shuffled"]
        at = facts.choice.strength + 0.004 * number
        axes.errorbar(
            [at], [shuffled.mean], [2 * shuffled.spread], fmt="s", ms=4, color=color, capsize=3
        )
    axes.set(xlabel="strength, multiples of the stream's norm", ylabel="entropy over actions, nats")
    axes.set_title("Held-out runs; squares: shuffled vectors, ± 2 sd")
    axes.legend(fontsize=7)


def _draw_drift(facts: SteeringResult, axes: Axes) -> None:
    drift = facts.generations.divergence
    axes.plot(list(drift), list(drift.values()), "o-", color="C3")
    axes.set(xlabel="strength, multiples of the stream's norm", ylabel="KL, nats per token")
    axes.set_title("Drift of answers to neutral prompts")
