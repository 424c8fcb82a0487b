"""Whether a router by worth pays: `python -m benchmarks.difficulty.worth --help`.

Takes the answers by every strategy that a results page of `benchmarks.difficulty.folds` recorded,
reads the states of the questions, and chooses a strategy for each question by a router that was
fitted without it: with other questions of its kind, and with all of its kind left out. No server.
"""

import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from rich.console import Console
from sklearn.model_selection import GroupKFold

from benchmarks import machine
from benchmarks.difficulty.arms import (
    Arm,
    Floats,
    Labels,
    at_equal_tokens,
    at_random,
    chosen,
)
from benchmarks.difficulty.worth_page import RouterSection, WorthPage, write
from probes.difficulty.strategies import Difficulty
from training.common.files import read_tensors, write_tensors
from training.common.hidden_states import hidden_states
from training.common.strategy_choice import (
    PREDICTORS,
    PRICES,
    QuestionTexts,
    choose,
    split_oracle,
)
from training.datasets.loaders import load_problems
from training.datasets.problem import Problem
from training.difficulty.router import StrategyOutcomes, fit_router

FOLDS = 5
_KIND_GROUPS = 8


class Recorded(NamedTuple):
    """Questions and their recorded answers."""

    questions: QuestionTexts
    outcomes: StrategyOutcomes
    samples: int
    classes: Arm
    """The paper's rule: the class of the question chooses."""


def main(
    answers: Annotated[Path, typer.Option(help="JSON of benchmarks.difficulty.folds.")],
    checkpoint: Annotated[Path, typer.Option(help="Folder of the model that answered.")],
    task: Annotated[str, typer.Option(help="As the run had it.")],
    states: Annotated[Path, typer.Option(help="Keeps the states of the questions.")],
    name: Annotated[str, typer.Option(help="Of the files.")],
    in_turns: Annotated[
        bool, typer.Option(help="No: the run asked all questions of a task before the next one.")
    ] = True,
    prepass: Annotated[float, typer.Option(help="Tokens that a choice by the state costs.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the questions, as the run had it.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Write NAME.md, NAME.json and NAME.png."""
    console = Console()
    facts = machine.describe("benchmarks.difficulty.worth")
    stored = json.loads(answers.read_text())
    asked = load_problems(task.split(","), stored["problems"], seed)
    if not in_turns:
        tasks = task.split(",")
        asked = sorted(asked, key=lambda problem: tasks.index(problem.task))
    recorded = _recorded(stored, asked, _states(checkpoint, asked, states, console))
    kinds = np.array(recorded.questions.kinds)
    groups = min(_KIND_GROUPS, len(set(kinds.tolist())))
    sections = [
        _section("Questions left out", recorded, recorded.questions.texts, FOLDS, prepass, seed),
        _section("Kinds left out", recorded, recorded.questions.kinds, groups, prepass, seed),
    ]
    facts |= {"model": stored["model"], "answers": answers.name, "prepass": prepass}
    facts |= {key: stored[key] for key in ("tasks", "problems", "samples", "max_tokens")}
    write(WorthPage(facts, sections, recorded.classes), output / name, console)


def _states(checkpoint: Path, asked: list[Problem], kept: Path, console: Console) -> Floats:
    if not kept.is_file():
        with console.status("reading hidden states"):
            found, lengths = hidden_states(checkpoint, [p.prompt for p in asked], lambda n: None)
        write_tensors(kept, {"states": found, "lengths": lengths})
    states = read_tensors(kept)["states"].double().numpy()
    if len(states) != len(asked):
        raise typer.BadParameter(f"{kept} has {len(states)} states", param_hint="--states")
    return states


def _recorded(stored: dict[str, Any], asked: list[Problem], states: Floats) -> Recorded:
    arms = {arm["arm"]: arm for arm in stored["arms"]}
    accuracy, tokens = (
        np.array([arms[f"fixed {one.word}"][figure] for one in Difficulty])
        for figure in ("accuracy", "tokens")
    )
    texts = [problem.prompt for problem in asked]
    kinds = [problem.task for problem in asked]
    probe = arms["probe"]
    return Recorded(
        QuestionTexts(texts, kinds),
        StrategyOutcomes(states, accuracy, tokens, texts),
        stored["samples"],
        Arm("classes (diffadapt)", np.array(probe["accuracy"]), np.array(probe["tokens"])),
    )


def _section(
    title: str,
    recorded: Recorded,
    groups: "list[str] | Any",
    folds: int,
    prepass: float,
    seed: int,
) -> RouterSection:
    """The router and all controls on questions whose group was left out of every fit."""
    outcomes = recorded.outcomes._replace(groups=groups)
    splits = list(
        GroupKFold(folds, shuffle=True, random_state=seed).split(outcomes.states, groups=groups)
    )
    number = len(recorded.questions.texts)
    forecasts = {name: np.zeros((6, number)) for name in PREDICTORS}
    routed: Labels = np.zeros((len(PRICES), number), dtype=np.int64)
    served: Labels = np.zeros(number, dtype=np.int64)
    fits = []
    for one, rest in splits:
        seen = outcomes.subset(one)
        fit = fit_router(seen, seed)
        fits.append(fit.spec)
        served[rest] = fit.choose(outcomes.states[rest], fit.spec.price)
        for row, price in enumerate(PRICES):
            routed[row, rest] = fit.choose(outcomes.states[rest], float(price))
        texts = (recorded.questions.subset(one), recorded.questions.subset(rest))
        figures = np.concatenate([seen.accuracy, seen.tokens / fit.spec.normal_tokens])
        for name, guess in PREDICTORS.items():
            forecasts[name][:, rest] = guess(*texts, figures)
    accuracy, tokens = outcomes.accuracy, outcomes.tokens
    frontiers = {"router": [chosen("router", accuracy, tokens, one, prepass) for one in routed]}
    for name, found in forecasts.items():
        labels = [choose(found[:3], found[3:], float(price)) for price in PRICES]
        frontiers[name] = [chosen(name, accuracy, tokens, one) for one in labels]
    shares = np.bincount(served, minlength=3) / number
    fixed = [Arm(f"fixed {one.word}", accuracy[one], tokens[one]) for one in Difficulty]
    frontiers["random mixture of the fixed strategies"] = _hull(fixed)
    free = [chosen("router", accuracy, tokens, one) for one in routed]
    choices = [
        chosen("router", accuracy, tokens, served, prepass),
        at_random("random at the same rates", accuracy, tokens, shares),
        *fixed,
        Arm("split oracle", *split_oracle(accuracy, tokens, recorded.samples, seed)),
    ]
    return RouterSection(
        title, {arm.name: arm for arm in choices}, frontiers, free, fits, shares.tolist()
    )


def _hull(fixed: list[Arm]) -> list[Arm]:
    """The fixed strategies that no mixture of two others beats, by tokens."""
    ordered = sorted(fixed, key=lambda arm: float(arm.tokens.mean()))
    return [
        arm
        for place, arm in enumerate(ordered)
        if place in (0, len(ordered) - 1)
        or arm.accuracy.mean()
        > at_equal_tokens([ordered[0], ordered[-1]], float(arm.tokens.mean())).accuracy.mean()
    ]


if __name__ == "__main__":
    typer.run(main)
