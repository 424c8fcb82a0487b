"""Report of a steering vector: a page, a figure and a table in the terminal."""

from math import log
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from training.common.metrics import Interval
from training.common.report import MIN_POINTS, markdown_table, provenance, write_page
from training.steering.figure import draw
from training.steering.fit import StrengthCurve
from training.steering.results import ControlResult, SteeringResult, TaskResult

_NAME = "steering"


def write_report(facts: SteeringResult, folder: Path) -> Path:
    """Write `steering.md` and its figure; returns the page."""
    return write_page(folder, _NAME, _page(facts), draw(facts))


def write_summary(facts: SteeringResult, console: Console) -> None:
    """Print the results."""
    shown = (0, 3, 5, 7, 9, 10)
    table = Table(*(_TESTED[place] for place in shown), title=f"{facts.artifact.id}, nats")
    for row in _test_rows(facts):
        table.add_row(*(row[place] for place in shown))
    console.print(table)
    console.print(_verdict(facts).replace("\n", " ").replace("**", ""), highlight=False)


_TESTED = (
    "test",
    "episodes",
    "largest",
    "unsteered",
    "steered",
    "change",
    "change, negated",
    "20 shuffled",
    "20 Gaussian",
    "above shuffled",
    "effect",
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
                str(test.episodes),
                f"{log(test.actions):.2f}",
                f"{plain:.3f}",
                f"{moved:.3f}",
                *(_interval(one) for one in (test.effect.change, test.effect.negated)),
                *(_mean_and_spread(test.controls[name]) for name in ("shuffled", "Gaussian")),
                _interval(test.effect.above_shuffled),
                "yes" if test.transfers(facts.choice) else "not shown",
                _correlation(test.curve, facts.share, 2),
                f"{before:.2f} → {after:.2f}",
            )
        )
    return rows


def _interval(one: Interval) -> str:
    return f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})"


def _mean_and_spread(control: ControlResult) -> str:
    return f"{control.mean:.3f} ± {control.spread:.3f}"


def _page(facts: SteeringResult) -> str:
    manifest, choice = facts.artifact.manifest, facts.choice
    settings = manifest.settings
    main = next(iter(facts.tests.values()))
    return f"""# Steering vector of {manifest.model}

{provenance(manifest, facts.command)}

{_verdict(facts)}

Entropic activation steering (EAST, arXiv 2406.00244). {_learned_from(facts)} Strengths are
multiples of the mean norm of the residual stream ({_norm(facts):.1f} at layer {choice.layer});
{facts.size:.4f} of it is the length of the vector itself. Entropies are over the actions,
renormalized, in nats; "action probability" is that of any action at all.

{_training_entropy(facts)}

{_effect(facts, main)}

![Layers, validity, held-out tasks, drift]({_NAME}.png)

## Tests

At strength {choice.strength:g}, on episodes that neither made nor chose the vector. A shuffled
vector has the same entries in another order, a Gaussian one the same length; mean ± standard
deviation of 20. Intervals are 95 % bootstraps over episodes, paired. An effect is shown where the
entropy rises, the intervals against the unsteered model and against the mean of either control are
above 0, and the vector is above all 40 of them. "Spearman" is of strength and entropy where the
task's answers stay valid ({facts.share:.0%} of the unsteered action probability).

{markdown_table(_TESTED, _test_rows(facts))}
{_stories(facts, main)}
## Controls

On {next(iter(facts.tests))}, at the same length. Equal weights give a vector of
{facts.residue:.1e} of the stream's norm: nothing but rounding.

{markdown_table(("", "entropy", "action probability"), _controls(facts, main))}

## Strengths

On {next(iter(facts.tests))}. KL is the drift of the next token from the unsteered model's, along
its own answers to neutral prompts.

{markdown_table(_STRENGTHS, _strength_rows(facts, main))}

## Completions

{settings["completions"]} completions of at most {settings["max_tokens"]} tokens at temperature 1,
drawn at each step of a held-out run; valid ones name exactly one action.

{markdown_table(("strength", "sampled entropy", "valid"), _sampled_rows(facts))}

## Completions of neutral prompts

Likeliest answers, 40 tokens.

{_completions(facts)}

## How layer and strength were chosen

On the validation episodes: of the layers at which entropy follows strength steadily, the five at
which it rises most, beside ten other shuffled vectors. The largest margin over mean + 2 sd of those
is taken.

{markdown_table(("layer", "strength", "entropy", "shuffled", "margin", ""), _candidates(facts))}

All layers, up to the last valid strength on either side:

{markdown_table(_LAYERS, _layer_rows(facts))}

Artifact `{facts.artifact.id}`; sha256 of the runs `{manifest.data_hash}`.
"""


def _verdict(facts: SteeringResult) -> str:
    """What the test that counts shows, in a sentence or two."""
    name, test = next(iter(facts.tests.items()))
    below, size = test.below(facts.choice, "shuffled"), len(test.controls["shuffled"].entropy)
    shown = test.transfers(facts.choice)
    found = "The vector raises the entropy" if shown else "No effect of the vector is shown"
    means = (
        ""
        if facts.num_wordings == 0
        else (
            " It transfers to wordings that it was neither made nor chosen on."
            if shown
            else " It does not transfer to wordings that it was neither made nor chosen on."
        )
    )
    return f"""**{found} on {name}: {_interval(test.effect.change)} nats, and
{_interval(test.effect.above_shuffled)} beyond shuffled vectors of the same length, {below} of
{size} of which it exceeds.{means}**
Layer {facts.choice.layer}, strength {facts.choice.strength:g}."""


def _learned_from(facts: SteeringResult) -> str:
    settings, number = facts.artifact.manifest.settings, facts.num_wordings
    if number:
        text = f"""Learned from `{settings["task"]}`: episodes in {number} wordings, each of
equal weight. Layer and strength were chosen on episodes in other wordings, and the first test is in
wordings that neither saw."""
    else:
        text = f"""Learned from the task `{settings["task"]}`; layer and strength were chosen on
other episodes, and the tests are on episodes that neither saw."""
    return f"""{text} {settings["histories"]} episodes of {settings["steps"]} steps and
{settings["arms"]} arms where the task is a bandit (seed {facts.artifact.manifest.seed})."""


def _stories(facts: SteeringResult, test: TaskResult) -> str:
    if not test.by_story:
        return ""
    rows = [
        (story, *(f"{one:.3f}" for one in found), f"{found[1] - found[0]:+.3f}")
        for story, found in test.by_story.items()
    ]
    head = ("answer begins with", "unsteered", "steered", "20 shuffled", "change")
    return f"""
{next(iter(facts.tests)).capitalize()} by story:

{markdown_table(head, rows)}
"""


def _training_entropy(facts: SteeringResult) -> str:
    estimate, logit = facts.estimates
    known = estimate.isfinite()
    return f"""The runs learned from have {float(estimate[known].mean()):.3f} nats by the estimator
`{facts.artifact.manifest.settings["estimator"]}` and {float(logit.entropy.mean()):.3f} off the
logits (standard deviation {float(logit.entropy.std()):.3f}, action probability
{float(logit.action_probability_mass.mean()):.3f}); {int((~known).sum())} of {len(known)} steps had
no valid answer."""


def _effect(facts: SteeringResult, main: TaskResult) -> str:
    choice, curve = facts.choice, main.curve
    unsteered, steered, negated = (
        curve.interpolate(strength)[0] for strength in (0.0, choice.strength, -choice.strength)
    )
    return f"""On {next(iter(facts.tests))} the entropy goes from {unsteered:.3f} to {steered:.3f}
nats, and to {negated:.3f} with the vector negated. Strength and entropy have a Spearman correlation
of {_correlation(curve, facts.share, 3)} where answers are valid, from
{curve.strengths[curve.valid(facts.share)[0]]:g} to
{curve.largest_valid_strength(facts.share):g}."""


def _strength_rows(facts: SteeringResult, main: TaskResult) -> list[tuple[str, ...]]:
    return [
        (
            f"{strength:+g}",
            f"{main.curve.entropy[place]:.3f}",
            f"{main.curve.action_probability_mass[place]:.3f}",
            f"{facts.generations.divergence[strength]:.3f}",
        )
        for place, strength in enumerate(main.curve.strengths)
    ]


def _layer_rows(facts: SteeringResult) -> list[tuple[str, ...]]:
    rows = []
    for layer, curve in facts.curves.items():
        highest = curve.largest_valid_strength(facts.share)
        lowest = curve.strengths[curve.valid(facts.share)[0]]
        rows.append(
            (
                str(layer),
                f"{highest:g}",
                *(f"{curve.interpolate(at)[0]:.3f}" for at in (0.0, highest, lowest)),
                _correlation(curve, facts.share, 2),
                "chosen" if layer == facts.choice.layer else "",
            )
        )
    return rows


_STRENGTHS = ("strength", "entropy", "action probability", "KL, nats per token")
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
