"""Report of a run: a Markdown page and a figure."""

from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probes.artifact import package_versions
from training.common.duration import format_duration
from training.common.files import read_record
from training.common.machine import describe_machine
from training.policy.config import PolicyConfig, config_json
from training.policy.diagnostics import agreement
from training.policy.entropy_law import fit_entropy_law
from training.policy.evaluation import Evaluation
from training.policy.progress import STEPS_FILE, read_steps
from training.policy.run_folder import AFTER, BEFORE

NAME = "report"
MIN_STEPS = 10
"""Steps below which no statistic over steps is printed."""
LEGEND = """\
- accuracy (pass@1): share of right answers. pass@k: probability that one of k answers is right.
- entropy per token: entropy of the sampling distribution in nats, mean over tokens.
- expected calibration error: mean distance between the confidence of an answer (geometric mean of
  its tokens' probabilities) and the share of right answers at that confidence.
- R = -a e^H + b: reward of a step as a function of its entropy H; b - a is the reward at H = 0.
  R²: share of the variance that the law explains.
- Cov(logprob, A): covariance of log-probability and advantage over the tokens of a step. STEER's
  Omega: expected entropy change by the update of one token. Both predict the entropy change.
"""
Steps = list[dict[str, float]]


def read_evaluation(path: Path) -> Evaluation:
    """Read an evaluation that `train_policy` wrote.

    Raises:
        TrainingError: The file is damaged.
    """
    return read_record(path, Evaluation)


def write_policy_report(run: Path, config: PolicyConfig) -> Path:
    """Write `report.md` and `report.png` into the run folder; returns the path of the page."""
    steps = read_steps(run / STEPS_FILE)
    before, after = read_evaluation(run / BEFORE), read_evaluation(run / AFTER)
    draw(steps, before, after, config).savefig(run / f"{NAME}.png", dpi=110)
    page = run / f"{NAME}.md"
    page.write_text(_page(steps, before, after, config))
    return page


def draw(steps: Steps, before: Evaluation, after: Evaluation, config: PolicyConfig) -> Figure:
    """Draw curves of the run, and entropy and calibration before and after."""
    figure = Figure(figsize=(13, 8), layout="constrained")
    reward, entropy, covariance, law, histogram, calibration = figure.subplots(2, 3).flat
    _curve(reward, steps, "reward", "reward", "Reward of rollouts")
    _curve(entropy, steps, "step_entropy", "nats", "Entropy per token")
    if config.controller is not None:
        target = config.controller.entropy_target
        entropy.axhline(target, color="0.4", linestyle="--")
        entropy.axhspan(0.85 * target, 1.15 * target, color="0.9")
    _curve(covariance, steps, "covariance", "advantage times nats", "Cov(logprob, advantage)")
    _draw_law(law, steps)
    for name, found in (("before", before), ("after", after)):
        histogram.hist(found.entropies, bins=30, alpha=0.5, density=True, label=name)
        rows = found.calibration()
        calibration.plot([r[0] for r in rows], [r[1] for r in rows], "o-", label=name)
    histogram.set(xlabel="nats", title="Token entropies, held out", yscale="log")
    histogram.legend()
    calibration.plot([0, 1], [0, 1], color="0.6", linestyle=":")
    calibration.set(xlabel="confidence", ylabel="accuracy", title="Calibration, held out")
    calibration.legend()
    return figure


def _curve(axes: Axes, steps: Steps, key: str, unit: str, title: str) -> None:
    rows = [(row["step"], row[key]) for row in steps if key in row]
    axes.plot([row[0] for row in rows], [row[1] for row in rows], "o-", markersize=3)
    axes.set(xlabel="optimizer step", ylabel=unit, title=title)


def _draw_law(axes: Axes, steps: Steps) -> None:
    points = _points(steps)
    axes.plot([p[0] for p in points], [p[1] for p in points], "o", markersize=3)
    axes.set(xlabel="entropy, nats", ylabel="reward", title="Reward against entropy")


def _points(steps: Steps) -> list[tuple[float, float]]:
    """Entropy and reward of the steps that measured both."""
    both = ("step_entropy", "reward")
    return [(row[both[0]], row[both[1]]) for row in steps if all(key in row for key in both)]


def law_lines(steps: Steps) -> list[str]:
    """Lines on the entropy law of a run and on the predictors of entropy changes."""
    points = _points(steps)
    lines = []
    if len(points) < MIN_STEPS:
        return [
            f"the law R = -a e^H + b and the correlations need {MIN_STEPS} steps; this run has "
            f"{len(points)}"
        ]
    try:
        law = fit_entropy_law([p[0] for p in points], [p[1] for p in points])
        lines.append(
            f"R = -a e^H + b over {law.num_points} steps: a = {law.a:.3f} ± {law.a_error:.3f}, "
            f"b = {law.b:.3f} ± {law.b_error:.3f}, R² = {law.r_squared:.2f}"
        )
        ceiling = law.ceiling()
        lines.append(
            f"predicted reward at H = 0: {ceiling.reward:.2f} ± {ceiling.standard_error:.2f}"
        )
    except ValueError as error:
        lines.append(f"no entropy law: {error}")
    for name, key, sign in (
        ("-Cov(logprob, A)", "covariance", -1),
        ("STEER's -mean(Omega)", "predicted_change", 1),
    ):
        # The measurement of a step predicts the change from it to the next step.
        pairs = [
            (sign * now[key], later["entropy_change"])
            for now, later in pairwise(steps)
            if "entropy_change" in later and key in now
        ]
        if len(pairs) >= MIN_STEPS - 1:
            found = agreement([p[0] for p in pairs], [p[1] for p in pairs])
            lines.append(
                f"{name} against the measured change: correlation {found.correlation:.2f}, same "
                f"sign in {found.same_sign:.0%} of {len(pairs)} steps"
            )
    return lines


def _page(steps: Steps, before: Evaluation, after: Evaluation, config: PolicyConfig) -> str:
    names = ", ".join(objective.type for objective in config.objectives)
    is_plain = names == "none"
    samples = config.evaluation.samples
    rows = [
        ("accuracy (pass@1)", before.accuracy, after.accuracy),
        ("its standard error over problems", before.standard_error(), after.standard_error()),
        *(
            (f"pass@{k}", before.pass_at(k), after.pass_at(k))
            for k in sorted({2, samples})
            if 1 < k <= samples
        ),
        ("entropy per token, nats", before.entropy, after.entropy),
        ("expected calibration error", before.calibration_error(), after.calibration_error()),
    ]
    table = "\n".join(f"| {name} | {one:.3f} | {two:.3f} |" for name, one, two in rows)
    seconds = sum(row.get("step_time", 0.0) for row in steps)
    lines = "\n".join(f"- {line}" for line in law_lines(steps))
    caveat = (
        ""
        if is_plain or len(steps) < MIN_STEPS
        else "\nThe law describes runs without entropy intervention; this run had one.\n"
    )
    versions = ", ".join(
        f"{name} {version}"
        for name, version in package_versions("trl", "transformers", "peft").items()
    )
    return f"""# Policy run: {"plain GRPO, no objective" if is_plain else names}

{len(steps)} optimizer steps in {format_duration(seconds)} on {describe_machine()}; {versions}.

| on {len(before.correct)} held-out problems, {samples} answers each | before | after |
|---|---|---|
{table}

![Curves]({NAME}.png)

## Entropy

{lines}
{caveat}
## Legend

{LEGEND}
## Config

```json
{config_json(config)}
```
"""
