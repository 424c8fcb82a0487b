"""Which rule finds the answer with the fewest questions: `python -m benchmarks.inquiry --help`.

Plays without an engine, on the statement likelihoods that an artifact stores: half of the labels
are fitted, games are about the others, over many such splits. Beside it the exact table, where
every answer is known. Intervals resample labels, since games about one label are alike.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from rich.progress import track
from torch import Tensor

from benchmarks import machine
from benchmarks.inquiry_uot import uot_game
from probes.artifact import Artifact
from probes.inquiry_task import Task
from probes.inquiry_turn import Rule
from probes.likelihood import known_answers
from training.inquiry_fit import (
    calibrate_at,
    calibration_scores,
    fit_half,
    likelihood_logprobs,
    split_labels,
)
from training.inquiry_games import Step, play, true_answers

_RESAMPLES = 2000


class Arm(NamedTuple):
    """A way to choose questions, and its games."""

    name: str
    correct: Tensor
    """Shape (games, questions + 1)."""
    size: Tensor
    covered: Tensor


def main(
    artifact: Annotated[list[Path], typer.Argument(help="Folders of inquiry calibrations.")],
    questions: Annotated[int, typer.Option(help="Questions in each game.")] = 12,
    splits: Annotated[int, typer.Option(help="How often the labels are divided anew.")] = 20,
    level: Annotated[float, typer.Option(help="Confidence level.")] = 0.9,
    samples: Annotated[int, typer.Option(help="Calibration histories of each length.")] = 500,
    output: Annotated[Path, typer.Option(help="The page.")] = Path("docs/results/inquiry.md"),
) -> None:
    """Play and write a page."""
    facts = machine.describe("benchmarks.inquiry")
    parts = ["# Which question to ask next", "", *machine.markdown(facts), ""]
    for folder in artifact:
        loaded = Artifact.load(folder)
        assert loaded.manifest.inquiry is not None
        task = loaded.manifest.inquiry.task
        table = loaded.tensors["table"].double()
        games, labels = _model_games(task, table, questions, splits, level, samples)
        parts += _section(f"`{task.name}` by the likelihoods of `{loaded.id}`", games, labels)
        exact, labels = _exact_games(task, questions)
        parts += _section(f"`{task.name}` with every answer known", exact, labels)
    output.write_text("\n".join(parts) + "\n")


def _rules(questions: int) -> dict[str, Rule]:
    return {
        "random": Rule("random", budget=questions),
        "IP": Rule("entropy", budget=questions),
        "C-IP": Rule("set_size", budget=questions),
        "C-IP, raw": Rule("set_size", empty="raw", budget=questions),
        "C-IP, uniform": Rule("set_size", label_weights="uniform", budget=questions),
        "bound": Rule("entropy_bound", budget=questions),
        "bound, raw": Rule("entropy_bound", empty="raw", budget=questions),
    }


def temperature(logprobs: Tensor, scores: Callable[[Tensor], Tensor]) -> float:
    """The softmax temperature under which the true labels are most likely, from a grid.

    Args:
        logprobs: ln P(answer | question, label).
        scores: From log-probabilities to LAC scores of the true labels.
    """
    grid = [0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0]
    loss = [float((-scores(logprobs / t)).clamp_min(1e-9).log().mean()) for t in grid]
    return grid[max(range(len(grid)), key=loss.__getitem__)]


def _model_games(
    task: Task, table: Tensor, questions: int, splits: int, level: float, samples: int
) -> tuple[list[Arm], Tensor]:
    answers = task.answer_table()
    found: dict[str, list[list[Step]]] = {}
    labels: list[int] = []
    for seed in track(range(splits), task.name):
        split = split_labels(len(answers), seed)
        held_out = split.calibrated
        logprobs = likelihood_logprobs(table, fit_half(table, answers, split.fitted, 1.0))

        def scores(beliefs: Tensor, held: list[int] = held_out, at: int = seed) -> Tensor:
            return calibration_scores(beliefs, answers, held, questions + 1, samples, at)

        calibration = calibrate_at(scores(logprobs), level)
        scaled = logprobs / temperature(logprobs, scores)
        cool = calibrate_at(scores(scaled), level)
        said = true_answers(answers, torch.Generator().manual_seed(1000 + seed))
        for label in held_out:
            labels.append(label)
            for name, rule in _rules(questions).items():
                rule = rule._replace(seed=seed)
                game = play(logprobs, said[label], label, calibration, rule)
                found.setdefault(name, []).append(game)
            game = play(scaled, said[label], label, cool, Rule("entropy", budget=questions))
            found.setdefault("IP, scaled", []).append(game)
            game = uot_game(logprobs, said[label], label, calibration, questions)
            found.setdefault("UoT", []).append(game)
    return [_arm(name, games, questions) for name, games in found.items()], torch.tensor(labels)


def _exact_games(task: Task, questions: int) -> tuple[list[Arm], Tensor]:
    """Every label once, with unknown answers taken for no."""
    answers = task.answer_table().nan_to_num(0.0)
    logprobs = known_answers(answers)
    scores = torch.full((questions + 1, 1000), -1e-9, dtype=torch.float64)
    calibration = calibrate_at(scores, 0.9)
    said = (answers == 0).long()  # YES is 0
    arms = []
    for name, rule in _rules(questions).items():
        games = [
            play(logprobs, said[label], label, calibration, rule) for label in range(len(answers))
        ]
        arms.append(_arm(name, games, questions))
    games = [
        uot_game(logprobs, said[label], label, calibration, questions)
        for label in range(len(answers))
    ]
    return [*arms, _arm("UoT", games, questions)], torch.arange(len(answers))


def _arm(name: str, games: list[list[Step]], questions: int) -> Arm:
    def column(field: str) -> Tensor:
        rows = [[float(getattr(step, field)) for step in game] for game in games]
        padded = [row + [row[-1]] * (questions + 1 - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.float64)

    return Arm(name, column("correct"), column("size"), column("covered"))


def interval(values: Tensor, labels: Tensor) -> tuple[float, float]:
    """95 % interval of the mean of games, with labels drawn anew; values of shape (games,)."""
    names, places = labels.unique(return_inverse=True)
    total = torch.zeros(len(names), dtype=torch.float64).index_add_(0, places, values)
    count = torch.zeros_like(total).index_add_(0, places, torch.ones_like(values))
    draw = torch.Generator().manual_seed(0)
    picked = torch.randint(len(names), (_RESAMPLES, len(names)), generator=draw)
    means = total[picked].sum(-1) / count[picked].sum(-1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def _section(title: str, arms: list[Arm], labels: Tensor) -> list[str]:
    """Accuracy over the game, set size and coverage at its end, and the difference to IP."""
    questions = arms[0].correct.shape[1] - 1
    shown = [count for count in (2, 4, 5, 6, 8, 12) if count <= questions]
    plain = next(arm for arm in arms if arm.name == "IP")
    head = " | ".join(f"right after {count}" for count in shown)
    lines = [
        f"## {title}",
        "",
        f"{len(labels)} games about {len(labels.unique())} labels. The last column is the mean "
        "accuracy over the game less that of IP, with its 95 % interval.",
        "",
        f"| rule | {head} | labels left | coverage | against IP |",
        "|---" * (len(shown) + 4) + "|",
    ]
    for arm in arms:
        cells = " | ".join(f"{float(arm.correct[:, count].mean()):.2f}" for count in shown)
        gain = (arm.correct[:, 1:] - plain.correct[:, 1:]).mean(-1)
        low, high = interval(gain, labels)
        against = f"{float(gain.mean()):+.3f} ({low:+.3f} to {high:+.3f})"
        size, covered = float(arm.size[:, -1].mean()), float(arm.covered[:, 1:].mean())
        against = "" if arm.name == "IP" else against
        lines.append(f"| {arm.name} | {cells} | {size:.1f} | {covered:.3f} | {against} |")
    return [*lines, ""]


if __name__ == "__main__":
    typer.run(main)
