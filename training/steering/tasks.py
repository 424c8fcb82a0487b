"""Episodes of an agent that chooses among actions, and logs of them."""

from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.common.errors import TrainingError
from training.common.files import read_json_lines


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
    wording: str = ""
    """Name of the prompt's wording; episodes of one wording are in one of the sets."""

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
