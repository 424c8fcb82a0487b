"""What a difficulty probe saves, on every question: `python -m benchmarks.difficulty.folds --help`.

`benchmarks.difficulty` has the fifth of the questions that a probe was not fitted on. Here every
question is classified by a probe that was chosen, fitted and calibrated without it, so that the
same answers say five times as much. Needs the run folders alone, no server.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from safetensors.torch import load_file
from sklearn.model_selection import StratifiedKFold

from benchmarks import machine
from benchmarks.difficulty.arms import PERMUTATIONS, Floats, Labels, all_arms, chosen
from benchmarks.difficulty.budgets import fixed_budgets
from benchmarks.difficulty.page import Result, write
from probes.difficulty.probe import classify_by_outcomes, predicted_class
from probes.difficulty.strategies import Difficulty, Outcomes
from training.common.rollout_store import RolloutStore
from training.datasets.loaders import load_problems
from training.difficulty.fit import Data, fit_head
from training.difficulty.labels import grade_answers, problems_hash

FOLDS = 5
_BY_TASK = "commonest class of the task"
_HOW = f"""\
Every question is classified by a probe that was chosen, fitted and calibrated without it, {FOLDS}
folds. The arms are put together from the answers by each strategy; the probe pays one token for
each answer."""


def main(
    easy: Annotated[Path, typer.Option(help="Run folder of the strategy easy.")],
    normal: Annotated[Path, typer.Option(help="Of normal, with the states.")],
    hard: Annotated[Path, typer.Option(help="Of hard.")],
    checkpoint: Annotated[Path, typer.Option(help="Whose tokenizer cuts answers.")],
    task: Annotated[str, typer.Option(help="As the runs had it.")],
    problems: Annotated[int, typer.Option(help="As the runs had it.")],
    label: Annotated[str, typer.Option(help="Says what model this is.")] = "",
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Write difficulty-folds-MODEL.md, .json and .png."""
    settings = json.loads((normal / "settings.json").read_text())
    seed, samples = settings["seed"], settings["samples"]
    asked = load_problems(task.split(","), problems, seed)
    for run in (easy, normal, hard):
        if json.loads((run / "settings.json").read_text())["problems"] != problems_hash(asked):
            raise typer.BadParameter(f"{run} had other questions", param_hint="--task, --problems")
    with RolloutStore(easy / "traces.jsonl") as one, RolloutStore(normal / "traces.jsonl") as two:
        with RolloutStore(hard / "traces.jsonl") as three:
            answers = [grade_answers(asked, traces, samples) for traces in (one, two, three)]
        budgets = fixed_budgets(asked, two, samples, settings["max_tokens"], checkpoint)
    accuracy = torch.stack([own.accuracy for own in answers])
    tokens = torch.stack([own.tokens for own in answers])
    kept = load_file(normal / "features.safetensors")
    data = Data(
        kept["states"].double().numpy(),
        classify_by_outcomes(accuracy, tokens, Outcomes()).numpy(),
        np.array([problem.task for problem in asked]),
        kept["lengths"].numpy(),
    )
    labels = out_of_fold(data, data.labels, seed)
    chance = np.random.default_rng(seed)
    shuffled = [
        out_of_fold(data, chance.permutation(data.labels), seed) for _ in range(PERMUTATIONS)
    ]
    facts = machine.describe("benchmarks.difficulty.folds") | {
        "model": label or settings["model"],
        "probe": f"{FOLDS} of them",
        "labels": "outcome",
        "tasks": task,
        "problems": len(asked),
        "samples": samples,
        "max_tokens": settings["max_tokens"],
    }
    scores, spent = accuracy.numpy(), tokens.numpy()
    arms = all_arms(scores, spent, labels, shuffled, prepass=1)
    arms[_BY_TASK] = chosen(_BY_TASK, scores, spent, commonest(data, seed))
    result = Result(facts, _HOW, "probe", arms, budgets, labels, data.tasks, scores, spent)
    write(result, output / f"difficulty-folds-{Path(settings['model']).name}", Console())


def out_of_fold(data: Data, labels: Labels, seed: int) -> Labels:
    """The class of every question by a linear probe that learned `labels` of the others."""
    probabilities: Floats = np.zeros((len(labels), len(Difficulty)))
    for seen, new in _folds(labels, seed):
        _, _, head = fit_head(data.subset(seen)._replace(labels=labels[seen]), "linear", seed)
        probabilities[new] = head.predict_proba(data.features[new])
    return predicted_class(torch.from_numpy(probabilities)).numpy()


def commonest(data: Data, seed: int) -> Labels:
    """The class of every question by its task alone, learned from the others."""
    labels = np.zeros_like(data.labels)
    for seen, new in _folds(data.labels, seed):
        for task in set(data.tasks[new].tolist()):
            counts = np.bincount(data.labels[seen][data.tasks[seen] == task], minlength=3)
            labels[new[data.tasks[new] == task]] = counts.argmax()
    return labels


def _folds(labels: Labels, seed: int) -> Iterator[tuple[Labels, Labels]]:
    yield from StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels)


if __name__ == "__main__":
    typer.run(main)
