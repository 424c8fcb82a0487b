"""Report of a steering vector: a page, a figure and a table in the terminal."""

from math import log
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from probes.artifact import Artifact
from probes.steering import ActionEntropy
from training.common.report import MIN_POINTS, markdown_table, provenance, write_page
from training.steering.fit import Candidate, Choice, StrengthCurve
from training.steering.generations import SteeredGenerations

_NAME = "steering"
_SHOWN = 6
"""Number of layers with their own curve: those whose entropy rises most."""


class ControlResult(NamedTuple):
    """Effect of the vectors of one kind at the chosen strength."""

    entropy: tuple[float, ...]
    action_probability_mass: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the entropies."""
        return float(np.mean(self.entropy))

    @property
    def spread(self) -> float:
        """Standard deviation of the entropies."""
        return float(np.std(self.entropy, ddof=1)) if len(self.entropy) > 1 else 0.0


class TaskResult(NamedTuple):
    """Results on the held-out episodes of one task."""

    steps: int
    actions: int
    curve: StrengthCurve
    controls: dict[str, ControlResult]
    temperatures: dict[float, tuple[float, float]]
    """Entropy and probability of any action without a vector, at other temperatures."""

    def beats_controls(self, choice: Choice) -> bool:
        """Whether the vector beats the mean and 2 sd of the shuffled and the Gaussian ones."""
        entropy = self.curve.interpolate(choice.strength)[0]
        return all(
            entropy > self.controls[name].mean + 2 * self.controls[name].spread
            for name in ("shuffled", "Gaussian")
        )


class SteeringResult(NamedTuple):
    """Contents of the report."""

    artifact: Artifact
    choice: Choice
    curves: dict[int, StrengthCurve]
    """On the validation runs, by layer."""
    compared: list[Candidate]
    """Likewise, beside shuffled vectors."""
    share: float
    tests: dict[str, TaskResult]
    """By task, the vector's own first."""
    generations: SteeredGenerations
    estimates: tuple[Tensor, ActionEntropy]
    """Of the runs that were learned from: by the chosen estimator, and off the logits."""
    size: float
    """Length of the vector, in multiples of the stream's norm."""
    residue: float
    """Length of the vector of equal weights, likewise."""
    command: str


def write_report(facts: SteeringResult, folder: Path) -> Path:
    """Write `steering.md` and its figure; returns the page."""
    return write_page(folder, _NAME, _page(facts), _draw(facts))


def write_summary(facts: SteeringResult, console: Console) -> None:
    """Print the results."""
    shown = (0, 2, 3, 5, 7)
    table = Table(*(_TESTED[place] for place in shown), title=f"{facts.artifact.id}, nats")
    for row in _test_rows(facts):
        table.add_row(*(row[place] for place in shown))
    console.print(table)
    console.print(f"layer {facts.choice.layer}, strength {facts.choice.strength:g}")


_TESTED = (
    "held-out task",
    "largest",
    "unsteered",
    "steered",
    "negated",
    "20 shuffled",
    "20 Gaussian",
    "beats both",
    "Spearman",
    "action probability",
)


def _test_rows(facts: SteeringResult) -> list[tuple[str, ...]]:
    strength = facts.choice.strength
    rows = list[tuple[str, ...]]()
    for task, test in facts.tests.items():
        (plain, before), (moved, after) = (
            test.curve.interpolate(0.0),
            test.curve.interpolate(strength),
        )
        rows.append(
            (
                task,
                f"{log(test.actions):.2f}",
                f"{plain:.3f}",
                f"{moved:.3f}",
                f"{test.curve.interpolate(-strength)[0]:.3f}",
                *(_mean_and_spread(test.controls[name]) for name in ("shuffled", "Gaussian")),
                "yes" if test.beats_controls(facts.choice) else "no",
                _correlation(test.curve, facts.share, 2),
                f"{before:.2f} → {after:.2f}",
            )
        )
    return rows


def _mean_and_spread(control: ControlResult) -> str:
    return f"{control.mean:.3f} ± {control.spread:.3f}"


def _draw(facts: SteeringResult) -> Figure:
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


def _page(facts: SteeringResult) -> str:
    manifest, choice = facts.artifact.manifest, facts.choice
    settings = manifest.settings
    main = next(iter(facts.tests.values()))
    curves = [
        (
            str(layer),
            f"{curve.largest_valid_strength(facts.share):g}",
            f"{curve.interpolate(0.0)[0]:.3f}",
            f"{curve.interpolate(curve.largest_valid_strength(facts.share))[0]:.3f}",
            f"{curve.interpolate(curve.strengths[curve.valid(facts.share)[0]])[0]:.3f}",
            _correlation(curve, facts.share, 2),
            "chosen" if layer == choice.layer else "",
        )
        for layer, curve in facts.curves.items()
    ]
    strengths = [
        (
            f"{strength:+g}",
            f"{main.curve.entropy[place]:.3f}",
            f"{main.curve.action_probability_mass[place]:.3f}",
            f"{facts.generations.divergence[strength]:.3f}",
        )
        for place, strength in enumerate(main.curve.strengths)
    ]
    estimate, logit = facts.estimates
    known = estimate.isfinite()
    unsteered, steered, negated = (
        main.curve.interpolate(strength)[0] for strength in (0.0, choice.strength, -choice.strength)
    )
    return f"""# Steering vector of {manifest.model}

{provenance(manifest, facts.command)}

Entropic activation steering (EAST, arXiv 2406.00244). Learned from the task `{settings["task"]}`:
{settings["histories"]} runs of {settings["steps"]} steps, {settings["arms"]} arms
(seed {manifest.seed}). Layer and strength were chosen on {settings["held_out"]} other runs, and
everything under "Held-out runs" was measured on runs that neither saw. Strengths are multiples of
the mean norm of the residual stream ({_norm(facts):.1f} at layer {choice.layer});
{facts.size:.4f} of it is the length of the vector itself. Entropies are over the actions,
renormalized, in nats; "action probability" is that of any action at all.

The runs learned from have {float(estimate[known].mean()):.3f} nats by the estimator
`{settings["estimator"]}` and {float(logit.entropy.mean()):.3f} off the logits (standard deviation
{float(logit.entropy.std()):.3f}, action probability
{float(logit.action_probability_mass.mean()):.3f}); {int((~known).sum())} of {len(known)} steps had
no valid answer.

**Layer {choice.layer}, strength {choice.strength:g}.** On held-out runs of the same task the
entropy goes from {unsteered:.3f} to {steered:.3f} nats, and to {negated:.3f} with the vector
negated. Strength and entropy have a Spearman correlation of
{_correlation(main.curve, facts.share, 3)} where answers are valid, from
{main.curve.strengths[main.curve.valid(facts.share)[0]]:g} to
{main.curve.largest_valid_strength(facts.share):g}.

![Layers, validity, held-out tasks, drift]({_NAME}.png)

## Held-out runs

At strength {choice.strength:g}. A shuffled vector has the same entries in another order, a Gaussian
one the same length; mean ± standard deviation of 20. "Beats both" means more than mean + 2 sd.
"Spearman" is of strength and entropy where the task's answers stay valid ({facts.share:.0%} of the
unsteered action probability).

{markdown_table(_TESTED, _test_rows(facts))}

## Controls

On `{next(iter(facts.tests))}`, at the same length. Equal weights give a vector of
{facts.residue:.1e} of the stream's norm: nothing but rounding.

{markdown_table(("", "entropy", "action probability"), _controls(facts, main))}

## Strengths

On `{next(iter(facts.tests))}`. KL is the drift of the next token from the unsteered model's, along
its own answers to neutral prompts.

{markdown_table(("strength", "entropy", "action probability", "KL, nats per token"), strengths)}

## Completions

{settings["completions"]} completions of at most {settings["max_tokens"]} tokens at temperature 1,
drawn at each step of a held-out run; valid ones name exactly one action.

{markdown_table(("strength", "sampled entropy", "valid"), _sampled_rows(facts))}

## Completions of neutral prompts

Likeliest answers, 40 tokens.

{_completions(facts)}

## How layer and strength were chosen

On the validation runs: of the layers at which entropy follows strength steadily, the five at which
it rises most, beside ten other shuffled vectors. The largest margin over mean + 2 sd of those is
taken.

{markdown_table(("layer", "strength", "entropy", "shuffled", "margin", ""), _candidates(facts))}

All layers, up to the last valid strength on either side:

{markdown_table(_LAYERS, curves)}

Artifact `{facts.artifact.id}`; sha256 of the runs `{manifest.data_hash}`.
"""


_LAYERS = (
    "layer",
    "largest valid",
    "unsteered",
    "at the largest valid",
    "at the lower end",
    "Spearman",
    "",
)


def _correlation(curve: StrengthCurve, share: float, digits: int) -> str:
    """Spearman correlation of strength and entropy; a dash where there are too few points."""
    if len(curve.valid(share)) < MIN_POINTS:
        return "-"
    return f"{curve.spearman_correlation(share):.{digits}f}"


def _norm(facts: SteeringResult) -> float:
    """Mean norm of the residual stream behind the chosen layer."""
    spec = facts.artifact.manifest.steering
    assert spec is not None
    return spec.norms[facts.choice.layer]


def _controls(facts: SteeringResult, test: TaskResult) -> list[tuple[str, ...]]:
    strength = facts.choice.strength
    rows: list[tuple[str, ...]] = [
        (name, f"{test.curve.interpolate(at)[0]:.3f}", f"{test.curve.interpolate(at)[1]:.3f}")
        for name, at in (("EAST", strength), ("negated", -strength), ("none", 0.0))
    ]
    for name, control in test.controls.items():
        several = len(control.entropy) > 1
        shown = _mean_and_spread(control) if several else f"{control.mean:.3f}"
        rows.append((name, shown, f"{np.mean(control.action_probability_mass):.3f}"))
    for temperature, (entropy, action_probability_mass) in test.temperatures.items():
        rows.append(
            (
                f"no vector, temperature {temperature:g}",
                f"{entropy:.3f}",
                f"{action_probability_mass:.3f}",
            )
        )
    return rows


def _candidates(facts: SteeringResult) -> list[tuple[str, ...]]:
    return [
        (
            str(one.choice.layer),
            f"{one.choice.strength:g}",
            f"{one.entropy:.3f}",
            f"{np.mean(one.shuffled):.3f} ± {np.std(one.shuffled, ddof=1):.3f}",
            f"{one.margin:+.3f}",
            "chosen" if one.choice == facts.choice else "",
        )
        for one in facts.compared
    ]


def _sampled_rows(facts: SteeringResult) -> list[tuple[str, ...]]:
    return [
        (
            f"{strength:+g}",
            "-" if one.entropy is None else f"{one.entropy:.3f}",
            f"{one.valid:.1%}",
        )
        for strength, one in facts.generations.sampled.items()
    ]


def _completions(facts: SteeringResult) -> str:
    parts = list[str]()
    for number, prompt in enumerate(facts.generations.prompts):
        rows = [
            (f"{strength:+g}", " ".join(texts[number].split()).replace("|", "\\|"))
            for strength, texts in facts.generations.completions.items()
        ]
        question = " / ".join(prompt.splitlines())
        parts.append(f"> {question}\n\n{markdown_table(('strength', 'answer'), rows)}")
    return "\n\n".join(parts)
