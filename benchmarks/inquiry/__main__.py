"""Which rule finds the answer with the fewest questions: `python -m benchmarks.inquiry --help`.

Plays without an engine, on the statement likelihoods that an artifact stores: half of the labels
are fitted, games are about the others, over many such splits. Beside it the exact table, where
every answer is known, and through a server the predictor `direct` and the model that asks by
itself. Intervals resample labels, since games about one label are alike.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import openai
import torch
import typer
from rich.progress import track
from torch import Tensor

from benchmarks import machine
from benchmarks.inquiry.coverage import coverage_table, marginal_coverage
from benchmarks.inquiry.page import Arm, Section, plot, section
from benchmarks.inquiry.served import Player, asked_game, served_game
from benchmarks.inquiry.uot import uot_game
from probes.artifact import Artifact
from probes.inquiry.artifact import InquirySpec
from probes.inquiry.likelihood import known_answers
from probes.inquiry.task import Task
from probes.inquiry.turn import Rule
from probes.inquiry.words import TOLERANCE, Policy, Predictor
from training.inquiry.fit import (
    calibrate_at,
    calibration_scores,
    fit_half,
    likelihood_logprobs,
    split_labels,
)
from training.inquiry.simulate import GameStep, Turns, play_game, true_answers

_FIRST_SPLIT = 1000
"""Seed of the first division of the labels: those before it chose the server's tolerance."""
_OWN_SAMPLES = 99
"""Calibration games of each game whose coverage is counted: the promise is 0.9 to 0.91."""


class Setting(NamedTuple):
    """What is played."""

    questions: int
    splits: int
    level: float
    samples: int
    games: int


def main(
    artifact: Annotated[list[Path], typer.Argument(help="Folders of inquiry calibrations.")],
    questions: Annotated[int, typer.Option(help="Questions in each game.")] = 12,
    splits: Annotated[int, typer.Option(help="How often the labels are divided anew.")] = 20,
    level: Annotated[float, typer.Option(help="Confidence level.")] = 0.9,
    samples: Annotated[int, typer.Option(help="Calibration histories of each length.")] = 500,
    games: Annotated[int, typer.Option(help="Random games of each length, for coverage.")] = 5000,
    server: Annotated[
        str | None, typer.Option(help="Also play there, by `direct`: base URL with its /v1.")
    ] = None,
    served_questions: Annotated[int, typer.Option(help="Questions in a game there.")] = 6,
    max_candidates: Annotated[int, typer.Option(help="Compared at each turn there.")] = 8,
    output: Annotated[Path, typer.Option(help="The page.")] = Path("benchmarks/results/inquiry.md"),
) -> None:
    """Play and write a page with plots beside it."""
    facts = machine.describe("benchmarks.inquiry")
    setting = Setting(questions, splits, level, samples, games)
    parts = ["# Which question to ask next", "", *machine.markdown(facts), ""]
    parts += [_HOW.format(tolerance=TOLERANCE), ""]
    for folder in artifact:
        loaded = Artifact.load(folder)
        assert loaded.manifest.inquiry is not None
        spec = loaded.manifest.inquiry
        task, table = spec.task, loaded.tensors["table"].double()
        shown = [_model_games(f"`{task.name}`, likelihood", task, table, setting)]
        exact = _exact_games(f"`{task.name}`, every answer known", task, questions)
        client = openai.OpenAI(base_url=server, api_key="none") if server else None
        served: list[Section] = []
        if client is not None:
            player = Player(
                client,
                loaded.manifest.model,
                loaded.id,
                task,
                served_questions,
                max_candidates,
            )
            served = [_served_games(player, spec, predictor) for predictor in spec.predictors]
        picture = output.with_name(f"{output.stem}-{task.name}.png")
        plot([*shown, *served, exact], picture)
        for one in (*shown, exact, *served):
            parts += section(one)
            if one is shown[0]:
                parts += [f"![Accuracy and set size of {task.name}]({picture.name})", ""]
                parts += _coverage(task, table, one, setting)
    output.write_text("\n".join(parts) + "\n")


_HOW = """\
"Right after n" is the share of games whose most probable label is the true one after n questions.
Labels left is the size of the prediction set at the end of the game, coverage the share of sets
that hold the true label, over the game. Intervals are 95 %, labels drawn anew. C-IP is the server's
default: sets up to {tolerance:.0%} larger than the smallest tie with it, a share chosen on other
divisions of the labels than these; `exact ties` is as published."""


def _coverage(task: Task, table: Tensor, one: Section, setting: Setting) -> list[str]:
    """Whether sets hold the true label as often as promised, by length."""
    answers = task.answer_table()
    split = split_labels(len(answers), 0)
    logprobs = likelihood_logprobs(table, fit_half(table, answers, split.fitted, 1.0))
    draw = torch.Generator().manual_seed(2**31 + 2)
    lengths = track(range(1, setting.questions + 1), f"coverage of {task.name}")
    found = {
        length: marginal_coverage(
            logprobs,
            answers,
            split.calibrated,
            length,
            setting.level,
            _OWN_SAMPLES,
            setting.games,
            draw,
        )
        for length in lengths
    }
    chains = [arm for arm in one.arms if arm.name in ("random", "IP", "C-IP")]
    top = setting.level + 1 / (_OWN_SAMPLES + 1)
    return [
        f"### Coverage, `{task.name}`",
        "",
        f"{setting.games} games of random questions at each length, each with {_OWN_SAMPLES} "
        f"calibration games of its own: the promise is {setting.level} to {top:.2f}, and inside "
        "means within two standard errors of that, where chance leaves 19 of 20. Beside it games "
        "of the rules above, whose questions are not random and for which nothing is promised.",
        "",
        *coverage_table(found, chains, setting.level, _OWN_SAMPLES),
        "",
    ]


def _served_games(player: Player, spec: InquirySpec, predictor: Predictor) -> Section:
    """Games about the labels that were not fitted, by the server's own calibration."""
    task = player.task
    truth = true_answers(task.answer_table(), torch.Generator().manual_seed(1000))
    held_out = [at for at, name in enumerate(task.names) if name not in spec.fitted]
    rules: dict[str, Policy] = {"random": "random", "IP": "entropy", "C-IP": "set_size"}
    games: dict[str, list[list[GameStep]]] = {}
    for label in track(held_out, f"{task.name} by {predictor}"):
        for name, policy in rules.items():
            game = served_game(player, truth[label], label, predictor, policy)
            games.setdefault(name, []).append(game)
        game = asked_game(player, truth[label], label, predictor)
        games.setdefault("model asks", []).append(game)
    arms = [Arm.of(name, one, player.questions) for name, one in games.items()]
    note = (
        f"Through a server; `direct` looks ahead at {player.max_candidates} questions. In the games"
        " of `model asks` the model writes the next question itself (direct prompting), held to the"
        " task's questions by a grammar."
    )
    title = f"`{task.name}`, {predictor}, through a server"
    return Section(title, note, arms, torch.tensor(held_out))


def _rules(questions: int) -> dict[str, Rule]:
    return {
        "random": Rule("random", budget=questions),
        "IP": Rule("entropy", budget=questions),
        "C-IP": Rule("set_size", budget=questions),
        "C-IP, exact ties": Rule("set_size", budget=questions, tolerance=0.0),
        "C-IP, exact, raw": Rule("set_size", empty="raw", budget=questions, tolerance=0.0),
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


def _model_games(title: str, task: Task, table: Tensor, setting: Setting) -> Section:
    questions, splits, level, samples, _ = setting
    answers = task.answer_table()
    found: dict[str, list[list[GameStep]]] = {}
    labels: list[int] = []
    for seed in track(range(_FIRST_SPLIT, _FIRST_SPLIT + splits), task.name):
        split = split_labels(len(answers), seed)
        held_out = split.calibrated
        logprobs = likelihood_logprobs(table, fit_half(table, answers, split.fitted, 1.0))

        def scores(beliefs: Tensor, held: list[int] = held_out, at: int = seed) -> Tensor:
            return calibration_scores(beliefs, answers, held, questions + 1, samples, at)

        calibration = calibrate_at(scores(logprobs), level)
        scaled = logprobs / temperature(logprobs, scores)
        cool = calibrate_at(scores(scaled), level)
        truth = true_answers(answers, torch.Generator().manual_seed(1000 + seed))
        turns: dict[str, Turns] = defaultdict(dict)
        cold = Rule("entropy", budget=questions)
        for label in held_out:
            labels.append(label)
            for name, rule in _rules(questions).items():
                rule = rule._replace(seed=seed)
                game = play_game(logprobs, truth[label], label, calibration, rule, turns[name])
                found.setdefault(name, []).append(game)
            game = play_game(scaled, truth[label], label, cool, cold, turns["IP, scaled"])
            found.setdefault("IP, scaled", []).append(game)
            game = uot_game(logprobs, truth[label], label, calibration, questions)
            found.setdefault("UoT", []).append(game)
    arms = [Arm.of(name, games, questions) for name, games in found.items()]
    note = f"By the likelihoods of statements, {splits} divisions of the labels."
    return Section(title, note, arms, torch.tensor(labels))


def _exact_games(title: str, task: Task, questions: int) -> Section:
    """Every label once, with unknown answers taken for no."""
    answers = task.answer_table().nan_to_num(0.0)
    logprobs = known_answers(answers)
    scores = torch.full((questions + 1, 1000), -1e-9, dtype=torch.float64)
    calibration = calibrate_at(scores, 0.9)
    truth = (answers == 0).long()  # YES is 0
    arms = []
    for name, rule in _rules(questions).items():
        games = [
            play_game(logprobs, truth[label], label, calibration, rule)
            for label in range(len(answers))
        ]
        arms.append(Arm.of(name, games, questions))
    games = [
        uot_game(logprobs, truth[label], label, calibration, questions)
        for label in range(len(answers))
    ]
    arms.append(Arm.of("UoT", games, questions))
    return Section(title, _tree_note(logprobs, len(answers)), arms, torch.arange(len(answers)))


def _tree_note(logprobs: Tensor, num_labels: int) -> str:
    """How many questions the tree of IP needs until one label is left, and the least possible."""
    needed = tree_depths((logprobs[:, 0] > -0.5).T)
    bound = math.log2(num_labels)
    return (
        f"Greedy on this table, IP needs {sum(needed) / len(needed):.2f} questions on average and "
        f"{max(needed)} at most until one label is left; no rule needs fewer than "
        f"{bound:.2f} on average. Varying answers count as no."
    )


def tree_depths(yes: Tensor) -> list[int]:
    """Questions until each label is alone, always asking what divides those left most evenly.

    Args:
        yes: Known answers, bool, shape (K, Q), no two rows alike.
    """
    found = [0] * len(yes)
    groups = [(list(range(len(yes))), 0)]
    while groups:
        labels, depth = groups.pop()
        if len(labels) == 1:
            found[labels[0]] = depth
            continue
        counts = yes[labels].sum(0)
        question = int((2 * counts - len(labels)).abs().argmin())
        answers = yes[labels, question].tolist()
        groups += [
            ([one for one, truth in zip(labels, answers, strict=True) if truth is side], depth + 1)
            for side in (True, False)
        ]
    return found


if __name__ == "__main__":
    typer.run(main)
