"""What objectives do to reward and entropy of the default model: `python -m benchmarks.policy`.

Trains every shipped config of `CONFIGS` with every seed, each in a process of its own, and writes
one page and one figure. A run that is there already is not made again, so the command can be
stopped and started at will.
"""

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks import machine
from training.policy.config import PolicyConfig, load_config
from training.policy.diagnostics import jitter_response
from training.policy.entropy_law import fit_entropy_law
from training.policy.evaluation import Evaluation
from training.policy.progress import STEPS_FILE, read_steps
from training.policy.report import law_lines, read_evaluation
from training.policy.run_folder import AFTER, BEFORE

CONFIGS = ("plain", "target-entropy", "kl-cov", "clip-cov", "steer", "lp-reg")
RESULT = Path("benchmarks/results/policy")
WARM_UP = 0.5
"""Share of a run after which a controller has to hold its target."""


class Run(NamedTuple):
    """A finished run."""

    config: str
    seed: int
    settings: PolicyConfig
    steps: list[dict[str, float]]
    before: Evaluation
    after: Evaluation

    def rollouts(self) -> list[dict[str, float]]:
        """The steps that began with a rollout."""
        return [row for row in self.steps if "reward" in row]


def main(
    seeds: Annotated[int, typer.Option(min=1)] = 2,
    runs: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs/policy-benchmark"),
    change: Annotated[list[str] | None, typer.Option("--set", help="As of train-policy.")] = None,
    train: Annotated[bool, typer.Option(help="Make runs that are not there yet.")] = True,
    out: Annotated[Path, typer.Option(help="Without its ending.")] = RESULT,
) -> None:
    """Train, compare, write a page."""
    console, facts = Console(), machine.describe("benchmarks.policy")
    found = []
    for seed in range(seeds):
        for config in CONFIGS:
            folder, changes = runs / f"{config}-{seed}", [*(change or ()), f"seed={seed}"]
            if train and not (folder / "report.md").is_file():
                console.print(f"{config}, seed {seed}", highlight=False)
                _train(config, [*changes, f"run={folder}"])
            if (folder / "report.md").is_file():
                found.append(_read(config, seed, folder, changes))
    draw(found).savefig(out.with_suffix(".png"), dpi=110)
    out.with_suffix(".md").write_text(page(found, machine.markdown(facts)))
    out.with_suffix(".json").write_text(
        json.dumps([_curves(run) for run in found], indent=1) + "\n"
    )
    console.print(f"wrote {out}.md")


def _train(config: str, changes: Sequence[str]) -> None:
    words = [word for change in changes for word in ("--set", change)]
    subprocess.run([sys.executable, "-m", "training", config, *words], check=True)


def _read(config: str, seed: int, folder: Path, changes: list[str]) -> Run:
    return Run(
        config,
        seed,
        load_config(config, changes),
        read_steps(folder / STEPS_FILE),
        read_evaluation(folder / BEFORE),
        read_evaluation(folder / AFTER),
    )


def draw(found: list[Run]) -> Figure:
    """Reward and entropy of all runs, one color per config."""
    figure = Figure(figsize=(13, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    keys = (
        ("reward", "Reward of rollouts", "share right"),
        ("step_entropy", "Entropy per token", "nats"),
        ("covariance", "Cov(logprob, advantage)", "advantage times nats"),
    )
    colors = {config: f"C{index}" for index, config in enumerate(CONFIGS)}
    for panel, (key, title, unit) in zip(axes.flat, keys, strict=False):
        for run in found:
            rows = run.rollouts()
            label = run.config if run.seed == 0 else None
            style = {"color": colors[run.config], "label": label, "alpha": 0.8}
            panel.plot(range(1, len(rows) + 1), [row[key] for row in rows], **style)
        panel.set(xlabel="rollout", ylabel=unit, title=title)
    for run in found:
        if run.settings.controller is not None:
            target = run.settings.controller.entropy_target
            axes[0, 1].axhspan(0.85 * target, 1.15 * target, color="0.92", zorder=0)
    for run in found:
        rows = run.rollouts()
        points = [row["step_entropy"] for row in rows], [row["reward"] for row in rows]
        axes[1, 1].plot(*points, "o", markersize=3, color=colors[run.config])
    axes[1, 1].set(xlabel="entropy, nats", ylabel="reward", title="Reward against entropy")
    axes[0, 0].legend()
    return figure


def page(found: list[Run], facts: Sequence[str]) -> str:
    """The result as Markdown."""
    lines = "\n".join(facts)
    rows = "\n".join(_row(run) for run in found)
    laws = "\n".join(f"- {run.config}, seed {run.seed}: {law_lines(run.steps)[0]}" for run in found)
    first = found[0].settings
    tokens = first.rollout.max_tokens
    flipped, cliff = _cliff()
    beside = _beside(found)
    samples, held = first.evaluation.samples, len(found[0].before.correct)
    return f"""# What entropy objectives do to the default model

{lines}

SmolLM2-135M-Instruct, all weights, float32, AdamW; task `drill` (products of 2 to 9 and sums up to
40, "Reply with the number only."), reward 1 for the right last number. Each step draws
{first.rollout.num_generations} completions of at most {tokens} tokens to every prompt, at
temperature {first.rollout.temperature}. Accuracy and pass@{samples} are over {held} held-out
problems with {samples} answers each, before → after; entropies of rollouts are
means of the first and the last three. Configs: `training/policy/configs/`; "rate" is the learning
rate, "drawn" is steps by completions in each.

| config | seed | rate | drawn | accuracy | pass@{samples} | reward, last five \
| entropy, nats | held | minutes |
|---|---|---|---|---|---|---|---|---|---|
{rows}

"held" is the mean entropy over the second half of the run, as a share of the target, and the
extremes of means over five steps in a row and of single steps, each of which is a guess from few
completions. "minutes" are processor time of the training steps, on one thread.

![Curves](policy.png)

## Beside plain GRPO

Means over the seeds that both have. The errors are those of accuracies over problems; what another
seed would change comes on top.

{beside}

## The law R = -a e^H + b

{laws}

It is meant for runs without entropy intervention, which `plain` alone is.

## The policy cliff

Why a little entropy is worth its price, on the smallest example: three actions with rewards 1,
0.999 and 0.2, and noise of 0.01 on them. In {flipped:.0%} of the draws another action is the best.
How far the best policy, softmax(R / coefficient), moves is a matter of its entropy coefficient:

| coefficient | KL of the policy under noise, nats |
|---|---|
{cliff}
"""


def _beside(found: list[Run]) -> str:
    """How far every config ended from plain GRPO with the same seed."""
    plain = {run.seed: run for run in found if run.config == "plain"}
    lines = []
    for config in CONFIGS[1:]:
        pairs = [
            (run, plain[run.seed]) for run in found if run.config == config and run.seed in plain
        ]
        if not pairs:
            continue
        gaps = [own.after.accuracy - other.after.accuracy for own, other in pairs]
        squares = [run.after.standard_error() ** 2 for pair in pairs for run in pair]
        error = math.sqrt(sum(squares)) / len(pairs)
        last = [_late_entropy(own) - _late_entropy(other) for own, other in pairs]
        gap = statistics.mean(gaps)
        verdict = "" if abs(gap) > 2 * error else ", which is no difference"
        lines.append(
            f"- {config} ({len(pairs)} seeds): accuracy {gap:+.2f} ± {error:.2f}{verdict}; entropy "
            f"of the last three rollouts {statistics.mean(last):+.2f} nats "
            f"({', '.join(f'{value:+.2f}' for value in last)})"
        )
    return "\n".join(lines)


def _late_entropy(run: Run) -> float:
    return statistics.mean(row["step_entropy"] for row in run.rollouts()[-3:])


def _cliff() -> tuple[float, str]:
    """Share of draws with another best action, and the rows of the table."""
    rewards, rows, flipped = torch.tensor([1.0, 0.999, 0.2]), [], 0.0
    for coefficient in (0.001, 0.01, 0.1, 1.0):
        generator = torch.Generator().manual_seed(0)
        response = jitter_response(rewards, 0.01, coefficient, 2000, generator)
        flipped = response.share_flipped
        rows.append(f"| {coefficient} | {response.policy_kl:.2g} |")
    return flipped, "\n".join(rows)


def _row(run: Run) -> str:
    rows, samples = run.rollouts(), run.settings.evaluation.samples
    entropies = [row["step_entropy"] for row in rows]
    reward = statistics.mean(row["reward"] for row in rows[-5:])
    held = "" if run.settings.controller is None else _held(run)
    minutes = sum(row.get("processor_time", 0.0) for row in run.steps) / 60
    return (
        f"| {run.config} | {run.seed} | {run.settings.optimizer.learning_rate} "
        f"| {len(rows)} by {run.settings.sequences} | "
        f"{run.before.accuracy:.2f} → {run.after.accuracy:.2f} ± "
        f"{run.after.standard_error():.2f} | {run.before.pass_at(samples):.2f} → "
        f"{run.after.pass_at(samples):.2f} | {reward:.2f} | {statistics.mean(entropies[:3]):.2f} → "
        f"{statistics.mean(entropies[-3:]):.2f} | {held} | {minutes:.1f} |"
    )


def _held(run: Run) -> str:
    assert run.settings.controller is not None
    rows = run.rollouts()
    late = [row["step_entropy"] for row in rows[int(WARM_UP * len(rows)) :]]
    shares = [value / run.settings.controller.entropy_target for value in late]
    five = [statistics.mean(shares[at : at + 5]) for at in range(len(shares) - 4)]
    return (
        f"{statistics.mean(shares):.2f} (five steps: {min(five):.2f} to {max(five):.2f}; "
        f"one: {min(shares):.2f} to {max(shares):.2f})"
    )


def _curves(run: Run) -> dict[str, object]:
    rows = run.rollouts()
    law = fit_entropy_law([row["step_entropy"] for row in rows], [row["reward"] for row in rows])
    return {
        "config": run.config,
        "seed": run.seed,
        "reward": [row["reward"] for row in rows],
        "entropy": [row["step_entropy"] for row in rows],
        "covariance": [row["covariance"] for row in rows],
        "law": law._asdict(),
    }


if __name__ == "__main__":
    typer.run(main)
