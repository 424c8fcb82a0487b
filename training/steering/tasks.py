"""Episodes of an agent that chooses among actions: synthetic bandits, or logs of the user."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.common.errors import TrainingError
from training.common.files import read_json_lines

MAX_ARMS = 8
_MEAN, _SPREAD = 100.0, 10.0
"""Of every arm's reward: equal means, as the paper's vectors were made on."""


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str
    content: str


class AgentStep(BaseModel):
    """Prompt and actions of one step of an episode."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    episode: int | str
    step: int
    prompt: str | tuple[Message, ...]
    """One user message, or a whole chat that ends before the agent's answer."""
    actions: tuple[str, ...] = Field(min_length=2)
    """The actions, as an answer names them."""
    answer_prefix: str = ""
    """Start of the agent's answer, up to the word before the action."""

    @property
    def messages(self) -> list[dict[str, str]]:
        """The prompt as a chat."""
        if isinstance(self.prompt, str):
            return [{"role": "user", "content": self.prompt}]
        return [message.model_dump() for message in self.prompt]


Episode: TypeAlias = list[AgentStep]
"""The steps of one episode, in order."""


def neutral_step(prompt: str) -> AgentStep:
    """A prompt without actions, as a step with placeholder actions."""
    return AgentStep(episode=0, step=0, prompt=prompt, actions=("yes", "no"))


class Story(NamedTuple):
    """The wording of a bandit."""

    opening: str
    """With `{arms}`."""
    event: str
    """One line of history, with `{arm}` and `{reward}`."""
    question: str
    answer_prefix: str


class Bandit(NamedTuple):
    """A built-in task: a story and the names of its arms."""

    story: Story
    arms: Sequence[str]
    """Eight names, of which a task with K arms takes the first K."""


_FRUIT_STORY = Story(
    "Choose one fruit among {arms}. Each choice gives you a reward. Your goal is to have the "
    "largest total reward.",
    "I choose fruit {arm}. Reward: {reward}.",
    "Which fruit do you choose next?",
    "I choose fruit",
)
_SLOT_STORY = Story(
    "Play one slot machine among {arms}. Each play wins you some coins. Your goal is to win the "
    "most coins in total.",
    "I play slot machine {arm}. Coins: {reward}.",
    "Which slot machine do you play next?",
    "I play slot machine",
)
_BUTTON_STORY = Story(
    "Press one button among {arms}. Each press gives you points. Your goal is to get the most "
    "points in total.",
    "I press button {arm}. Points: {reward}.",
    "Which button do you press next?",
    "I press button",
)
_LETTERS, _NUMBERS = tuple("ABCDEFGH"), tuple("12345678")
_COLORS = ("red", "blue", "green", "gold", "black", "white", "pink", "brown")
_BEASTS = ("lion", "tiger", "dragon", "eagle", "wolf", "bear", "snake", "horse")
_FRUITS = ("apple", "banana", "cherry", "mango", "peach", "lemon", "grape", "melon")

BANDITS = {
    "fruits": Bandit(_FRUIT_STORY, _FRUITS),
    "more-fruits": Bandit(_FRUIT_STORY, _FRUITS[::-1]),
    "slots": Bandit(_SLOT_STORY, _BEASTS),
    "colored-slots": Bandit(_SLOT_STORY, _COLORS),
    "lettered-slots": Bandit(_SLOT_STORY, _LETTERS),
    "numbered-slots": Bandit(_SLOT_STORY, _NUMBERS),
    "buttons": Bandit(_BUTTON_STORY, _BEASTS),
    "colored-buttons": Bandit(_BUTTON_STORY, _COLORS),
    "lettered-buttons": Bandit(_BUTTON_STORY, _LETTERS),
    "numbered-buttons": Bandit(_BUTTON_STORY, _NUMBERS),
}


def bandit_episodes(bandit: Bandit, arms: int, runs: int, steps: int, seed: int) -> list[Episode]:
    """Histories of a Gaussian bandit whose arms were pulled at random.

    Args:
        bandit: Story and names.
        arms: How many, 2 to 8; all have the same mean reward.
        runs: How many.
        steps: Of each; a first pull, which nobody was asked for, is history to all of them.
        seed: Of pulls and rewards.
    """
    names = tuple(bandit.arms[:arms])
    return [
        _run(bandit.story, names, number, steps, random.Random(f"{seed}:{number}"))
        for number in range(runs)
    ]


def _run(
    story: Story, arms: tuple[str, ...], number: int, steps: int, chance: random.Random
) -> Episode:
    opening, history, run = (
        story.opening.format(arms=", ".join(arms)),
        list[str](),
        list[AgentStep](),
    )
    for step in range(steps):
        reward = round(chance.gauss(_MEAN, _SPREAD))
        history.append(story.event.format(arm=chance.choice(arms), reward=reward))
        prompt = "\n".join([opening, "History:", *history, story.question])
        run.append(
            AgentStep(
                episode=number,
                step=step,
                prompt=prompt,
                actions=arms,
                answer_prefix=story.answer_prefix,
            )
        )
    return run


_RENAMED = {"run": "episode", "begin": "answer_prefix"}
"""Fields of a log under their old names."""


def load_episodes(path: Path) -> list[Episode]:
    """Read an agent's log from JSONL: `episode`, `step`, `prompt`, `actions`, `answer_prefix`.

    Raises:
        TrainingError: The file cannot be read or a line is not a step; names the line.
    """
    episodes = dict[int | str, dict[int, AgentStep]]()
    for place, record in read_json_lines(path):
        step = _step(record, place)
        steps = episodes.setdefault(step.episode, {})
        if step.step in steps:
            raise TrainingError(f"{place}: episode {step.episode} already has a step {step.step}")
        steps[step.step] = step
    if not episodes:
        raise TrainingError(f"{path}: contains no steps")
    return [[steps[number] for number in sorted(steps)] for steps in episodes.values()]


def _step(record: dict[str, Any], place: str) -> AgentStep:
    for old, new in _RENAMED.items():
        if old in record and new not in record:
            raise TrainingError(f"{place}: the field `{old}` is now called `{new}`")
    try:
        step = AgentStep.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise TrainingError(
            f"{place}: {field}: {first['msg']}; a step has episode, step, prompt and two or more "
            "actions"
        ) from error
    words = {action.strip().casefold() for action in step.actions}
    if len(words) < len(step.actions) or "" in words:
        raise TrainingError(f"{place}: actions must differ beyond their case and not be empty")
    return step
