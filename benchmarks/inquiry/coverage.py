"""Whether the promise holds: every game has its own calibration, drawn like the game itself."""

import torch
from torch import Tensor

from benchmarks.inquiry.page import Arm
from probes.conformal import Coverage, calibrate, prediction_sets
from training.inquiry.simulate import predictions, random_histories

_AT_ONCE = 100


def marginal_coverage(
    logprobs: Tensor,
    answers: Tensor,
    labels: list[int],
    length: int,
    level: float,
    samples: int,
    games: int,
    draw: torch.Generator,
) -> Coverage:
    """Coverage over games of random questions, each calibrated on `samples` games of its own.

    One calibration's coverage is itself a random number, with a standard deviation of about
    sqrt(level (1 - level) / samples); the promise is about its mean.

    Args:
        logprobs: ln P(answer | question, label), shape (Q, 2, K).
        answers: Known answers, shape (K, Q).
        labels: Labels to draw from.
        length: Questions in each game.
        level: Of the sets.
        samples: Calibration games of each game.
        games: How many.
        draw: Randomness.
    """
    held = 0
    for start in range(0, games, _AT_ONCE):
        count = min(_AT_ONCE, games - start)
        histories = random_histories(answers, labels, length, count * (samples + 1), draw)
        beliefs = predictions(logprobs, histories).reshape(count, samples + 1, -1)
        truth = histories.labels.reshape(count, samples + 1)
        thresholds = calibrate(beliefs[:, :-1], truth[:, :-1], level).thresholds
        sets = prediction_sets(beliefs[:, -1], thresholds, "lac")
        held += int(sets.gather(-1, truth[:, -1:]).sum())
    return Coverage(games, held)


def coverage_table(
    exchangeable: dict[int, Coverage], arms: list[Arm], level: float, samples: int
) -> list[str]:
    """A line for each length: what is promised, what random games get, what rules' games get."""
    names = [arm.name for arm in arms]
    lines = [
        "| answers | random games, own calibration | inside | " + " | ".join(names) + " |",
        "|---" * (3 + len(names)) + "|",
    ]
    together = Coverage(*map(sum, zip(*exchangeable.values(), strict=True)))
    for name, found in [*exchangeable.items(), ("all", together)]:
        error = 2 * (found.rate * (1 - found.rate) / found.num_sets) ** 0.5
        inside = level - error <= found.rate <= level + 1 / (samples + 1) + error
        at = slice(name, name + 1) if isinstance(name, int) else slice(1, None)
        cells = " | ".join(f"{float(arm.covered[:, at].mean()):.3f}" for arm in arms)
        lines.append(
            f"| {name} | {found.rate:.3f} ± {error:.3f} | {'yes' if inside else 'no'} | {cells} |"
        )
    return lines
