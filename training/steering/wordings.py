"""Bandits in many wordings: stories, names of arms and layouts of the history, in disjoint sets.

A vector that was made and chosen on one wording tells nothing about another. So the built-in
wordings are split before they are combined: no story, no list of names and no layout of the
validation or the held-out set is used to make a vector.
"""

import random
import tomllib
from collections.abc import Callable, Sequence
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import Field, ValidationError, model_validator

from probes.strict import StrictModel
from training.common.errors import TrainingError
from training.common.files import read_json_lines
from training.steering.tasks import AgentStep, Episode, Message

MAX_ARMS = 8
_MEAN, _SPREAD = 100.0, 10.0
"""Of every arm's reward: equal means, as the paper's vectors were made on."""

WordingSet = Literal["train", "validation", "held-out"]
SETS: tuple[WordingSet, ...] = ("train", "validation", "held-out")
Layout = Literal["lines", "numbered", "table", "bullets", "paragraph", "rounds", "chat"]

Pull: TypeAlias = tuple[str, int]
"""An arm and its reward."""


class Wording(StrictModel):
    """How a bandit is worded: one line of a `--wordings` file."""

    opening: str
    """Start of the prompt; `{arms}` is replaced by the names of the arms."""
    feedback: str
    """What follows a choice, with `{reward}`."""
    question: str
    """End of the prompt."""
    answer_prefix: str
    """Start of the agent's answer, up to the name of the arm."""
    arms: tuple[str, ...] = Field(min_length=2, max_length=MAX_ARMS)
    """Names of the arms, of which a task with K arms takes the first K."""
    layout: Layout = "lines"
    """How the history is laid out."""
    set: WordingSet | None = None
    """What the wording is used for; if no line of a file says so, they are split in order."""

    @model_validator(mode="after")
    def _has_places(self) -> "Wording":
        for field, place in (("opening", "{arms}"), ("feedback", "{reward}")):
            if place not in getattr(self, field):
                raise ValueError(f"`{field}` has no {place}")
        if len({arm.strip().casefold() for arm in self.arms} - {""}) < len(self.arms):
            raise ValueError("`arms` must differ beyond their case and not be empty")
        return self

    def step(self, history: Sequence[Pull], arms: tuple[str, ...], episode: int) -> AgentStep:
        """The prompt after some pulls."""
        return AgentStep(
            episode=episode,
            step=len(history) - 1,
            prompt=self._chat(history, arms)
            if self.layout == "chat"
            else self._text(history, arms),
            actions=arms,
            answer_prefix=self.answer_prefix,
            wording=f"{self.answer_prefix} ({', '.join(arms)}; {self.layout})",
        )

    def _text(self, history: Sequence[Pull], arms: tuple[str, ...]) -> str:
        opening = self.opening.replace("{arms}", ", ".join(arms))
        return "\n".join([opening, *_LAYOUTS[self.layout](self, history), self.question])

    def _chat(self, history: Sequence[Pull], arms: tuple[str, ...]) -> tuple[Message, ...]:
        asked = f"{self.opening.replace('{arms}', ', '.join(arms))} {self.question}"
        messages = list[Message]()
        for pull in history:
            messages.append(Message(role="user", content=asked))
            answer = f"{self.answer_prefix} {pull[0]}."
            messages.append(Message(role="assistant", content=answer))
            asked = f"{self.outcome(pull)} {self.question}"
        return (*messages, Message(role="user", content=asked))

    def event(self, pull: Pull) -> str:
        """A choice and what followed."""
        return f"{self.answer_prefix} {pull[0]}. {self.outcome(pull)}"

    def outcome(self, pull: Pull) -> str:
        """What followed a choice."""
        return self.feedback.replace("{reward}", str(pull[1]))


def _numbered(start: str) -> Callable[[Wording, Sequence[Pull]], list[str]]:
    def lines(wording: Wording, history: Sequence[Pull]) -> list[str]:
        events = [
            start.replace("#", str(number)) + wording.event(pull)
            for number, pull in enumerate(history, 1)
        ]
        return ["History:", *events]

    return lines


def _table(_: Wording, history: Sequence[Pull]) -> list[str]:
    rows = [f"{number} | {arm} | {reward}" for number, (arm, reward) in enumerate(history, 1)]
    return ["round | choice | result", *rows]


def _paragraph(wording: Wording, history: Sequence[Pull]) -> list[str]:
    return ["So far: " + " ".join(map(wording.event, history))]


_LAYOUTS: dict[Layout, Callable[[Wording, Sequence[Pull]], list[str]]] = {
    "lines": _numbered(""),
    "numbered": _numbered("#. "),
    "bullets": _numbered("- "),
    "rounds": _numbered("[round #] "),
    "table": _table,
    "paragraph": _paragraph,
}


def bandit_episodes(
    wordings: Wording | Sequence[Wording], arms: int, runs: int, steps: int, seed: int
) -> list[Episode]:
    """Histories of a Gaussian bandit whose arms were pulled at random.

    Args:
        wordings: Their wordings, in turn.
        arms: How many, 2 to 8, or as many as a wording names; all have the same mean reward.
        runs: How many.
        steps: Of each; a first pull, which nobody was asked for, is history to all of them.
        seed: Of pulls and rewards.
    """
    given = [wordings] if isinstance(wordings, Wording) else wordings
    return [
        _episode(given[number % len(given)], arms, number, steps, random.Random(f"{seed}:{number}"))
        for number in range(runs)
    ]


def _episode(
    wording: Wording, arms: int, number: int, steps: int, chance: random.Random
) -> Episode:
    names, history, episode = wording.arms[:arms], list[Pull](), list[AgentStep]()
    for _ in range(steps):
        reward = round(chance.gauss(_MEAN, _SPREAD))
        history.append((chance.choice(names), reward))
        episode.append(wording.step(history, names, number))
    return episode


def load_wordings(path: Path) -> dict[WordingSet, list[Wording]]:
    """Read a `--wordings` file and split it.

    Raises:
        TrainingError: The file cannot be read, a line is not a wording, or a set is empty.
    """
    found = list[Wording]()
    for place, record in read_json_lines(path):
        try:
            found.append(Wording.model_validate(record))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "wording"
            raise TrainingError(f"{place}: {field}: {first['msg']}") from error
    named = [wording.set for wording in found]
    if None in named and any(named):
        raise TrainingError(f"{path}: give every wording a `set`, or none")
    sets = split_in_order(len(found)) if None in named else named
    parts = {
        name: [w for w, mine in zip(found, sets, strict=True) if mine == name] for name in SETS
    }
    if empty := [name for name, part in parts.items() if not part]:
        raise TrainingError(f"{path}: has no wording of the set `{empty[0]}`")
    return parts


def split_in_order(number: int) -> list[WordingSet]:
    """Sets of wordings that name none: of every four, two to train, then one of each other."""
    order: tuple[WordingSet, ...] = ("train", "validation", "held-out", "train")
    return [order[place % len(order)] for place in range(number)]


def built_in_wordings() -> dict[WordingSet, list[Wording]]:
    """Every story with every list of names and every layout of its set, mixed."""
    text = files("training.steering").joinpath("wordings.toml").read_text("utf-8")
    found = dict[WordingSet, list[Wording]]()
    for name in SETS:
        part = tomllib.loads(text)[name]
        found[name] = [
            Wording(**story, arms=tuple(arms), layout=layout, set=name)
            for story, arms, layout in product(part["stories"], part["arms"], part["layouts"])
        ]
        random.Random(name).shuffle(found[name])
    return found


_LETTERS, _NUMBERS = tuple("ABCDEFGH"), tuple("12345678")
_COLORS = ("red", "blue", "green", "gold", "black", "white", "pink", "brown")
_BEASTS = ("lion", "tiger", "dragon", "eagle", "wolf", "bear", "snake", "horse")
_FRUITS = ("apple", "banana", "cherry", "mango", "peach", "lemon", "grape", "melon")
_FRUIT = {
    "opening": "Choose one fruit among {arms}. Each choice gives you a reward. Your goal is to "
    "have the largest total reward.",
    "feedback": "Reward: {reward}.",
    "question": "Which fruit do you choose next?",
    "answer_prefix": "I choose fruit",
}
_SLOT = {
    "opening": "Play one slot machine among {arms}. Each play wins you some coins. Your goal is to "
    "win the most coins in total.",
    "feedback": "Coins: {reward}.",
    "question": "Which slot machine do you play next?",
    "answer_prefix": "I play slot machine",
}
_BUTTON = {
    "opening": "Press one button among {arms}. Each press gives you points. Your goal is to get "
    "the most points in total.",
    "feedback": "Points: {reward}.",
    "question": "Which button do you press next?",
    "answer_prefix": "I press button",
}
BANDITS = {
    name: Wording(**story, arms=arms)
    for name, story, arms in (
        ("fruits", _FRUIT, _FRUITS),
        ("more-fruits", _FRUIT, _FRUITS[::-1]),
        ("slots", _SLOT, _BEASTS),
        ("colored-slots", _SLOT, _COLORS),
        ("lettered-slots", _SLOT, _LETTERS),
        ("numbered-slots", _SLOT, _NUMBERS),
        ("buttons", _BUTTON, _BEASTS),
        ("colored-buttons", _BUTTON, _COLORS),
        ("lettered-buttons", _BUTTON, _LETTERS),
        ("numbered-buttons", _BUTTON, _NUMBERS),
    )
}
"""Bandits of a single wording. None is among the built-in wordings."""
